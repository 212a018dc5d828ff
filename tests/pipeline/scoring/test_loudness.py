"""Silence is measured as it is heard, and only what is silent throughout is turned away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media import write_wav
from pipeline.scoring.loudness import FLOOR_DBFS, Silence, SilenceSettings, measure, measure_file
from pipeline.stages.stage import Failed, Passed, Rejected
from tests.pipeline.media.samples import clicks, write_sample

RATE = 16_000
WINDOW = RATE // 100


def stretches(*parts: tuple[float, float]) -> np.ndarray:
    """Sound of stretches (seconds, amplitude of a 400 Hz tone)."""
    tone = np.sin(2 * np.pi * 400 * np.arange(12 * RATE) / RATE)
    return np.concatenate([a * tone[: round(s * RATE)] for s, a in parts]).astype(np.float32)


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=12))
def test_share_and_longest_gap_are_those_of_the_windows(parts: list[tuple[int, bool]]) -> None:
    """Stretches of whole windows, loud or silent; two silent ones side by side are one gap."""
    flags = np.concatenate([[silent] * windows for windows, silent in parts])
    runs = "".join("s" if silent else "." for silent in flags).split(".")
    facts = measure(
        stretches(*[(windows / 100, 0.0 if silent else 0.5) for windows, silent in parts]), RATE
    )
    assert facts.silent_share == pytest.approx(flags.mean())
    assert facts.longest_gap == pytest.approx(max(map(len, runs)) / 100)


@given(st.floats(-100, -1))
def test_levels_are_in_decibels_of_full_scale(level: float) -> None:
    facts = measure(stretches((1.0, 10 ** (level / 20))), RATE)
    assert facts.peak_dbfs == pytest.approx(level, abs=0.1)
    assert facts.rms_dbfs == pytest.approx(level - 3.01, abs=0.1)
    if abs(level - 3.01 + 60) > 0.1:
        assert facts.silent_share == float(level - 3.01 < -60)


def test_the_threshold_and_the_window_are_settings() -> None:
    sound = stretches((1.0, 0.5), (1.0, 0.01), (2.0, 0.0))
    assert measure(sound, RATE).silent_share == 0.5
    assert measure(sound, RATE, SilenceSettings(threshold_dbfs=-40)).silent_share == 0.75
    coarse = measure(sound, RATE, SilenceSettings(window_seconds=4.0))
    assert coarse.silent_share == 0


def test_nothing_at_all_is_silence() -> None:
    for sound in (np.zeros(0, np.float32), np.zeros(5, np.float32), np.zeros(RATE, np.float32)):
        facts = measure(sound, RATE)
        assert (facts.silent_share, facts.peak_dbfs, facts.rms_dbfs) == (
            1.0,
            FLOOR_DBFS,
            FLOOR_DBFS,
        )


@pytest.mark.parametrize(
    ("sound", "rejected"),
    [
        (stretches((2.0, 0.0)), True),
        (stretches((2.0, 0.0005)), True),  # under -60 dBFS
        (stretches((0.03, 0.5), (1.97, 0.0)), True),  # 1.5% of it can be heard
        (stretches((0.2, 0.5), (1.8, 0.0)), False),  # silent for the most part: policy's affair
        (stretches((2.0, 0.1)), False),
    ],
)
def test_only_silence_throughout_is_rejected(
    tmp_path: Path, sound: np.ndarray, rejected: bool
) -> None:
    path = tmp_path / "a.mp4"
    upsampled = np.repeat(sound, 3)
    write_sample(path, [i / 10 for i in range(20)], upsampled)
    (outcome,) = Silence().process([{"path": str(path)}])
    assert isinstance(outcome, Rejected if rejected else Passed)
    assert not isinstance(outcome, Failed)
    table = pa.Table.from_pylist([dict(outcome.columns)], Silence.schema)
    assert table.num_columns == len(outcome.columns)
    assert None not in table.to_pylist()[0].values()


def test_time_after_the_sound_ends_is_silent(tmp_path: Path) -> None:
    """A watcher of 4 s of picture with 1 s of sound hears nothing for 3 s."""
    path = tmp_path / "a.mp4"
    write_sample(path, [i / 10 for i in range(40)], np.repeat(stretches((1.0, 0.5)), 3))
    (outcome,) = Silence().process([{"path": str(path)}])
    assert isinstance(outcome, Passed)
    assert outcome.columns["silent_share"] == pytest.approx(0.75, abs=0.02)
    assert outcome.columns["longest_gap"] == pytest.approx(3.0, abs=0.05)


def test_both_ears_and_both_signs_are_heard(tmp_path: Path) -> None:
    """A lone sample below zero, on the right: of the mean it is half."""
    sound = np.zeros((2, RATE), np.float32)
    sound[1, RATE // 2] = -0.8
    write_wav(tmp_path / "a.wav", sound, RATE)
    found = measure_file(tmp_path / "a.wav", SilenceSettings())
    assert found["peak_dbfs"] == pytest.approx(20 * np.log10(0.4), abs=0.01)


def test_a_broken_clip_costs_its_own_row(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.mp4", [i / 10 for i in range(20)], clicks(2, [0.5, 0.8, 1.1, 1.4]))
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:3000])
    names = ["a.mp4", "b.mp4", "gone.mp4", "a.mp4"]
    first, broken, gone, last = Silence().process(
        [{"path": str(tmp_path / name)} for name in names]
    )
    assert isinstance(first, Passed)
    assert first == last
    assert isinstance(broken, Failed)
    assert isinstance(gone, Failed)
    assert "b.mp4: " in broken.message
    assert "No such file" in gone.message
