"""Retakes, references, cues, cuts, levels, and what is not to be heard: files in, files out."""

from __future__ import annotations

import json
import re
from copy import copy
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.networks.base import Embedded
from model.presets.preset import load_preset
from model.presets.settings import ModelError, TaggerSettings
from model.sampling.request import SoundRequest
from pipeline.generation.asking import scene_cuts
from pipeline.generation.dub import prepare
from pipeline.generation.finishing import measure
from pipeline.generation.generator import SoundGenerator
from pipeline.generation.options import GenerateOptions
from pipeline.generation.provenance import sidecar_of
from pipeline.media import decode_audio, write_wav
from pipeline.media.glancing import cut_times
from pipeline.scoring.tags import Tagger
from tests.pipeline.generation.making import FAST, dubbed, samples
from tests.pipeline.media.samples import clicks, ffmpeg
from warehouse.errors import FoleyError
from warehouse.files import file_sha256


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"redo": "1.5"}, "'1.5' is no stretch"),
        ({"redo": "2-1"}, "is no stretch"),
        ({"redo": "1:x-2"}, "is no stretch"),
        ({"redo": "0-1", "loudness": -23}, "--loudness does not"),
        ({"redo": "0-1", "sample_rate": 48_000}, "--sample-rate does not"),
        ({"redo": "0-1", "mix": 0}, "--mix does not"),
        ({"without": "noise"}, "without"),
        ({"strength": 0}, "strength"),
        ({"strength": 0.5}, "give --like, too"),
        ({"redo": "0-1", "like": "hit.wav"}, "--redo and --like"),
    ],
)
def test_options_that_make_no_sense_are_said(options: dict[str, object], said: str) -> None:
    with pytest.raises((ValueError, FoleyError), match=said):
        GenerateOptions.model_validate(options)


def test_what_a_file_has_not_is_said_before_any_work(source: Path, tmp_path: Path) -> None:
    ask = GenerateOptions(prompt="rain")
    ffmpeg("-i", source, "-an", "-c", "copy", tmp_path / "silent.mp4")
    write_wav(tmp_path / "a.wav", clicks(1.0, [0.5], 16_000), 16_000)
    told = {"sound": "x", "seed": 0, "video": {"path": str(tmp_path / "gone.mp4")}}
    sidecar_of(tmp_path / "a.wav").write_text(json.dumps(told))
    for file, options, said in (
        ("a.wav", {"redo": "0.2-0.6"}, "was made for .*gone.mp4: not there now"),
        (
            "gone.wav",
            {"redo": "0.2-0.6"},
            "--redo is of one earlier sound: name its file, not .*gone.wav",
        ),
        ("in.mp4", {"like": tmp_path / "silent.mp4"}, "silent.mp4: holds no sound"),
        ("in.mp4", {"like": tmp_path / "gone.wav"}, "gone.wav"),
        ("in.mp4", {"cues": "footsteps"}, "is no cue"),
        ("in.mp4", {"without": "speech"}, "no tagger that knows speech"),
    ):
        with pytest.raises(FoleyError, match=said):
            prepare(tmp_path / file, tmp_path / "o.wav", ask.model_copy(update=options), None)
    for name, options, said in (
        ("silent.mp4", {"mix": 0.0}, "silent.mp4: holds no sound"),
        ("in.mp4", {"redo": "0-1,2.5-3"}, "in.mp4: ends at 2 s: --redo 0-1,2.5-3 starts behind it"),
        ("in.mp4", {"redo": "1-2.1"}, "in.mp4: ends at 2 s: --redo 1-2.1 reaches behind it"),
        ("in.mp4", {"cues": "0-1 a; 2-3 b"}, "in.mp4: ends at 2 s: cue 'b' starts behind it"),
    ):
        asked = ask.model_copy(update=options)
        (found,) = prepare(tmp_path / name, tmp_path / "o.wav", asked, None).run(lambda *_: None)
        assert found.error is not None
        assert said in found.error


