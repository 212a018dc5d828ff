"""A stretch of a sound made anew, and the rest kept sample by sample."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.generation.dub import prepare
from pipeline.generation.finishing import measure
from pipeline.generation.generator import SoundGenerator
from pipeline.generation.listing import requests_for
from pipeline.generation.options import GenerateOptions
from pipeline.generation.provenance import sidecar_of
from pipeline.generation.retake import latent_spans, spliced
from pipeline.media import decode_audio, write_flac
from tests.pipeline.generation.making import FAST, dubbed, samples
from tests.pipeline.media.samples import clicks
from warehouse.errors import FoleyError
from warehouse.files import file_sha256


@pytest.mark.parametrize(("rate", "suffix"), [(None, "wav"), (48_000, "wav"), (48_000, "flac")])
def test_a_retake_changes_its_stretch_alone(
    generator: SoundGenerator, source: Path, tmp_path: Path, rate: int | None, suffix: str
) -> None:
    first, second = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    dubbed(generator, source, first, sample_rate=rate)
    again = dubbed(generator, first, second, prompt=None, redo="0.5-1.2", seed=9)
    assert (again.request.prompt, again.request.video) == (FAST["prompt"], source)
    old, new = samples(first), samples(second)
    start, stop = (round(time * (rate or 16_000)) for time in (0.5, 1.2))
    assert decode_audio(second).sample_rate == (rate or 16_000)
    np.testing.assert_array_equal(new[:, :start], old[:, :start])
    np.testing.assert_array_equal(new[:, stop:], old[:, stop:])
    assert np.abs(new - old)[:, start:stop].max() > 0.01
    told = json.loads(sidecar_of(second).read_text())
    assert told["earlier"] == {"sha256": file_sha256(first)}
    assert (told["seed"], told["options"]) == (9, {"redo": "0.5-1.2"})


@pytest.mark.parametrize("loudness", [None, -30.0])
def test_a_stretch_of_a_mix_is_made_anew_in_its_stem(
    generator: SoundGenerator, source: Path, tmp_path: Path, loudness: float | None
) -> None:
    """The video's own sound is heard once, at every time, and so after another retake."""

    def make(of: Path, out: str, **options: object) -> Path:
        asked = GenerateOptions.model_validate(FAST | options)
        made = prepare(of, tmp_path / out, asked, None).run(lambda *_: None, lambda _: generator)
        assert {one.error for one in made} == {None}
        return tmp_path / out

    levels = {"mix": -6.0, "loudness": loudness, "sample_rate": 48_000}
    first = make(source, "first.wav", **levels, stem=True)
    second = make(first, "second.wav", prompt=None, redo="0.5-1.2", seed=9)
    third = make(second, "third.wav", prompt=None, redo="0.2-0.4", seed=8)
    stems = [samples(mix.with_suffix(".stem.wav"))[0] for mix in (first, second, third)]
    changed = [np.flatnonzero(a != b) / 48_000 for a, b in pairwise(stems)]
    assert [(x.min() >= low, x.max() < high) for x, low, high in
            zip(changed, (0.5, 0.2), (1.2, 0.4), strict=True)] == [(True, True)] * 2  # fmt: skip
    own = samples(source)[0, : stems[0].size]
    for mix, stem in zip((first, second, third), stems, strict=True):
        both = own + 10 ** (-6 / 20) * stem
        heard = samples(mix)[0]
        if loudness is None:
            np.testing.assert_allclose(heard, both, atol=2**-22)
        else:
            assert np.corrcoef(heard, both)[0, 1] > 0.999
            assert measure(heard[None], 48_000).integrated == pytest.approx(
                loudness, abs=0.6
            )  # limited
    told = json.loads(sidecar_of(third).read_text())
    assert told["earlier"] == {"sha256": file_sha256(second.with_suffix(".stem.wav"))}
    assert told["video"]["path"] == str(source)

    ask = GenerateOptions.model_validate(FAST | {"prompt": None, "redo": "0.2-0.4"})
    again = make(source, "first.wav", **levels, seed=3)  # whose stem is another's now
    third.with_suffix(".stem.wav").unlink()
    stem = sidecar_of(second.with_suffix(".stem.wav"))
    stem.write_text(json.dumps(json.loads(stem.read_text()) | {"bridge": "another"}))
    for mix in (again, second, third):
        with pytest.raises(FoleyError, match=rf"{mix.name} is a mix, .*--stem"):
            prepare(mix, tmp_path / "o.wav", ask, None)


