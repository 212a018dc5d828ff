"""What the studio makes: takes with their provenance, by models that stay; one that is kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from threading import Event
from zipfile import ZipFile

import av
import numpy as np
import pytest

from foley.studio.workshop import StoppedError, Workshop
from pipeline.generation.options import GenerateOptions
from pipeline.media import read_audio
from warehouse import FoleyError, query

PROMPT = "a ball bounces on wood"


def ask(seed: int = 0, takes: int = 2) -> GenerateOptions:
    return GenerateOptions.of(prompt=PROMPT, seed=seed, takes=takes, device="cpu")


def ignore(done: int, to_do: int) -> None:
    pass


def pictures(path: Path) -> list[bytes]:
    """Packets of the picture as they are in the file."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def test_takes_are_sounds_of_the_videos_length_with_their_provenance(
    workshop: Workshop, video: Path
) -> None:
    steps: list[tuple[int, int]] = []
    takes, notes = workshop.takes(video, ask(7), lambda *step: steps.append(step), Event())
    assert notes == []
    assert [take.seed for take in takes] == [7, 8]
    assert steps[-1][0] == steps[-1][1]
    sounds = [read_audio(take.sound, 16_000) for take in takes]
    assert [len(sound) for sound in sounds] == [40_000, 40_000]
    assert not np.array_equal(sounds[0], sounds[1])
    told = json.loads(takes[1].sound.with_name(f"{takes[1].sound.name}.json").read_text())
    assert (told["prompt"], told["seed"]) == (PROMPT, 8)
    assert told["sound"] == hashlib.sha256(takes[1].sound.read_bytes()).hexdigest()


def test_the_one_that_is_kept_is_the_picture_with_that_sound_and_a_row(
    workshop: Workshop, video: Path
) -> None:
    (take,), _ = workshop.takes(video, ask(9, 1), ignore, Event())
    out, sound, sidecar = workshop.keep(take)
    assert (out.suffix, sound) == (".mp4", take.sound)
    assert pictures(out) == pictures(video)
    heard, made = read_audio(out, 16_000), read_audio(sound, 16_000)
    assert np.corrcoef(heard, made)[0, 1] > 0.95
    told = json.loads(sidecar.read_text())
    assert told["sound"] == hashlib.sha256(out.read_bytes()).hexdigest()
    rows = query(workshop.home, "select path from generated where seed = 9 order by path")
    assert rows.column("path").to_pylist() == [str(out), str(sound)]


def test_a_stretch_of_a_take_is_made_anew_and_the_rest_stays(
    workshop: Workshop, video: Path
) -> None:
    (take,), _ = workshop.takes(video, ask(11, 1), ignore, Event())
    again = GenerateOptions.of(prompt=PROMPT, seed=12, redo="1-1.5", device="cpu")
    (anew,), _ = workshop.takes(take, again, ignore, Event())
    assert (anew.video, anew.seed, anew.redo) == (video, 12, "1-1.5")
    before, after = read_audio(take.sound, 16_000), read_audio(anew.sound, 16_000)
    changed = np.flatnonzero(before != after)
    assert len(changed) > 0
    assert 16_000 <= changed.min() < changed.max() < 24_000


def test_models_stay_for_the_next_request(workshop: Workshop, video: Path) -> None:
    workshop.takes(video, ask(1, 1), ignore, Event())
    loaded = workshop._loaded
    workshop.takes(video, ask(2, 1).model_copy(update={"steps": 3}), ignore, Event())
    assert workshop._loaded is loaded
    assert loaded is not None
    assert loaded[1]._encoder is not None  # which is let go where it is not needed again
    told = max(workshop.folder.glob("*clip/*.json"), key=lambda path: path.stat().st_mtime_ns)
    assert json.loads(told.read_text())["settings"]["steps"] == 3


def test_in_low_memory_no_encoder_is_kept(workshop: Workshop, video: Path) -> None:
    workshop.takes(video, ask(1, 1), ignore, Event())
    loaded = workshop._loaded
    assert loaded is not None
    encoder = loaded[1]._encoder
    options = ask(2, 1).model_copy(update={"low_memory": True})  # of the models that are there
    workshop.takes(video, options, ignore, Event())
    assert loaded[1]._encoder is None
    loaded[1]._encoder = encoder


def test_a_request_that_is_stopped_ends_at_its_next_step(workshop: Workshop, video: Path) -> None:
    stop, steps = Event(), list[int]()

    def step(done: int, to_do: int) -> None:
        steps.append(done)
        stop.set()

    with pytest.raises(StoppedError):
        workshop.takes(video, ask(3), step, stop)
    assert len(steps) == 1
    workshop.takes(video, ask(3, 1), ignore, Event())  # and the next one has its turn


def test_a_file_that_is_no_video_is_one_line(workshop: Workshop, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"nothing")
    with pytest.raises(FoleyError, match=r"bad\.mp4: ") as said:
        workshop.takes(bad, ask(), ignore, Event())
    assert "\n" not in str(said.value)


def test_a_folder_is_done_as_the_command_does_it(
    workshop: Workshop, video: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for before in (False, True):
        [sound] = workshop.batch(video.parent, out, ask(4, 1), ignore, Event())
        assert (sound.error, sound.before) == (None, before)
        assert sound.request.out == out / "my clip.mp4"


def test_all_files_of_a_batch_are_one_to_download(
    workshop: Workshop, video: Path, tmp_path: Path
) -> None:
    options = ask(4, 1).model_copy(update={"stem": True})
    made = [*workshop.batch(video.parent, tmp_path / "out", options, ignore, Event())]
    sounds = [sound.request.out for sound in made]
    with ZipFile(workshop.packed(sounds, "out")) as packed:
        names = ("my clip.mp4", "my clip.stem.wav")
        assert {*packed.namelist()} == {f"{name}{end}" for name in names for end in ("", ".json")}
        for sound in sounds:
            assert packed.read(sound.name) == sound.read_bytes()
    sounds[0].unlink()
    with pytest.raises(FoleyError, match=r"out\.zip cannot be written: .*my clip\.mp4"):
        workshop.packed(sounds, "out")
