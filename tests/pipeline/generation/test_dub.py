"""`foley generate`.

Sound under any video, as long as it, with the picture untouched, and where it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from model.foley import SoundRequest
from model.presets.preset import ModelError
from model.types import Frames
from model.weights.load import WeightsError
from pipeline.generation.dub import dub, prepare
from pipeline.generation.generator import SoundGenerator, choose_device
from pipeline.generation.options import GenerateOptions, SoundOptions
from pipeline.generation.provenance import sidecar_of
from pipeline.generation.requests import Request
from pipeline.media import probe, read_audio
from tests.pipeline.generation.making import PRESET, PROMPT, made, sampling, video
from tests.pipeline.media.samples import clicks, ffmpeg, write_sample
from warehouse import FoleyError


def pictures(path: Path) -> list[tuple[bytes, Fraction]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        tick = stream.time_base or Fraction(1)
        return [(bytes(p), p.pts * tick) for p in container.demux(stream) if p.pts is not None]


@pytest.mark.parametrize(
    ("fps", "seconds"), [(12, 2.0), (24, 1.5), (29.97, 3.0), (60, 5.0), (23.976, 13.0)]
)
def test_sound_is_as_long_as_the_picture_at_any_frame_rate(
    generator: SoundGenerator, tmp_path: Path, fps: float, seconds: float
) -> None:
    source, out = video(tmp_path / "in.mp4", fps, seconds), tmp_path / "out.mp4"
    (found,) = made(generator, Request(source, out, PROMPT, 3))
    duration = probe(source).duration
    assert duration is not None
    assert round(found.seconds * PRESET.sample_rate) == round(duration * PRESET.sample_rate)
    assert pictures(out) == pictures(source)
    heard = read_audio(out, PRESET.sample_rate)
    assert len(heard) == pytest.approx(duration * PRESET.sample_rate, abs=2)
    assert np.abs(heard).max() > 0


def test_uneven_frame_times_are_no_obstacle(generator: SoundGenerator, tmp_path: Path) -> None:
    times = np.cumsum([0, *np.random.default_rng(0).uniform(0.01, 0.12, 40)]).tolist()
    source = tmp_path / "vfr.mp4"
    write_sample(source, times, None)
    (found,) = made(generator, Request(source, tmp_path / "out.mkv", PROMPT, 3))
    assert found.seconds == pytest.approx(probe(source).duration, abs=1e-3)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp4", ".mkv"])
def test_the_same_seed_gives_the_same_bytes(
    generator: SoundGenerator, tmp_path: Path, suffix: str
) -> None:
    source = video(tmp_path / "in.mp4", 25, 1.0)
    first, second, other = (tmp_path / f"{name}{suffix}" for name in "abc")
    made(generator, Request(source, first, PROMPT, 3))
    made(SoundGenerator(sampling(2), device="cpu"), Request(source, second, PROMPT, 3))
    made(generator, Request(source, other, PROMPT, 4))
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()


def test_a_batch_gives_what_each_gives_alone_and_bad_files_cost_their_own(
    generator: SoundGenerator, tmp_path: Path
) -> None:
    short, other, long = (
        video(tmp_path / f"{i}.mp4", 25, seconds) for i, seconds in enumerate((1.0, 1.0, 2.0))
    )
    bad, cut = tmp_path / "bad.mp4", tmp_path / "cut.mkv"
    bad.write_text("<!doctype html>")
    write_sample(cut, [i / 25 for i in range(100)], None)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    videos = (short, bad, long, cut, short, other, tmp_path / "gone.mp4", short, short, long)
    requests = [Request(v, tmp_path / f"{i}.wav", PROMPT, i) for i, v in enumerate(videos)]
    steps: list[tuple[int, int]] = []
    together = list(dub(requests, lambda: generator, 3, on_step=lambda *step: steps.append(step)))
    assert len(together) == len(requests)
    for found in together:
        request = found.request
        if request.video in (bad, cut, tmp_path / "gone.mp4"):
            assert found.error is not None
            assert request.video.name in found.error
            assert "\n" not in found.error
            assert not request.out.exists()
            continue
        assert found.error is None
        alone = tmp_path / f"alone.{request.seed}.wav"
        made(generator, Request(request.video, alone, PROMPT, request.seed))
        batched, single = (read_audio(path, PRESET.sample_rate) for path in (request.out, alone))
        np.testing.assert_allclose(batched, single, atol=2e-3)
    assert steps[-1][0] == steps[-1][1] == 8 * 2
    assert steps == sorted(steps, key=lambda step: step[0])


def test_a_video_is_encoded_once_however_many_takes(
    generator: SoundGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = video(tmp_path / "one.mp4", 25, 1.0), video(tmp_path / "two.mp4", 25, 1.0)
    encode, seen = generator.encoder.encode_segments, list[str]()

    def counted(segments: Iterable[Frames]) -> Iterator[torch.Tensor]:
        seen.append("a video")
        return encode(segments)

    monkeypatch.setattr(generator.encoder, "encode_segments", counted)
    requests = [  # each with its own seed: the two videos are alike
        Request(v, tmp_path / f"{v.stem}.{i}.wav", PROMPT, i)
        for v, seeds in ((one, range(5)), (two, range(5, 10)))
        for i in seeds
    ]
    found = made(generator, *requests)
    assert [f.error for f in found] == [None] * 10
    assert len({path.read_bytes() for path in tmp_path.glob("*.wav")}) == 10
    assert len(seen) == 2


def test_no_usable_video_loads_no_model(tmp_path: Path) -> None:
    def load() -> SoundGenerator:
        raise AssertionError("not needed")

    (found,) = dub([Request(tmp_path / "gone.mp4", tmp_path / "o.wav", PROMPT, 0)], load)
    assert found.error is not None


def test_what_cannot_be_made_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    source, out = video(tmp_path / "in.mp4", 12, 1.0), tmp_path / "o.wav"
    options = GenerateOptions(prompt=PROMPT, preset="paper", weights=tmp_path)
    with pytest.raises(FoleyError, match=r"no bridge was trained .*foley train"):
        prepare(source, out, options, None)
    with pytest.raises(WeightsError, match="is not a bridge"):
        SoundGenerator(options.sampling_preset())  # whose encoder is not there either
    with pytest.raises(ModelError, match="takes 2 steps at least"):
        prepare(source, out, options.model_copy(update={"steps": 1}), None)
    fast = GenerateOptions(fast=True).sampling_preset().sample
    assert fast.steps == PRESET.sample.fast_steps < PRESET.sample.steps
    assert (
        options.model_copy(update={"steps": 1, "preset": "toy", "weights": None})
        .sampling_preset()
        .sample.steps
        == 1
    )


def test_a_device_that_is_not_there_is_named() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="--device cpu"):
            choose_device("cuda")


def test_a_container_that_holds_no_such_picture_costs_its_own_sound_before_any_is_made(
    generator: SoundGenerator, tmp_path: Path
) -> None:
    source = video(tmp_path / "in.mp4", 25, 1.0)  # h264
    loaded: list[int] = []

    def load() -> SoundGenerator:
        loaded.append(1)
        return generator

    wrong, right = (Request(source, tmp_path / f"out.{e}", PROMPT, 0) for e in ("webm", "mkv"))
    (refused,) = dub([wrong], load)
    assert refused.error is not None
    assert "out.webm: cannot hold a picture of h264" in refused.error
    assert not loaded
    assert [bool(made.error) for made in dub([wrong, right], load)] == [True, False]


def test_av1_is_copied_as_it_is(generator: SoundGenerator, tmp_path: Path) -> None:
    source, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    # by another process: SVT-AV1 takes root's for real time, before which all others wait
    moving = "testsrc=size=64x64:rate=24:duration=1"
    ffmpeg("-f", "lavfi", "-i", moving, "-c:v", "libaom-av1", "-cpu-used", "8", source)
    (found,) = made(generator, Request(source, out, PROMPT, 0))
    assert found.error is None
    assert pictures(out) == pictures(source)


def test_text_alone_is_a_sound_of_the_length_asked_for(
    generator: SoundGenerator, tmp_path: Path
) -> None:
    """No video and the null token are the same to the bridge; a video's own sound is another."""
    source = video(tmp_path / "in.mp4", 25, 2.0)
    text = Request(None, tmp_path / "text.wav", PROMPT, 3, options=SoundOptions(seconds=2.0))
    found = made(generator, text, Request(source, tmp_path / "video.wav", PROMPT, 3))
    assert [(f.error, f.seconds) for f in found] == [(None, 2.0)] * 2
    alone, with_video = (read_audio(f.request.out, PRESET.sample_rate) for f in found)
    asked = SoundRequest(PROMPT, 2.0, 3, video=None)
    np.testing.assert_allclose(alone, generator.foley.generate([asked])[0][0], atol=2e-3)
    assert np.abs(alone - with_video).max() > 0.01
    assert json.loads(sidecar_of(text.out).read_text())["video"] is None


