"""Scoring, feature and generation stages on real files.

What they give, and what a broken clip costs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.backbone import Backbone
from model.bridge_file import BridgeFacts, save_bridge
from model.foley import build_bridge
from model.presets.preset import Preset, load_preset
from model.video_encoder import VideoEncoder
from pipeline.curation.stage_graph import StageGraph
from pipeline.evaluation.conditions import (
    Generate,
    GenerateSettings,
    clip_seed,
    wav_audio,
    wav_bytes,
)
from pipeline.features.audio_latents import CHUNK
from pipeline.features.video_tokens import VideoTokens, tokens_from_bytes
from pipeline.generation.generator import SoundGenerator
from pipeline.media import Framing, probe, read_frames
from pipeline.procedural import render_audio, render_frames, sample_clip, write_clip
from pipeline.stages.stage import Clip, Failed, Outcome, Passed, Rejected, Stage

PRESET = load_preset("toy")
SCORING = {stage.name: stage for stage in StageGraph(PRESET).scoring}
FEATURES = {stage.name: stage for stage in StageGraph(PRESET).features}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Two good clips of different lengths around a file that is cut off."""
    folder = tmp_path_factory.mktemp("clips")
    rows: list[Clip] = []
    for seed, seconds in ((1, 2.0), (2, 3.0), (3, 1.5)):
        clip = sample_clip(seed, seconds)
        path = folder / f"{seed}.mp4"
        write_clip(clip, path)
        facts = {
            **vars(probe(path)),
            "clip_id": str(seed),
            "path": str(path),
            "prompt": clip.prompt,
        }
        rows.append({**facts, "truth": json.dumps(clip.truth())})
    broken = Path(rows[1]["path"])
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    return rows


def run(stage: Stage, clips: Sequence[Clip]) -> list[Outcome]:
    stage.setup()
    return stage.process(clips)


def columns(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome, Passed), outcome
    return dict(outcome.columns)


@pytest.mark.parametrize("name", ["imagebind", "audiobox", "video_tokens", "audio_latents"])
def test_a_broken_clip_fails_alone(clips: list[Clip], name: str) -> None:
    stage = (SCORING | FEATURES)[name]
    first, broken, last = run(stage, clips)
    assert isinstance(broken, Failed)
    assert "2.mp4" in broken.message
    assert set(columns(first)) == set(columns(last)) == set(stage.schema.names)
    alone = columns(run(stage, [clips[0]])[0])
    for name, value in columns(first).items():
        assert alone[name] == (
            pytest.approx(value, abs=1e-5) if isinstance(value, float) else value
        )


def test_video_tokens_follow_the_picture_and_its_length(clips: list[Clip]) -> None:
    found = columns(run(FEATURES["video_tokens"], clips)[0])
    tokens = np.frombuffer(found["video_tokens"], np.float16).reshape(-1, 1, PRESET.video.width)
    assert len(tokens) == found["n_video_tokens"] == 16
    rendered = VideoEncoder.from_pretrained(PRESET).encode(render_frames(sample_clip(1, 2.0)))
    similarity = torch.nn.functional.cosine_similarity(
        torch.from_numpy(tokens.astype(np.float32)), rendered, dim=-1
    )
    assert float(similarity.min()) > 0.99  # the codec changes little


def test_pictures_are_scaled_before_the_crop(clips: list[Clip]) -> None:
    video = PRESET.video.model_copy(update={"short_side": 96})
    stage = VideoTokens(PRESET.model_copy(update={"video": video}))
    frames = stage._reading(clips[0])()
    expected = read_frames(Path(clips[0]["path"]), np.arange(32) / 16, Framing(96, video.crop))
    np.testing.assert_array_equal(frames, expected)


def test_latents_are_those_of_the_sound(clips: list[Clip]) -> None:
    found = columns(run(FEATURES["audio_latents"], clips)[0])
    mean = np.frombuffer(found["latent_mean"], np.float16).reshape(PRESET.latent_channels, -1)
    assert mean.shape[1] == found["n_latents"] == 50
    direct = Backbone.from_pretrained(PRESET).codec.encode(
        torch.from_numpy(render_audio(sample_clip(1, 2.0)))[None, None]
    )
    apart = np.abs(mean - direct[0][0].numpy()).mean() / np.abs(mean).mean()
    assert apart < 0.5  # aac changes the sound a little, the phase of its noise a lot


def test_clips_are_used_up_to_the_presets_limit(clips: list[Clip]) -> None:
    short = Preset.model_validate(PRESET.model_dump() | {"max_seconds": 1.0})
    for stage in StageGraph(short).features[:2]:
        found = columns(run(stage, clips[:1])[0])
        assert found.get("n_video_tokens", 8) == 8
        assert found.get("n_latents", 25) == 25
        assert found.get("video_seconds", found.get("audio_seconds")) == 1.0


