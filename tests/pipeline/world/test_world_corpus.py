"""Folders of worlds: real media files, their sidecar, and the command that writes them."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner

from foley.cli.main import cli
from model.metrics.onsets import detect_onsets
from pipeline.curation.sources import folder_source
from pipeline.media import read_audio
from pipeline.procedural import MISDUBBED, read_ledger, write_corpus
from pipeline.procedural.corpus import LEDGER, CorpusClip
from pipeline.world import WorldClip
from pipeline.world.corpus import WorldCorpus
from warehouse.errors import FoleyError

CORPUS = WorldCorpus(8, seed=3, seconds=1.0, bad=(), flawed=2, level=1, pairs=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight worlds of a second, two flawed ones and a pair; not to be changed."""
    folder = tmp_path_factory.mktemp("worlds") / "worlds"
    write_corpus(folder, CORPUS)
    return folder


def test_a_file_is_h264_and_stereo_aac_at_a_real_rate(folder: Path) -> None:
    rates: set[float] = set()
    for path in sorted(folder.glob("clip-*.mp4")):
        with av.open(str(path)) as file:
            video, audio = file.streams.video[0], file.streams.audio[0]
            assert video.codec_context.name == "h264"
            assert (audio.codec_context.name, audio.channels) == ("aac", 2)
            assert audio.rate == 48_000
            assert video.width == video.height in (96, 112, 128)
            assert video.average_rate is not None
            rates.add(round(float(video.average_rate), 2))
    assert rates <= {23.98, 24.0, 25.0, 29.97, 30.0}
    assert len(rates) > 1


def test_what_is_heard_in_a_file_is_its_truth(folder: Path) -> None:
    for name, row in read_ledger(folder).items():
        if row["truth"]["flaw"] is None:
            sound = read_audio(folder / name, 48_000)
            onsets = detect_onsets(sound.reshape(-1, sound.shape[-1]).mean(0), 48_000)
            nearest = [np.abs(onsets - t).min() for t in row["truth"]["impacts"]]
            assert np.mean(np.array(nearest) < 0.06) > 0.7
    assert sum(len(row["truth"]["impacts"]) for row in read_ledger(folder).values()) > 12


def test_the_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    corpus = WorldCorpus(1, seed=3, seconds=1.0, bad=(), level=1)
    write_corpus(tmp_path, corpus)
    assert (tmp_path / "clip-00000.mp4").read_bytes() == (folder / "clip-00000.mp4").read_bytes()
    before = (tmp_path / "clip-00000.mp4").stat().st_mtime_ns
    write_corpus(tmp_path, corpus)
    assert (tmp_path / "clip-00000.mp4").stat().st_mtime_ns == before
    assert len({path.read_bytes() for path in folder.glob("clip-*.mp4")}) == 10


def test_what_is_right_is_not_rendered_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CorpusClip, "write", lambda *_: pytest.fail("rendered again"))
    before = (folder / "clips.jsonl").stat().st_mtime_ns
    assert len(write_corpus(folder, CORPUS)) == 12
    assert (folder / "clips.jsonl").stat().st_mtime_ns == before


def test_splits_flaws_and_pairs_are_in_the_sidecar(folder: Path) -> None:
    rows = read_ledger(folder)
    splits = {name: row["split"] for name, row in rows.items()}
    assert [n for n, split in splits.items() if split == "test"] == [
        "clip-00006.mp4",
        "pair-00000-a.mp4",
        "pair-00000-b.mp4",
    ]
    flawed = [row["truth"] for row in rows.values() if row["truth"]["flaw"]]
    assert len(flawed) == 2
    assert all(truth["flaw"] == MISDUBBED or truth["severity"] >= 0.4 for truth in flawed)
    a, b = (rows[f"pair-00000-{which}.mp4"] for which in "ab")
    assert (a["truth"]["change"], a["prompt"]) == (None, b["prompt"])
    assert b["truth"]["change"] is not None
    listed = folder_source(folder).clips.to_pylist()
    assert {row["prompt"] for row in listed} == {row["prompt"] for row in rows.values()}
    assert all(json.loads(row["truth"])["level"] == 1 for row in listed)


def test_a_mis_dubbed_world_has_the_sound_of_another_of_its_material() -> None:
    clip = WorldClip(0, 1, 1.0)
    other = clip.another()
    assert other.seed != clip.seed
    assert other.label == clip.rendered().label
    assert (other.audio() != clip.audio()).any()


def test_the_command_renders_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})  # in this process
    run = CliRunner().invoke
    folder = tmp_path / "w"
    done = run(cli, ["render", str(folder), "--clips", "1", "--level", "2", "--seed", "4"])
    assert done.exit_code == 0, done.output
    assert "1 clips with" in done.output
    assert read_ledger(folder)["clip-00000.mp4"]["truth"]["seed"] == 4_000_000
    whole = (folder / LEDGER).read_bytes()
    (folder / LEDGER).unlink()  # as of a render that was killed
    for other in (["--seed", "4"], ["--level", "2"]):
        failed = run(cli, ["render", str(folder), "--clips", "1", *other])
        assert "give --level 2 --seed 4, or choose another" in str(failed.exception)
    again = run(cli, ["render", str(folder), "--clips", "1", "--level", "2", "--seed", "4"])
    assert (again.exit_code, (folder / LEDGER).read_bytes()) == (0, whole)
    for wrong, said in (
        (["--clips", "1", "--seed", "5", "--level", "2"], "another corpus"),
        (["--clips", "1", "--seed", "4"], "another corpus"),
        (["--clips", "0"], "nothing to render"),
    ):
        failed = run(cli, ["render", str(folder), *wrong])
        assert isinstance(failed.exception, FoleyError)
        assert said in str(failed.exception)


@pytest.mark.parametrize("name", ["holiday.mp4", "clip-00000.mp4"])
def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    failed = CliRunner().invoke(cli, ["render", str(tmp_path), "--clips", "1"])
    assert f"holds other files, such as {name}" in str(failed.exception)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"mine"


def test_long_takes_and_duplicates_are_other_files_of_known_worlds(tmp_path: Path) -> None:
    corpus = WorldCorpus(2, seed=4, seconds=1.0, bad=(), level=1, duplicates=1, long=1)
    rows = {row["file"]: row for row in write_corpus(tmp_path, corpus)}
    own, again = (rows[f"{name}-00000.mp4"] for name in ("clip", "again"))
    assert own["sha256"] != again["sha256"]
    assert own["truth"]["events"] == again["truth"]["events"]
    assert again["truth"]["duplicate"]
    shapes: list[tuple[int, float]] = []
    for row in (own, again):
        with av.open(str(tmp_path / row["file"])) as file:
            video = file.streams.video[0]
            assert video.average_rate is not None
            shapes.append((video.width, float(video.average_rate)))
    assert shapes[0][0] != shapes[1][0]
    assert shapes[0][1] != shapes[1][1]
    with av.open(str(tmp_path / "long-00000.mp4")) as file:
        assert file.duration == pytest.approx(16_000_000, rel=0.01)
    assert max(rows["long-00000.mp4"]["truth"]["impacts"]) > 12
    with pytest.raises(ValueError, match="3 duplicates of 2 clips"):
        WorldCorpus(2, duplicates=3)