def test_a_sound_that_cannot_be_mixed_costs_itself(
    generator: SoundGenerator, source: Path, tmp_path: Path
) -> None:
    """Its own sound is damaged, which shows when it is decoded."""
    whole = source.read_bytes()
    with av.open(str(source)) as container:
        sizes = [(p.pos or 0, p.size) for p in container.demux(audio=0) if p.size]
    (tmp_path / "in").mkdir()
    damaged = bytearray(whole)
    for at, size in sizes[5:]:
        damaged[at : at + size] = bytes(255 for _ in range(size))
    for name, data in (("a", whole), ("b", bytes(damaged)), ("c", whole)):
        (tmp_path / "in" / f"{name}.mp4").write_bytes(data)
    asked = GenerateOptions.model_validate(FAST | {"mix": -6.0, "format": "wav"})
    dubbing = prepare(tmp_path / "in", tmp_path / "out", asked, None)
    found = {f.request.out.name: f for f in dubbing.run(lambda *_: None, lambda _: generator)}
    assert [found[f"{name}.wav"].error is None for name in "abc"] == [True, False, True]
    assert "b.mp4: its sound" in str(found["b.wav"].error)


def test_a_sound_starts_from_the_one_it_is_to_be_like(
    generator: SoundGenerator, source: Path, tmp_path: Path
) -> None:
    """With next to no noise added it is the reference, over and over; with all, another sound."""
    hit = 0.5 * np.sin(np.arange(8_000) * 2 * np.pi * 620 / 16_000) * np.linspace(1, 0, 8_000)
    write_wav(tmp_path / "hit.wav", hit.astype(np.float32), 16_000)
    close, far = (
        samples(dubbed(
            generator, source, tmp_path / f"{strength}.wav", like=tmp_path / "hit.wav",
            strength=strength,
        ).request.out)[0]
        for strength in (0.02, 1.0)
    )  # fmt: skip
    again = np.tile(hit, 4)

    def alike(sound: NDArray[np.float32]) -> float:
        return float(np.corrcoef(np.abs(np.fft.rfft(sound)), np.abs(np.fft.rfft(again)))[0, 1])

    assert alike(close) > 0.75
    assert alike(close) > alike(far) + 0.2
    told = json.loads(sidecar_of(tmp_path / "1.0.wav").read_text())["options"]
    assert told["like"]["sha256"] == file_sha256(tmp_path / "hit.wav")