def test_latents_are_as_many_as_their_seconds_say(clips: list[Clip]) -> None:
    """Also where a header promises half a second that is not there."""
    found = columns(run(FEATURES["audio_latents"], [{**clips[0], "duration": 2.5}])[0])
    assert found["audio_seconds"] == 2.5
    assert found["n_latents"] == math.ceil(2.5 * PRESET.latent_rate)


def test_text_tokens_have_no_padding(clips: list[Clip]) -> None:
    for clip, outcome in zip(clips, run(FEATURES["text_embeddings"], clips), strict=True):
        found = columns(outcome)
        assert found["n_text_tokens"] == len(clip["prompt"].encode()) + 1  # bytes and an end
        assert len(found["text_tokens"]) == found["n_text_tokens"] * PRESET.text_width * 2
    many = [{"clip_id": str(n), "prompt": "x" * n} for n in range(CHUNK + 3)]
    outcomes = run(FEATURES["text_embeddings"], many)
    assert [columns(one)["n_text_tokens"] for one in outcomes] == [n + 1 for n in range(CHUNK + 3)]


SHORT = PRESET.model_copy(update={"sample": PRESET.sample.model_copy(update={"steps": 2})})


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained bridge with an output that is not zero."""
    backbone = Backbone.from_pretrained(PRESET)
    torch.manual_seed(0)
    found = build_bridge(backbone)
    for layer in found.blocks:
        torch.nn.init.normal_(layer.to_out.weight, std=0.2)
    path = tmp_path_factory.mktemp("bridge") / "bridge.safetensors"
    save_bridge(path, found, BridgeFacts.of(PRESET, "v", 4.0))
    return path


def test_training_and_generation_see_the_same_tokens_of_a_clip(
    bridge: Path, tmp_path: Path
) -> None:
    """Of a segment and a part of another, which generation reads piece by piece."""
    path = tmp_path / "clip.mp4"
    write_clip(sample_clip(4, 5.3), path)
    facts = {**vars(probe(path)), "clip_id": "4", "path": str(path)}
    cached = columns(run(FEATURES["video_tokens"], [facts])[0])["video_tokens"]
    found = SoundGenerator(PRESET, bridge, "cpu").tokens(path, float(facts["duration"]))
    assert len(found) == 43
    assert torch.equal(found.half(), tokens_from_bytes(PRESET, cached).half())


def test_conditions_differ_in_nothing_but_themselves(clips: list[Clip], bridge: Path) -> None:
    good = [clips[0], clips[2]]
    watched = [
        {**clip, **columns(row)}
        for clip, row in zip(good, run(FEATURES["video_tokens"], good), strict=True)
    ]
    rows = {clip["clip_id"]: {"video_tokens": clip["video_tokens"]} for clip in watched}

    def sounds(condition: Any, partners: tuple[tuple[str, str], ...] = ()) -> list[dict[str, Any]]:
        settings = GenerateSettings("id", condition, 0, {}, {}, ("cpu", "float32"), partners)
        return [
            columns(row) for row in run(Generate(SHORT, bridge, settings, lambda _: rows), watched)
        ]

    own = sounds("true")
    assert sounds("other", (("1", "1"), ("3", "3"))) == own
    for other in (sounds("other", (("1", "3"), ("3", "1"))), sounds("none"), sounds("swap")):
        assert all(a["sound"] != b["sound"] for a, b in zip(own, other, strict=True))
    assert sounds("swap")[0]["sound_prompt"] != clips[0]["prompt"]
    samples, rate = wav_audio(own[0]["sound"])
    assert samples.shape == (1, 2 * PRESET.sample_rate)
    assert rate == PRESET.sample_rate


def test_a_prompt_without_a_known_material_cannot_be_swapped(
    clips: list[Clip], bridge: Path
) -> None:
    settings = GenerateSettings("id", "swap", 0, {}, {}, ("cpu", "float32"), ())
    tokens = columns(run(FEATURES["video_tokens"], clips[:1])[0])
    mine = {**clips[0], **tokens}
    found = run(
        Generate(SHORT, bridge, settings), [{**mine, "truth": None}, mine, {**mine, "truth": "{}"}]
    )
    assert [type(outcome) for outcome in found] == [Rejected, Passed, Rejected]


def test_seeds_differ_by_clip_and_by_seed() -> None:
    assert len({clip_seed(seed, clip) for seed in range(20) for clip in "abcdefgh"}) == 160


def test_wav_bytes_keep_samples_to_16_bits() -> None:
    audio = np.random.default_rng(0).uniform(-1, 1, (2, 1000)).astype(np.float32)
    back, rate = wav_audio(wav_bytes(audio, 44100))
    assert rate == 44100
    np.testing.assert_allclose(back, audio, atol=1 / 32767)
