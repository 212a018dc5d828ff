"""Every command of docs/generating.md does what the page says it does, with the toy."""

from __future__ import annotations

import shlex
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foley.cli.main import cli
from tests.foley.commands import ROOT
from tests.pipeline.media.samples import clicks, ffmpeg, write_sample

if TYPE_CHECKING:
    from pipeline.generation.dub import Dubbing
    from pipeline.generation.generator import SoundGenerator

PAGE = (ROOT / "docs/generating.md").read_text()
COMMANDS = [
    line.partition(" #")[0]
    for line in PAGE.splitlines()
    if line.startswith(("foley gen", "foley join"))
]
TAGGER = "scores.tagger={ speech = { wood = 1 }, music = { glass = 2 } }"  # which the toy lacks


def fewest_steps(command: str) -> list[str]:
    """Its arguments, and what keeps a test short."""
    more = ["--steps", "2", "--device", "cpu", "--home", "home"]
    return [
        *shlex.split(command)[1:],
        *(more if "generate" in command else []),
        *(["--set", TAGGER] if "--without" in command else []),
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page speaks of; one generator serves all commands."""
    from pipeline.generation.dub import Dubbing
    from pipeline.media import write_wav

    write_sample(tmp_path / "clip.mp4", [i / 12 for i in range(50)], clicks(4.2, [0.5]))
    ffmpeg("-i", tmp_path / "clip.mp4", "-c", "copy", tmp_path / "clip.mov")
    (tmp_path / "videos").mkdir()
    for name in ("one", "two"):
        write_sample(tmp_path / "videos" / f"{name}.mp4", [i / 12 for i in range(8)], None)
    (tmp_path / "jobs.csv").write_text("video,prompt,seed\nvideos/one.mp4,rain,3\n")
    write_wav(tmp_path / "hit.wav", clicks(0.5, [0.1], 16_000), 16_000)
    own, kept = Dubbing.load, list["SoundGenerator"]()

    def load(dubbing: Dubbing) -> SoundGenerator:
        kept[:] = kept or [own(dubbing)]
        first = kept[0]
        generator = copy(first)
        new = {"sample": dubbing.preset.sample, "scores": dubbing.preset.scores}
        generator.preset = first.preset.model_copy(update=new)
        return generator

    monkeypatch.setattr(Dubbing, "load", load)
    monkeypatch.setenv("HOME", str(tmp_path))  # where no home folder is, to keep records in
    monkeypatch.delenv("FOLEY_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_command_of_the_page_makes_its_files(folder: Path) -> None:
    before = "foley generate clip.mp4 --prompt rain --out take.wav"
    for command in (before, *COMMANDS):
        code = cli.main(fewest_steps(command), standalone_mode=False)
        assert not code, command
    made = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "dubbed.mp4", "dubbed.mov", "mixed.mp4", "premix.mov", "remix.mov", "remix.stem.wav",
        "film.mov", "film.edl", "rain.wav", "take.10.wav", "take.13.wav",
        "retake.7.wav", "retake.9.wav", "dubbed/one.flac", "dubbed/two.flac", "dubbed/one.3.mp4",
    } <= made  # fmt: skip
    assert len(COMMANDS) >= 12
