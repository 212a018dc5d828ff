"""The judge of synchrony, itself judged on sounds whose onsets are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.metrics.onsets import detect_onsets, sync_score
from pipeline.procedural import render_audio, sample_clip

RATE = 16000
times = st.lists(st.floats(0, 12), max_size=12, unique=True).map(lambda t: np.array(sorted(t)))


@given(seed=st.integers(0, 10**6), gain=st.floats(0.02, 1.0))
@settings(max_examples=30)
def test_impacts_of_a_procedural_clip_are_found_at_any_level(seed: int, gain: float) -> None:
    clip = sample_clip(seed)
    impacts = np.array(clip.impacts)
    found = detect_onsets(render_audio(clip) * np.float32(gain), RATE)
    score = sync_score([impacts], [found])
    assert score.f1_60ms > 0.9
    assert score.mae_ms is not None
    assert score.mae_ms < 15


@pytest.mark.parametrize("samples", [0, 10, RATE])
def test_silence_and_nothing_have_no_onsets(samples: int) -> None:
    assert len(detect_onsets(np.zeros(samples, np.float32), RATE)) == 0


def test_steady_noise_has_no_onsets_but_its_start() -> None:
    noise = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32) * 0.1
    assert len(detect_onsets(noise, RATE)) <= 1


def test_a_shift_of_the_sound_shifts_its_onsets() -> None:
    sound = render_audio(sample_clip(5))
    shifted = np.concatenate([np.zeros(RATE // 10, np.float32), sound])
    np.testing.assert_allclose(
        detect_onsets(shifted, RATE), detect_onsets(sound, RATE) + 0.1, atol=0.008
    )


@given(st.lists(times, min_size=1, max_size=4))
def test_perfect_agreement_scores_one(clips: list[np.ndarray]) -> None:
    score = sync_score(clips, clips)
    assert score.f1_60ms == score.f1_100ms == (1.0 if sum(map(len, clips)) else 0.0)


@given(a=times, b=times)
def test_score_is_symmetric_and_grows_with_tolerance(a: np.ndarray, b: np.ndarray) -> None:
    there, back = sync_score([a], [b]), sync_score([b], [a])
    assert there.f1_60ms == pytest.approx(back.f1_60ms)
    assert 0 <= there.f1_60ms <= there.f1_100ms <= 1


def test_an_onset_matches_one_impact_only() -> None:
    score = sync_score([np.array([1.0, 1.05])], [np.array([1.02])])
    assert score.f1_60ms == pytest.approx(2 / 3)
    assert score.mae_ms == pytest.approx(20, abs=10.01)


@pytest.mark.parametrize(
    ("late", "f1_60ms", "f1_100ms"), [(0.059, 1, 1), (0.061, 0, 1), (0.099, 0, 1), (0.101, 0, 0)]
)
def test_tolerances_are_60_and_100_ms_either_way(
    late: float, f1_60ms: float, f1_100ms: float
) -> None:
    for onset in (1.0 + late, 1.0 - late):
        score = sync_score([np.array([1.0])], [np.array([onset])])
        assert (score.f1_60ms, score.f1_100ms) == (f1_60ms, f1_100ms)
        want = None if f1_100ms == 0 else pytest.approx(late * 1000)
        assert score.mae_ms == want


def test_f1_weighs_what_is_missed_and_what_is_too_many_over_all_clips() -> None:
    impacts = [np.array([1.0, 2.0, 3.0]), np.array([1.0])]
    onsets = [np.array([1.01]), np.array([1.0, 1.5])]
    precision, recall = 2 / 3, 2 / 4
    want = 2 * precision * recall / (precision + recall)
    assert sync_score(impacts, onsets).f1_60ms == pytest.approx(want)
    assert sync_score(impacts, onsets).mae_ms == pytest.approx(5)


@pytest.mark.parametrize(("apart", "heard"), [(0.06, 1), (0.1, 1), (0.15, 2), (0.3, 2)])
def test_two_clicks_nearer_than_the_smallest_gap_are_one(apart: float, heard: int) -> None:
    sound = np.zeros(RATE, np.float32)
    clicks = np.random.default_rng(0).standard_normal((2, RATE // 200)).astype(np.float32)
    for at, click in zip((0.3, 0.3 + apart), clicks, strict=True):
        sound[int(at * RATE) :][: len(click)] = click
    assert len(detect_onsets(sound, RATE)) == heard


def test_of_two_clicks_in_a_gap_the_first_counts_though_it_is_softer() -> None:
    sound = np.zeros(RATE, np.float32)
    clicks = np.random.default_rng(0).standard_normal((2, RATE // 200)).astype(np.float32)
    sound[int(0.3 * RATE) :][: len(clicks[0])] = 0.3 * clicks[0]
    sound[int(0.4 * RATE) :][: len(clicks[1])] = clicks[1]
    np.testing.assert_allclose(detect_onsets(sound, RATE), [0.3], atol=0.015)


@pytest.mark.parametrize(("gain", "heard"), [(0.1, 2), (0.001, 1)])
def test_what_is_far_under_the_loudest_is_noise(gain: float, heard: int) -> None:
    """20 dB under it is a sound, 60 dB are none."""
    burst = np.random.default_rng(0).standard_normal(RATE // 20).astype(np.float32)
    sound = np.zeros(RATE, np.float32)
    sound[RATE // 4 :][: len(burst)], sound[RATE // 2 :][: len(burst)] = burst, gain * burst
    found = detect_onsets(sound, RATE)
    np.testing.assert_allclose(found, [0.25, 0.5][:heard], atol=0.015)


@pytest.mark.parametrize(("rise_db", "heard"), [(4.0, 1), (9.0, 2)])
def test_a_small_rise_is_no_onset(rise_db: float, heard: int) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    tone[: RATE // 4] = 0
    tone[RATE * 6 // 10 :] *= 10 ** (rise_db / 20)
    assert len(detect_onsets(tone, RATE)) == heard
