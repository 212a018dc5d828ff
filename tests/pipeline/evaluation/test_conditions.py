"""What a held-out clip's sound is made from under each condition, and how it is judged."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from model.presets.preset import load_preset
from pipeline.evaluation.conditions import (
    Generate,
    GenerateSettings,
    clip_seed,
    onsets_text,
    other_videos,
    wav_audio,
    wav_bytes,
)
from pipeline.evaluation.held_out import material_accuracy, materials_of, score_condition
from warehouse import FoleyError

PRESET = load_preset("toy")
TOKENS = (2, PRESET.video.tokens_per_frame, PRESET.video.width)
SETTINGS = GenerateSettings("id", "true", 7, {}, {}, ("cpu", "float32"), ())


SWAP = {"material": "glass", "prompt": "a hammer strikes glass"}


def tokens(value: float) -> bytes:
    return np.full(TOKENS, value, np.float16).tobytes()


def clip(id: str, **changes: object) -> dict[str, Any]:
    row = {
        "clip_id": id,
        "prompt": "a hammer strikes wood",
        "truth": json.dumps({"material": "wood", "swap": SWAP}),
        "video_seconds": 3.5,
        "video_tokens": tokens(1),
    }
    return row | changes


@pytest.mark.parametrize(
    ("condition", "prompt", "seen"),
    [
        ("true", "a hammer strikes wood", 1.0),
        ("other", "a hammer strikes wood", 2.0),
        ("none", "a hammer strikes wood", None),
        ("swap", "a hammer strikes glass", 1.0),
        ("video", "", 1.0),
    ],
)
def test_a_condition_changes_one_thing_and_nothing_else(
    condition: Any, prompt: str, seen: float | None
) -> None:
    partners = (("s/a", "s/b"), ("s/c", "s/a")) if condition == "other" else ()
    asked: list[list[str]] = []

    def tokens_of(ids: Any) -> dict[str, Any]:
        asked.append(list(ids))
        return {id: {"video_tokens": tokens(2)} for id in ids}

    settings = replace(SETTINGS, condition=condition, partners=partners)
    stage = Generate(PRESET, Path("bridge"), settings, tokens_of)
    own = clip("s/a")
    request = stage._request(own, stage._others([own]))
    assert request is not None
    seed = int(hashlib.sha256(b"7:s/a").hexdigest()[:8], 16)
    assert (request.prompt, request.seconds, request.seed) == (prompt, 3.5, seed)
    if seen is None:
        assert request.video is None
    else:
        assert torch.equal(torch.as_tensor(request.video), torch.full(TOKENS, seen))
    assert asked == [["s/b"] if condition == "other" else []]
    assert stage.name == f"generate_{condition}"


@pytest.mark.parametrize(
    "truth",
    [
        None,
        "{}",
        "[1]",
        '{"material": "wood", "swap": null}',
        '{"swap": "glass"}',
        '{"swap": {"prompt": ""}}',
    ],
)
def test_what_has_no_other_prompt_has_none_to_swap(truth: str | None) -> None:
    stage = Generate(PRESET, Path("bridge"), replace(SETTINGS, condition="swap"))
    assert stage._request(clip("a", truth=truth, prompt=None), {}) is None
    plain = Generate(PRESET, Path("bridge"), SETTINGS)._request(clip("a", prompt=None), {})
    assert plain is not None
    assert plain.prompt == ""


def test_a_pair_has_the_same_noise() -> None:
    stage = Generate(PRESET, Path("bridge"), SETTINGS)
    pair = json.dumps({"pair": "pair-00001"})
    made = [stage._request(clip(id, truth=pair), {}) for id in ("s/a", "s/b")]
    seeds = {request.seed for request in made if request is not None}
    assert seeds == {int(hashlib.sha256(b"7:pair-00001").hexdigest()[:8], 16)}


def test_clips_have_seeds_of_their_own() -> None:
    assert clip_seed(0, "a") == int(hashlib.sha256(b"0:a").hexdigest()[:8], 16)
    assert len({clip_seed(seed, id) for seed in (0, 1) for id in "ab"}) == 4


def test_another_video_is_the_next_that_is_not_of_the_same_source() -> None:
    sources = {"d": "y", "a": "x", "c": "x", "b": "x", "e": "z"}
    assert other_videos(sources) == {"a": "d", "b": "d", "c": "d", "d": "e", "e": "a"}
    with pytest.raises(FoleyError, match="all of one video"):
        other_videos({"a": "x", "b": "x"})


@pytest.mark.parametrize("channels", [1, 2])
def test_a_sound_is_kept_as_16_bits(channels: int, tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-1.2, 1.2, (channels, 500)).astype(np.float32)
    (tmp_path / "a.wav").write_bytes(wav_bytes(sound, 16_000))
    rate, samples = wavfile.read(tmp_path / "a.wav")
    assert (rate, samples.dtype, samples.shape) == (
        16_000,
        np.int16,
        (500,) if channels == 1 else (500, channels),
    )
    back, rate = wav_audio(wav_bytes(sound, 16_000))
    assert rate == 16_000
    np.testing.assert_allclose(back, np.clip(sound, -1, 1), atol=1 / 32767)


def test_onsets_are_those_of_the_sound() -> None:
    sound = np.zeros(16_000, np.float32)
    sound[8_000:8_800] = np.random.default_rng(0).standard_normal(800) * 0.3
    assert json.loads(onsets_text(sound, 16_000)) == pytest.approx([0.5], abs=0.02)


def test_materials_count_where_one_was_expected() -> None:
    rows = [{"clip_id": id, "material": "wood"} for id in "abcd"]
    expected = {"a": "wood", "b": "metal", "c": "wood"}
    assert material_accuracy(rows, expected) == 0.6667
    assert material_accuracy(rows, {}) is None


def test_a_condition_is_scored_over_all_clips_together() -> None:
    """Four impacts and three onsets: two agree within 60 ms, three within 100 ms."""
    truths = {"a": {"impacts": [0.5, 1.0, 2.0]}, "b": {"impacts": [0.2]}}
    rows = [{"clip_id": "b", "onsets": "[0.28]"}, {"clip_id": "a", "onsets": "[0.51, 0.98]"}]
    want = {"f1_60ms": round(4 / 7, 4), "f1_100ms": round(6 / 7, 4), "mae_ms": 36.6667}
    assert score_condition(rows, truths) == want


def test_only_materials_that_can_be_swapped_count() -> None:
    truths = {
        "a": {"material": "wood", "swap": SWAP},
        "b": {"material": "wood", "swap": None},
        "c": {"impacts": [1.0]},
        "world": {"material": "stone", "swap": SWAP, "acts": [], "events": [], "change": None},
    }
    assert materials_of(truths) == {"a": "wood"}
    assert materials_of(truths, swapped=True) == {"a": "glass"}


def test_onsets_at_the_impacts_score_one_and_unknown_clips_do_not_count() -> None:
    truths = {"a": {"impacts": [0.5, 1.0]}, "b": {"impacts": [0.2]}}
    rows = [{"clip_id": "a", "onsets": "[0.5, 1.0]"}, {"clip_id": "b", "onsets": "[0.2]"}]
    stranger = {"clip_id": "c", "onsets": "[3.0]"}
    assert score_condition([*rows, stranger], truths)["f1_60ms"] == 1.0
    assert score_condition([stranger], truths) == {
        "f1_60ms": None,
        "f1_100ms": None,
        "mae_ms": None,
    }
    assert score_condition([rows[0] | {"onsets": "[0.5]"}], truths)["f1_60ms"] == pytest.approx(
        2 / 3, abs=1e-3
    )
