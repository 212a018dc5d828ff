"""The evaluation networks take the published checkpoints.

Key layouts, sizes, strictness, and what comes out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.hub.check import count
from model.networks.base import EvaluationNetwork
from model.networks.motionformer import DividedAttention
from model.networks.panns import Cnn14
from model.networks.synchformer import Synchformer
from model.networks.vggish import VGGish
from model.presets.preset import Preset, load_preset
from model.weights.load import WeightsError, save_weights
from tests.model.networks.layouts import PUBLISHED, SMALL, random_checkpoint

TOY = load_preset("toy")
KINDS = pytest.mark.parametrize("kind", list(PUBLISHED), ids=lambda kind: kind.__name__)


@KINDS
def test_the_published_layout_is_ours(kind: type[EvaluationNetwork]) -> None:
    layout, parameters = PUBLISHED[kind]
    with torch.device("meta"):
        weights = {key: torch.empty(shape) for key, shape in layout.items()}
    network = kind()
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in kind.published(weights).items()} == own
    assert count(network) == parameters


@KINDS
@pytest.mark.parametrize("wrapped", [None, "model", "state_dict"])
def test_a_random_checkpoint_in_the_published_layout_loads_strictly(
    kind: type[EvaluationNetwork], wrapped: str | None, tmp_path: Path
) -> None:
    checkpoint = random_checkpoint(SMALL[kind])
    # training states published beside the weights hold NumPy arrays
    content: Any = (
        checkpoint
        if wrapped is None
        else {wrapped: checkpoint, "sampler": {"indexes": np.arange(5), "at": 3}}
    )
    (tmp_path / "preset.toml").write_text(
        f'base = "toy"\n[models.{kind.name}]\npath = "weights.pth"\n'
    )
    torch.save(content, tmp_path / "weights.pth")
    preset = load_preset(str(tmp_path))
    network = kind.from_pretrained(preset)
    for key, value in kind.published(checkpoint).items():
        torch.testing.assert_close(network.state_dict()[key].cpu(), value, msg=key)
    assert len(kind.revision(preset)) == 16


@KINDS
def test_a_key_too_few_is_named(kind: type[EvaluationNetwork], tmp_path: Path) -> None:
    checkpoint = random_checkpoint(SMALL[kind])
    gone = min(checkpoint)
    del checkpoint[gone]
    save_weights(tmp_path / f"{kind.name}.safetensors", checkpoint)
    with pytest.raises(WeightsError, match="missing"):
        kind.from_pretrained(load_preset("toy", tmp_path))
    nowhere = load_preset("toy", tmp_path / "nowhere")
    for asked in (kind.from_pretrained, kind.revision):
        with pytest.raises(
            WeightsError,
            match=f"no weights at .*{kind.name}.safetensors: foley models fetch brings",
        ):
            asked(nowhere)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "preset.toml").write_text('base = "toy"\n[models.panns]\npath = "weights.pth"\n')
    torch.save({"model": Evil()}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="cannot read weights"):
        Cnn14.from_pretrained(load_preset(str(tmp_path)))
    assert not (tmp_path / "ran").exists()


def small(kind: type[EvaluationNetwork]) -> EvaluationNetwork:
    network = kind(**TOY.evaluation[kind.name])
    network.load_state_dict(kind.published(random_checkpoint(SMALL[kind])))
    return network.eval().requires_grad_(False)


@KINDS
def test_what_is_heard_of_a_sound_does_not_depend_on_its_batch(
    kind: type[EvaluationNetwork],
) -> None:
    network = small(kind)
    rng = np.random.default_rng(0)
    seconds = (4.0, 1.3, 4.0, 0.0)  # the last: an empty sound is silence, and no crash
    sounds = [
        rng.standard_normal(round(s * network.sample_rate)).astype(np.float32) * 0.1
        for s in seconds
    ]
    together = network.hear(sounds)
    for sound, found in zip(sounds, together, strict=True):
        alone = network.hear([sound])[0]
        np.testing.assert_allclose(found.features, alone.features, atol=1e-4)
        assert np.isfinite(found.features).all()
        if found.logits is not None:
            assert alone.logits is not None
            np.testing.assert_allclose(found.logits, alone.logits, atol=1e-4)


def test_features_are_of_the_kinds_that_the_metrics_take() -> None:
    sound = np.random.default_rng(0).standard_normal(64000).astype(np.float32)
    panns = small(Cnn14).hear([sound])[0]
    assert panns.features.shape == (1, 64)
    assert (panns.features >= 0).all()  # after its ReLU
    vggish = small(VGGish).hear([sound])[0]
    assert vggish.features.shape == (4, 32)
    assert (vggish.features < 0).any()  # before the ReLU that the published module ends with
    assert vggish.logits is None


def test_divided_attention_is_attention_within_a_time_or_a_place_and_the_class_token() -> None:
    torch.manual_seed(0)
    attention, times, places, width = DividedAttention(16, 2), 3, 4, 16
    x = torch.randn(1, 1 + times * places, width)
    q, k, v = attention.qkv(x)[0].chunk(3, -1)

    def attend(query: int, others: list[int]) -> Tensor:
        heads: list[Tensor] = []
        for h in range(2):
            part = slice(8 * h, 8 * h + 8)
            weight = (k[others, part] @ q[query, part] / 8**0.5).softmax(0)
            heads.append(weight @ v[others, part])
        return torch.cat(heads)

    for over_time in (True, False):
        expected = [attend(0, list(range(1 + times * places)))]
        for t in range(times):
            for p in range(places):
                mates = (
                    [1 + u * places + p for u in range(times)]
                    if over_time
                    else [1 + t * places + o for o in range(places)]
                )
                expected.append(attend(1 + t * places + p, [0, *mates]))
        found = attention(x, times, over_time=over_time)[0]
        torch.testing.assert_close(
            found, attention.proj(torch.stack(expected)), atol=1e-5, rtol=1e-4
        )


def test_synchformer_compares_the_first_and_the_last_window() -> None:
    network = small(Synchformer)
    assert isinstance(network, Synchformer)
    rng = np.random.default_rng(0)
    video = network.watch([rng.integers(0, 256, (132, 64, 64, 3), np.uint8)])[
        0
    ].features  # 15 segments
    audio = network.hear([rng.standard_normal(10240 + 14 * 5120).astype(np.float32)])[0].features
    assert video.shape == (15 * 8, 64)
    assert audio.shape == (15 * 6, 64)
    both = network.offset_logits(video[None], audio[None])
    assert both.shape == (1, 2, 21)
    with torch.inference_mode():
        v, a = torch.from_numpy(video)[None], torch.from_numpy(audio)[None]
        np.testing.assert_allclose(
            both[0, 0], network.compare(v[:, : 11 * 8], a[:, : 11 * 6])[0], atol=1e-5
        )
        np.testing.assert_allclose(
            both[0, 1], network.compare(v[:, 4 * 8 :], a[:, 4 * 6 :])[0], atol=1e-5
        )
    with pytest.raises(ValueError, match="11 segments are needed"):
        network.offset_logits(video[None, : 10 * 8], audio[None])


def test_modules_that_only_the_published_file_needs_take_part_in_nothing() -> None:
    network = small(Synchformer)
    assert isinstance(network, Synchformer)
    frames = np.random.default_rng(0).integers(0, 256, (96, 64, 64, 3), np.uint8)
    before = network.watch([frames])[0].features
    nn.init.zeros_(next(network.vfeat_extractor.patch_embed.parameters()))
    np.testing.assert_array_equal(network.watch([frames])[0].features, before)


def test_preset_names_are_those_of_the_networks() -> None:
    for preset in (TOY, load_preset("paper")):
        assert set(preset.evaluation) <= {kind.name for kind in PUBLISHED} | {"imagebind"}
        assert isinstance(preset, Preset)