def test_a_stretch_of_a_sound_at_another_level_has_it_too(
    generator: SoundGenerator, source: Path, tmp_path: Path
) -> None:
    """As if a retake of the sound as the models made it were as much softer, and another."""
    rms: dict[str, list[float]] = {}
    for name, levels in {"plain": {}, "softer": {"loudness": -36.0}}.items():
        out, rms[name] = tmp_path / f"{name}.wav", []
        dubbed(generator, source, out, sample_rate=16_000, **levels)
        for redo in ("0.3-0.7", "0.9-1.3"):
            before, out = out, tmp_path / f"{name} {redo}.wav"
            dubbed(generator, before, out, prompt=None, redo=redo, seed=9)
            start, stop = (round(float(time) * 16_000) for time in redo.split("-"))
            rms[name].append(float(np.sqrt((samples(out)[:, start:stop] ** 2).mean())))
    told = [json.loads(sidecar_of(file).read_text()) for file in tmp_path.glob("softer*.wav")]
    [gain] = {one["gain"] for one in told}
    assert (len(told), gain < -5) == (3, True)
    change = 20 * np.log10(np.divide(rms["softer"], rms["plain"]))
    np.testing.assert_allclose(change, gain, atol=0.05)


def test_python_makes_a_part_anew_too(
    generator: SoundGenerator, source: Path, tmp_path: Path
) -> None:
    made = generator.generate(source, "wood", seed=3, steps=3, redo="1.0-1.5")
    assert made.provenance["settings"]["steps"] == 3
    with pytest.raises(FoleyError, match="is one of the files to read"):
        made.save(source)
    old = samples(source)
    before = round(1.0 * made.sample_rate)
    assert made.sample_rate == decode_audio(source).sample_rate
    np.testing.assert_array_equal(made.audio[:, :before], old[:, :before])
    assert np.abs(made.audio - old)[:, before:].max() > 0.01
    made.save(tmp_path / "first.wav")
    again = generator.generate(tmp_path / "first.wav", seed=4, steps=2, redo="0.2-0.6")
    assert (again.provenance["prompt"], again.video) == ("wood", source)
    with pytest.raises(FoleyError, match="name its file"):
        generator.generate(None, "wood", redo="1.0-1.5")


def test_all_latents_that_a_stretch_touches_are_made_anew() -> None:
    assert latent_spans(((0.51, 1.21), (3.9, 9.0)), 25.0, 100) == ((12, 31), (97, 100))


def test_an_old_sound_gives_way_to_the_new_within_the_stretch() -> None:
    """Equal weights add up to one, so that a sound spliced into itself is itself."""
    old, new = np.zeros((2, 1000), np.float32), np.full((2, 1000), 0.5, np.float32)
    made = spliced(old, new, ((0.2, 0.7),), 1000)[0] / 0.5
    assert set(made[:200]) | set(made[700:]) == {0.0}
    rise, fall = made[200:230], made[670:700][::-1]
    np.testing.assert_allclose(rise, np.arange(1, 31) / 31, rtol=1e-5)
    np.testing.assert_allclose(fall, rise)
    assert set(made[230:670]) == {1.0}
    ends = spliced(old, new, ((0.0, 0.2), (0.9, 9.0)), 1000)[0] / 0.5  # nothing to fade from
    assert ends[0] == ends[-1] == 1.0
    assert np.abs(spliced(old, new * 4, ((0.2, 0.7),), 1000)).max() == 1.0


def test_a_part_of_a_videos_own_sound_is_made_anew(
    generator: SoundGenerator, source: Path, tmp_path: Path
) -> None:
    """A production's sound with a hole in it: the rest stays."""
    dubbed(generator, source, tmp_path / "out.wav", redo="1.0-1.5", seed=3)
    old, new = samples(source), samples(tmp_path / "out.wav")
    assert new.shape == old.shape
    outside = np.r_[0:48_000, 72_000 : old.shape[1]]
    np.testing.assert_allclose(new[:, outside], old[:, outside], atol=2**-22)
    assert np.abs(new - old)[:, 50_000:70_000].max() > 0.01


def test_takes_of_a_stretch(source: Path, tmp_path: Path) -> None:
    asked = GenerateOptions(prompt="rain", redo="0.5-1", seed=4, takes=2)
    found = requests_for(source, tmp_path / "o.wav", asked).sounds
    assert [(r.out.name, r.earlier) for r in found] == [("o.4.wav", source), ("o.5.wav", source)]


@pytest.mark.parametrize("said", [1.0, 4.0])
def test_a_sound_is_as_long_as_what_it_holds(
    generator: SoundGenerator, tmp_path: Path, said: float
) -> None:
    """A header may lie: what is missing costs this sound, what is there is kept."""
    sound, out = tmp_path / "a.flac", tmp_path / "o.flac"
    write_flac(sound, clicks(2.0, [0.5], 16_000)[None], 16_000)
    told = bytearray(sound.read_bytes())
    told[22:26] = round(said * 16_000).to_bytes(4)  # of STREAMINFO: samples in all
    sound.write_bytes(told)
    asked = GenerateOptions.model_validate(FAST | {"redo": "0.8-1.4"})
    dubbing = prepare(sound, out, asked, None)
    (found,) = dubbing.run(lambda *_: None, lambda _: generator)
    if said > 2:
        assert "a.flac: truncated: its audio ends at 2.00 s" in str(found.error)
        return
    assert (found.error, found.seconds) == (None, 2.0)
    changed = np.flatnonzero(samples(sound)[0] != samples(out)[0]) / 16_000
    assert 0.8 <= changed.min() < changed.max() < 1.4
