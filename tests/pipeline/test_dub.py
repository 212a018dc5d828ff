"""`foley generate`: sound under any video, as long as it, with the picture untouched."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from model.presets import load_preset
from pipeline.dub import Dubbing, dub
from pipeline.media import MediaError, probe, read_audio
from tests.pipeline.media_samples import write_sample

PRESET = load_preset("toy")
DUBBING = Dubbing("a ball bounces on wood", seed=3, steps=2)


def video(path: Path, fps: float, seconds: float) -> Path:
    write_sample(path, [i / fps for i in range(round(seconds * fps))], None)
    return path


def pictures(path: Path) -> list[tuple[bytes, Fraction]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        tick = stream.time_base or Fraction(1)
        return [(bytes(p), p.pts * tick) for p in container.demux(stream) if p.pts is not None]


@pytest.mark.parametrize(("fps", "seconds"), [(12, 2.0), (24, 1.5), (29.97, 3.0), (60, 5.0)])
def test_sound_is_as_long_as_the_picture_at_any_frame_rate(tmp_path: Path, fps: float, seconds: float) -> None:
    source, out = video(tmp_path / "in.mp4", fps, seconds), tmp_path / "out.mp4"
    made = dub(source, out, DUBBING, PRESET)
    duration = probe(source).duration
    assert duration is not None
    assert made.seconds == pytest.approx(duration, abs=1 / PRESET.sample_rate)
    assert pictures(out) == pictures(source)
    heard = read_audio(out, PRESET.sample_rate)
    assert len(heard) == pytest.approx(duration * PRESET.sample_rate, abs=2)
    assert np.abs(heard).max() > 0


def test_uneven_frame_times_are_no_obstacle(tmp_path: Path) -> None:
    times = np.cumsum([0, *np.random.default_rng(0).uniform(0.01, 0.12, 40)]).tolist()
    source = tmp_path / "vfr.mp4"
    write_sample(source, times, None)
    made = dub(source, tmp_path / "out.mkv", DUBBING, PRESET)
    assert made.seconds == pytest.approx(probe(source).duration, abs=1e-3)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_sound_alone_and_the_same_every_time(tmp_path: Path, suffix: str) -> None:
    source = video(tmp_path / "in.mp4", 25, 1.0)
    first, second, other = (tmp_path / f"{name}{suffix}" for name in "abc")
    dub(source, first, DUBBING, PRESET)
    dub(source, second, DUBBING, PRESET)
    dub(source, other, Dubbing(DUBBING.prompt, seed=4, steps=2), PRESET)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()


def test_every_step_is_reported(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    source = video(tmp_path / "in.mp4", 25, 1.0)
    dub(source, tmp_path / "a.wav", DUBBING, PRESET, on_step=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]


def test_what_is_no_usable_video_is_named_in_one_line(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    long = video(tmp_path / "long.mp4", 12, 13.0)
    for source, message in ((text, "text.mp4"), (long, "is 13.0 s long"), (tmp_path / "absent.mp4", "absent.mp4")):
        with pytest.raises(MediaError, match=message) as caught:
            dub(source, tmp_path / "out.mp4", DUBBING, PRESET)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out.mp4").exists()