def scenes(path: Path, *levels: int) -> Path:
    """Seconds of grey pictures with something that moves, one level after the other."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        for number in range(25 * len(levels)):
            picture = np.full((64, 64, 3), levels[number // 25], np.uint8)
            picture[:, number % 60 : number % 60 + 4] = 128
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    return path


def test_scenes_are_made_apart_unless_asked_otherwise(
    generator: SoundGenerator, tmp_path: Path
) -> None:
    cut, whole = (
        scenes(tmp_path / "cut.mp4", 20, 20, 220),
        scenes(tmp_path / "whole.mp4", 20, 20, 20),
    )
    assert generator.watch(cut, 3.0).cuts == (2.0,)
    assert scene_cuts(cut, 2.9) == ()  # too short a last scene
    assert cut_times(cut, 3.0, 128.0) == [2.0]  # between two readings of 256 pictures
    assert generator.watch(whole, 3.0).cuts == ()
    assert generator.watch(scenes(tmp_path / "flash.mp4", 20, 220), 1.5).cuts == ()
    apart, across = (
        samples(dubbed(generator, cut, tmp_path / f"{x}.wav", across_cuts=x).request.out)
        for x in (False, True)
    )
    assert np.abs(apart - across).max() > 0.01
    cues = {"cues": "2.1-3 glass", "prompt": "metal"}  # meant for the cut at 2 s
    switched = samples(dubbed(generator, cut, tmp_path / "cues.wav", **cues).request.out)
    plain = samples(dubbed(generator, cut, tmp_path / "plain.wav", prompt="metal").request.out)
    margin = 16_000 // 2  # the decoder looks over the cut
    np.testing.assert_allclose(
        switched[:, : 32_000 - margin], plain[:, : 32_000 - margin], atol=2e-4
    )
    assert np.abs(switched - plain)[:, 32_000:].max() > 0.01


class Loud:
    """Hears speech in a window that is louder than a limit, and never music."""

    sample_rate = 16_000
    fc_audioset = torch.nn.Linear(1, 2)

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def hear(self, sounds: list[NDArray[np.float32]]) -> list[Embedded]:
        nothing = np.zeros(1, np.float32)
        loud = [9.0 if np.square(sound).mean() > self.limit else -9.0 for sound in sounds]
        return [Embedded(nothing, np.array([logit, -9], np.float32)) for logit in loud]


def test_what_is_not_to_be_heard_is_made_again_unseen(
    generator: SoundGenerator, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = generator.generate(source, "wood", seed=1)
    powers = np.square(plain.audio[0].reshape(4, 8_000)).mean(1)
    second, first = np.sort(powers)[-2:]
    settings = TaggerSettings(window=0.5, speech={"loud": 0}, music={"never": 1})
    tagger = Tagger(Loud(float(second + first) / 2), settings)
    monkeypatch.setattr(generator, "_tagger", tagger)
    asked, generate = list[SoundRequest](), generator.foley.generate

    def seen(requests: list[SoundRequest], *rest: Any) -> Any:
        asked.extend(requests)
        return generate(requests, *rest)

    monkeypatch.setattr(generator.foley, "generate", seen)
    made = generator.generate(source, "wood", seed=1, without="speech,music")
    (note,) = made.notes
    start = 0.5 * int(powers.argmax())
    assert re.fullmatch(
        rf"speech in 25% of the time, now \d+%: made again without the video at "
        rf"{start:g}-{start + 0.5:g} s",
        note,
    )
    assert made.provenance["heard"] == [note]
    assert [request.hidden for request in asked] == [(), ((start, start + 0.5),)]
    assert asked[0].seed != asked[1].seed
    inside = slice(round(start * 16_000), round(start * 16_000) + 8_000)
    outside = np.ones(32_000, bool)
    outside[inside] = False
    np.testing.assert_array_equal(made.audio[:, outside], plain.audio[:, outside])
    assert np.abs(made.audio - plain.audio)[:, inside].max() > 0.01
    assert generator.generate(source, "wood", seed=1, without="music").notes == ()


def test_levels_of_a_mix(generator: SoundGenerator, source: Path, tmp_path: Path) -> None:
    asked = {"sample_rate": 48_000, "loudness": -30.0, "mix": -6.0}
    dubbed(generator, source, tmp_path / "mix.wav", **asked)
    dubbed(generator, source, tmp_path / "plain.wav", sample_rate=48_000)
    heard = decode_audio(tmp_path / "mix.wav")
    assert heard.sample_rate == 48_000
    assert measure(heard.samples, 48_000).integrated == pytest.approx(-30, abs=0.3)
    new, own = (decode_audio(path).samples[0, :96_000] for path in (tmp_path / "plain.wav", source))
    mix = new * 10 ** (-6 / 20) + own
    assert np.corrcoef(mix, heard.samples[0, :96_000])[0, 1] > 0.99


def test_what_is_lost_of_a_request_is_said(
    generator: SoundGenerator, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("start,end,prompt\n-2,-1,wind\n-1,1,rain\n")
    ffmpeg("-i", source, "-c:v", "copy", "-ac", "2", tmp_path / "two.mp4")
    asked = {"cues": str(tmp_path / "a.csv"), "mix": 0.0}
    found = dubbed(generator, tmp_path / "two.mp4", tmp_path / "o.wav", **asked)
    assert found.notes == (
        f"{tmp_path}/o.wav: cue 'wind' is left out: less than 0.25 s of it is within the sound",
        f"{tmp_path}/o.wav: the 2 channels of two.mp4 become 1",
    )


def test_low_memory_keeps_no_model_that_is_not_used(
    generator: SoundGenerator, source: Path
) -> None:
    alone, conditioner = copy(generator), generator.foley.backbone.text_encoder.conditioner
    alone.foley = copy(generator.foley)  # whose float matrices stay
    alone.foley.low_memory = True
    made = alone.generate(source, "wood", seed=1)
    assert vars(alone)["_encoder"] is None
    assert "model" not in vars(conditioner)
    np.testing.assert_array_equal(made.audio, generator.generate(source, "wood", seed=1).audio)


def test_a_missing_torchao_is_said_before_any_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.low_memory.find_spec", lambda _: None)
    nothing = load_preset("toy").model_copy(update={"weights": tmp_path})
    with pytest.raises(ModelError, match="uv sync --extra low-memory"):
        SoundGenerator(nothing, device="cpu", low_memory=True)


def test_a_sound_alone_lies_where_its_video_does(
    generator: SoundGenerator, source: Path, tmp_path: Path
) -> None:
    timed = tmp_path / "timed.mov"
    ffmpeg("-i", source, "-c", "copy", "-r", "25", "-timecode", "01:00:00:05", timed)
    dubbed(generator, timed, tmp_path / "out.wav")
    with av.open(str(tmp_path / "out.wav")) as container:
        assert container.metadata["time_reference"] == str(round(3600.2 * 16_000))
