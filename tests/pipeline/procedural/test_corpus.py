"""Procedural clips.

What is drawn from a seed, and that sound and picture strike when the truth says so.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.media import read_audio, read_frames
from pipeline.media.picture import Framing
from pipeline.procedural import (
    BAD_KINDS,
    FPS,
    MATERIALS,
    MISDUBBED,
    SAMPLE_RATE,
    Corpus,
    ProceduralClip,
    material_of,
    read_ledger,
    render_audio,
    render_frames,
    sample_clip,
    write_clip,
    write_corpus,
)
from pipeline.procedural.audio import material_scores
from pipeline.procedural.clip import SCENES, WORDINGS, prompt_for
from pipeline.procedural.corpus import LEDGER
from pipeline.procedural.degrading import KINDS

clips = st.builds(sample_clip, st.integers(0, 2**40), st.floats(1, 12).map(lambda s: round(s, 2)))


@given(clips)
def test_impacts_keep_their_distance_and_stay_inside(clip: ProceduralClip) -> None:
    assert clip.impacts
    assert 0 < clip.impacts[0] < clip.impacts[-1] < clip.seconds or len(clip.impacts) == 1
    gaps = np.diff(clip.impacts)
    assert ((gaps >= 0.35) & (gaps <= 1.1)).all()
    assert (
        clip.seconds - clip.impacts[-1] <= 1.1 + 0.2
    )  # no long silence at the end that the picture does not explain
    assert clip.material in clip.prompt


@given(clips)
def test_a_seed_is_the_clip(clip: ProceduralClip) -> None:
    again = sample_clip(clip.seed, clip.seconds)
    assert again == clip
    assert json.loads(json.dumps(clip.truth()))["impacts"] == list(again.impacts)


def test_four_seconds_hold_about_five_impacts() -> None:
    assert 4.5 < np.mean([len(sample_clip(seed).impacts) for seed in range(200)]) < 5.7


@given(clips)
@settings(max_examples=20, deadline=None)
def test_the_sound_starts_at_the_impacts(clip: ProceduralClip) -> None:
    audio = render_audio(clip)
    assert audio.dtype == np.float32
    assert audio.shape == (round(clip.seconds * SAMPLE_RATE),)
    assert np.abs(audio).max() <= 1
    assert (audio == render_audio(clip)).all()
    for impact in clip.impacts:
        at = round(impact * SAMPLE_RATE)
        before, after = audio[max(0, at - 160) : at], audio[at : at + 160]  # 10 ms either side
        assert np.square(after).mean() > 1.5 * np.square(before).mean()
        assert np.abs(after).max() > 0.02


def test_the_material_is_heard_at_any_rate_and_through_noise() -> None:
    rng = np.random.default_rng(0)
    for clip in map(sample_clip, range(24)):
        for rate in (16_000, 44_100):
            audio = render_audio(clip, rate)
            assert material_of(audio, rate) == clip.material
            noisy = audio + rng.normal(0, 0.01, audio.shape).astype(np.float32)
            assert material_of(noisy, rate) == clip.material
            scores = material_scores(audio, rate)
            assert scores[clip.material] - sorted(scores.values())[-2] > 0.3


def test_silence_is_of_no_material() -> None:
    assert material_of(np.zeros(16_000, np.float32)) is None
    assert material_of(np.full(16_000, np.nan, np.float32)) is None


@pytest.mark.parametrize("scene", SCENES)
def test_the_thing_moves_between_impacts_and_is_back_at_each(scene: str) -> None:
    clip = next(c for c in map(sample_clip, range(50)) if c.scene == scene)
    fps = 200  # fine enough to meet each impact
    frames = render_frames(clip, fps).astype(np.int16)
    strikes = [round(i * fps) - 1 for i in clip.impacts]  # the last frame before each strike
    middles = [
        round((a + b) / 2 * fps) for a, b in zip(clip.impacts, clip.impacts[1:], strict=False)
    ]
    first = frames[strikes[0]]
    assert all(np.abs(frames[i] - first).mean() < 2 for i in strikes)
    assert all(np.abs(frames[i] - first).mean() > 2.5 for i in middles)


def test_prompts_name_the_material_and_can_be_swapped() -> None:
    for scene in SCENES:
        for wording in range(len(WORDINGS[scene])):
            prompts = {prompt_for(material, scene, wording) for material in MATERIALS}
            assert len(prompts) == len(MATERIALS)
            about = {m: prompt_for(m, scene, wording) for m in MATERIALS}
            swaps = {
                m: replace(sample_clip(0), material=m, scene=scene, prompt=prompt).truth()["swap"]
                for m, prompt in about.items()
            }
            assert sorted(swap["material"] for swap in swaps.values()) == sorted(MATERIALS)
            for material, swap in swaps.items():
                assert swap["material"] != material
                assert swap["prompt"] == prompt_for(swap["material"], scene, wording)
    assert replace(sample_clip(0), prompt="rain on a roof").truth()["swap"] is None


def test_a_written_clip_reads_back_in_time(tmp_path: Path) -> None:
    clip = sample_clip(7)
    write_clip(clip, tmp_path / "a.mp4")
    write_clip(clip, tmp_path / "b.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    audio, truth = read_audio(tmp_path / "a.mp4", SAMPLE_RATE), render_audio(clip)
    assert audio.shape == truth.shape
    assert np.square(audio - truth).sum() < 1e-3 * np.square(truth).sum()
    frames = read_frames(tmp_path / "a.mp4", np.arange(64) / FPS, Framing(64, 64))
    distance = np.abs(
        frames[:, None, ::4, ::4].astype(np.int16) - render_frames(clip)[None, :, ::4, ::4]
    )
    still = distance.mean((2, 3, 4))  # [read, rendered]
    assert (still.diagonal() <= still.min(1) + 0.5).all()


def test_a_corpus_is_written_once(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    rows = write_corpus(
        tmp_path, Corpus(3), progress=lambda done, total: seen.append((done, total))
    )
    total = 3 + len(BAD_KINDS)
    assert seen == [(i + 1, total) for i in range(total)]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()}
    assert {path.name for path in before} == {row["file"] for row in rows} | {LEDGER}
    assert write_corpus(tmp_path, Corpus(3)) == rows
    assert {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()
    } == before


def test_flawed_clips_are_good_files_whose_truth_tells_what_is_wrong(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path, Corpus(1, seed=4, bad=(), flawed=10))
    assert [row["file"] for row in rows] == [f"clip-{i:05d}.mp4" for i in range(11)]
    assert Counter(row["truth"]["flaw"] for row in rows) == {None: 1, MISDUBBED: 6} | dict.fromkeys(
        KINDS, 1
    )
    assert [row.get("split") for row in rows] == [None] + [
        "train"
    ] * 10  # what is held out is known to be true
    for row in rows:
        truth = row["truth"]
        own, heard = sample_clip(truth["seed"]), read_audio(tmp_path / row["file"], SAMPLE_RATE)
        frames = read_frames(tmp_path / row["file"], np.arange(64) / FPS, Framing(64, 64)).astype(
            np.int16
        )
        assert np.abs(frames - render_frames(own)).mean() < 5  # the picture is as it was
        clean = render_audio(own)
        if truth["flaw"] == MISDUBBED:
            other = sample_clip(truth["sound_seed"])
            assert (other.material, other.scene) == (own.material, own.scene)
            assert other.impacts != own.impacts
            clean = render_audio(other)
        apart = np.square(heard - clean).sum() / np.square(clean).sum()
        assert (apart > 2e-3) == (truth["flaw"] in KINDS), (truth, apart)


@pytest.mark.parametrize("keep_ledger", [True, False])
def test_a_damaged_corpus_is_mended_and_the_rest_left_alone(
    tmp_path: Path, keep_ledger: bool
) -> None:
    rows = write_corpus(tmp_path, Corpus(3, bad=()))
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.mp4")}
    (tmp_path / "clip-00001.mp4").write_bytes(b"damaged")
    (tmp_path / "clip-00002.mp4").unlink()
    if not keep_ledger:
        (tmp_path / LEDGER).unlink()
    assert write_corpus(tmp_path, Corpus(3, bad=())) == rows
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == whole
    assert (tmp_path / "clip-00000.mp4").stat().st_mtime_ns == stamps[tmp_path / "clip-00000.mp4"]


def test_a_torn_ledger_line_costs_only_itself(tmp_path: Path) -> None:
    rows = write_corpus(tmp_path, Corpus(2, bad=("empty",)))
    ledger = tmp_path / LEDGER
    ledger.write_text(ledger.read_text()[:-40])
    assert set(read_ledger(tmp_path)) == {row["file"] for row in rows[:-1]}
    assert write_corpus(tmp_path, Corpus(2, bad=("empty",))) == rows


def test_workers_write_the_same_corpus(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    corpus = Corpus(3, bad=("truncated",))
    assert write_corpus(alone, corpus) == write_corpus(together, corpus, workers=2)
    assert {p.name: p.read_bytes() for p in alone.iterdir()} == {
        p.name: p.read_bytes() for p in together.iterdir()
    }


def test_corpora_of_different_seeds_share_no_clip() -> None:
    seeds = [item.clip.seed for seed in (0, 1) for item in Corpus(50, seed).clips()]
    assert len(set(seeds)) == len(seeds)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"1\.\.600 s, not 0 and 601 s"):
        sample_clip(0, 601)
    with pytest.raises(ValueError, match="'torn'"):
        Corpus(1, bad=("torn",))
