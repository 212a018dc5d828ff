"""Sound from a backbone with a bridge.

Lengths, seeds, batches, prompts, and agreement with the library's sampler.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_audio_tools.inference.generation import generate_diffusion_cond
from torch import Tensor

from model.backbone import Backbone
from model.bridge import Bridge
from model.bridge_file import BridgeFacts, read_bridge_facts, save_bridge
from model.foley import FoleyControl, SoundRequest
from model.presets.preset import ModelError, Preset
from model.presets.settings import WindowSettings
from model.sampling.samplers import Start, clip_noise, sample_velocity_model
from model.weights.load import WeightsError, read_weights, save_weights

STEPS = 3


def made(
    foley: FoleyControl, *requests: SoundRequest, steps: int = STEPS, **sampling: Any
) -> list[np.ndarray]:
    settings = foley.preset.sample.model_copy(update={"steps": steps, **sampling})
    return foley.generate(requests, settings)


@pytest.fixture
def foley(backbone: Backbone, bridge: Bridge) -> FoleyControl:
    return FoleyControl(backbone, bridge)


def video(seconds: float, seed: int = 0) -> Tensor:
    return torch.randn(round(seconds * 8), 1, 96, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seconds", [0.3, 1.0, 3.97, 4.0, 4.01, 12.0, 17.3])
def test_sound_is_as_long_as_asked_to_the_sample(
    foley: FoleyControl, preset: Preset, seconds: float
) -> None:
    sound = made(foley, SoundRequest("a ball", seconds, 0, video(seconds)))[0]
    assert sound.shape == (preset.audio_channels, round(seconds * preset.sample_rate))
    assert np.isfinite(sound).all()


def test_no_length_at_all_is_refused(foley: FoleyControl) -> None:
    with pytest.raises(ModelError, match="longer than 0 s"):
        made(foley, SoundRequest("a ball", 0.0, 0, video(1)))


def test_a_prompt_is_encoded_once(foley: FoleyControl, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    encode = foley.backbone.encode_text

    def counted(prompts: list[str]) -> list[Tensor]:
        asked.extend(prompts)
        return encode(prompts)

    monkeypatch.setattr(foley.backbone, "encode_text", counted)
    for seed in range(2):
        prompts = ("metal", "wood", "metal")
        made(foley, *(SoundRequest(prompt, 2.0, seed, video(2)) for prompt in prompts), steps=1)
    assert sorted(asked) == ["metal", "wood"]


def test_a_sound_depends_on_its_own_arguments_and_not_on_its_batch(foley: FoleyControl) -> None:
    requests = [
        SoundRequest("metal", 2.0, 5, video(2, 1)),
        SoundRequest("wood", 2.0, 6, None),
        SoundRequest("glass", 3.0, 7, video(3, 2)),
        SoundRequest("rubber", 2.0, 8, video(2, 3)),
    ]
    alone = [made(foley, request)[0] for request in requests]
    for a, b in zip(made(foley, *requests), alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_threads_that_share_a_model_do_not_mix_their_videos(foley: FoleyControl) -> None:
    def sound(i: int) -> np.ndarray:
        return made(foley, SoundRequest("metal", 2.0, 0, video(2, i)))[0]

    one_by_one = [sound(i) for i in range(6)]
    with ThreadPoolExecutor(3) as pool:
        at_once = list(pool.map(sound, range(6)))
    for a, b in zip(one_by_one, at_once, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("change", ["seed", "prompt", "video", "negative", "cfg", "no video"])
def test_every_argument_counts(foley: FoleyControl, change: str) -> None:
    request = SoundRequest("metal", 2.0, 1, video(2))
    changes: dict[str, dict[str, Any]] = {
        "seed": {"seed": 2},
        "prompt": {"prompt": "wood"},
        "video": {"video": video(2, 1)},
        "negative": {"negative_prompt": "noise"},
        "no video": {"video": None},
    }
    sampling: dict[str, Any] = {"cfg": 1.5} if change == "cfg" else {}
    (base,), (again,) = made(foley, request), made(foley, request)
    (changed,) = made(foley, replace(request, **changes.get(change, {})), **sampling)
    assert not np.allclose(base, changed, atol=1e-4)
    assert np.array_equal(base, again)


def test_ddim_agrees_with_the_librarys_own_generation(backbone: Backbone, preset: Preset) -> None:
    text = backbone.encode_text(["a ball on wood"])  # reads T5
    with redirect_stdout(io.StringIO()):
        generate: Any = generate_diffusion_cond  # its annotations are not what it takes
        theirs = generate(
            backbone.model,
            steps=STEPS,
            cfg_scale=3.0,
            conditioning=[{"prompt": "a ball on wood", "seconds_total": 2.0}],
            sample_size=2 * preset.sample_rate,
            seed=4,
            device="cpu",
            sampler_type="v-ddim",
            sigma_max=1.0,
            return_latents=True,
        )
    torch.manual_seed(4)
    noise = torch.randn(1, preset.latent_channels, 50)
    inputs = backbone.inputs(backbone.conditioning(text, [2.0]))
    settings = preset.sample.model_copy(update={"steps": STEPS, "sampler": "v-ddim"})
    model = partial(backbone, cfg_scale=3.0, **inputs)
    ours = sample_velocity_model(model, Start(noise, [4]), settings)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_sde_noise_is_drawn_for_each_clip(backbone: Backbone, preset: Preset) -> None:
    settings = preset.sample.model_copy(
        update={"steps": STEPS, "sampler": "dpmpp-3m-sde", "sigma_max": 50.0}
    )

    def sample(seeds: list[int]) -> Tensor:
        text = backbone.encode_text(["wood"] * len(seeds))
        inputs = backbone.inputs(backbone.conditioning(text, [2.0] * len(seeds)))
        steps: list[int] = []
        noise = clip_noise(seeds, preset.latent_channels, 50)
        with torch.no_grad():
            latents = sample_velocity_model(
                partial(backbone, cfg_scale=settings.cfg, **inputs),
                Start(noise, seeds),
                settings,
                lambda done, _: steps.append(done),
            )
        assert steps == list(range(1, STEPS + 1))
        return latents

    both, alone = sample([1, 2]), sample([2])
    torch.testing.assert_close(both[1:], alone, atol=1e-3, rtol=1e-3)
    assert (both[:1] - alone).abs().mean() > 0.05  # another seed, other noise


def test_a_bridge_file_holds_the_bridge_alone_and_fits_again(
    bridge: Bridge, preset: Preset, tmp_path: Path
) -> None:
    path = tmp_path / "bridge.safetensors"
    save_bridge(path, bridge, BridgeFacts.of(preset, "v", 4.0))
    assert set(read_weights(path)) == set(bridge.state_dict())
    assert read_bridge_facts(path) == BridgeFacts.of(preset, "v", 4.0)
    loaded = FoleyControl.from_pretrained(preset, path)
    assert all(
        torch.equal(a, b)
        for a, b in zip(loaded.bridge.parameters(), bridge.parameters(), strict=True)
    )


def trained_on(preset: Preset, bridge: Bridge, path: Path, **video: Any) -> Path:
    """A bridge file that says it was trained on other tokens, and on clips of 3 s."""
    facts = BridgeFacts.of(preset, "v", 3.0)
    save_bridge(
        path, bridge, facts.model_copy(update={"video": facts.video.model_copy(update=video)})
    )
    return path


@pytest.mark.parametrize(
    ("name", "value"), [("pooling", "grid2"), ("segment_frames", 32), ("short_side", 80)]
)
def test_a_bridge_of_other_tokens_is_refused_or_obeyed(
    bridge: Bridge, preset: Preset, tmp_path: Path, name: str, value: Any
) -> None:
    path = trained_on(preset, bridge, tmp_path / "bridge.safetensors", **{name: value})
    with pytest.raises(WeightsError, match=f"video.{name} = {value}"):
        FoleyControl.from_pretrained(preset, path)
    fitted = read_bridge_facts(path).apply(preset, path)
    assert getattr(fitted.video, name) == value
    FoleyControl.from_pretrained(fitted, path)


def test_a_bridge_of_another_token_rate_is_refused(
    bridge: Bridge, preset: Preset, tmp_path: Path
) -> None:
    path = tmp_path / "bridge.safetensors"
    facts = BridgeFacts.of(preset, "v", 3.0).model_copy(update={"latent_rate": 21.5})
    save_bridge(path, bridge, facts)
    with pytest.raises(WeightsError, match=r"21\.5 latents a second"):
        FoleyControl.from_pretrained(preset, path)


def test_windows_are_as_long_as_the_training_clips_unless_a_preset_says_otherwise(
    bridge: Bridge, preset: Preset, tmp_path: Path
) -> None:
    path = trained_on(preset, bridge, tmp_path / "bridge.safetensors")
    assert FoleyControl.from_pretrained(preset, path).preset.window.seconds == 3.0
    own = preset.model_copy(update={"window": WindowSettings(seconds=5.0, canvas_seconds=9.0)})
    fitted = FoleyControl.from_pretrained(own, path).preset.window
    assert (fitted.seconds, fitted.canvas_seconds) == (5.0, None)  # it was trained without one
    facts = BridgeFacts.of(own, "v", 3.0)
    assert facts.apply(preset, path).window.canvas_seconds == 9.0


@pytest.mark.parametrize(
    "broken", ["missing", "extra", "shape", "other backbone", "not a bridge", "garbage", "absent"]
)
def test_a_bridge_that_does_not_fit_is_named(
    bridge: Bridge, preset: Preset, tmp_path: Path, broken: str
) -> None:
    path = tmp_path / "bridge.safetensors"
    facts = BridgeFacts.of(preset, "v", 4.0)
    if broken == "other backbone":
        facts = facts.model_copy(update={"backbone": "another"})
    save_bridge(path, bridge, facts)
    weights, metadata = read_weights(path), {"bridge": facts.model_dump_json()}
    if broken == "missing":
        del weights["layers.2.norm.weight"]
    if broken == "extra":
        weights["layers.9.norm.weight"] = torch.zeros(1)
    if broken == "shape":
        weights["layers.2.norm.weight"] = torch.zeros(7)
    if broken in {"missing", "extra", "shape"}:
        save_weights(path, weights, metadata=metadata)
    if broken == "not a bridge":
        save_weights(path, weights)
    if broken == "garbage":
        path.write_bytes(b"garbage" * 9)
    if broken == "absent":
        path.unlink()
    named = {
        "missing": "missing layers.2.norm.weight",
        "extra": "unexpected layers.9.norm.weight",
        "shape": r"layers.2.norm.weight has shape \(7,\)",
        "other backbone": "trained on backbone another",
        "not a bridge": "not a bridge checkpoint",
        "garbage": "cannot read",
        "absent": "no weights at",
    }
    with pytest.raises(WeightsError, match=named[broken]):
        FoleyControl.from_pretrained(preset, path)