def test_a_prompt_that_is_too_long_is_said(generator: SoundGenerator, tmp_path: Path) -> None:
    source = video(tmp_path / "in.mp4", 12, 0.5)
    requests = [Request(source, tmp_path / f"{n}.wav", "rain " * n, 0) for n in (2, 400)]
    notes = [found.notes for found in made(generator, *requests)]
    assert notes[0] == ()
    assert "400.wav: of the prompt's" in notes[1][0]


def test_tracks_that_are_kept_and_tracks_that_are_not(
    generator: SoundGenerator, tmp_path: Path
) -> None:
    source = tmp_path / "in.mp4"
    write_sample(source, [i / 12 for i in range(6)], clicks(0.5, [0.2]))
    ffmpeg(
        "-i", source, "-map", "0:v", "-map", "0:a", "-map", "0:a", "-c", "copy", tmp_path / "2.mp4"
    )
    kept, alone = (
        Request(tmp_path / "2.mp4", tmp_path / f"{keep}.mp4", PROMPT, 0, None, options)
        for keep in (True, False)
        for options in [SoundOptions(keep_audio=keep)]
    )
    notes = [found.notes for found in made(generator, kept, alone)]
    assert notes[0] == ()
    assert "False.mp4: a second sound track is left out" in notes[1][0]
    for request, count in ((kept, 3), (alone, 1)):
        with av.open(str(request.out)) as container:
            assert len(container.streams.audio) == count
