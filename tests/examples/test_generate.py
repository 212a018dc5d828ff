"""The example that makes sound for a video runs as it stands."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from pipeline.media import probe
from pipeline.procedural import sample_clip
from pipeline.procedural.writing import write_clip
from tests.foley.commands import ROOT

EXAMPLE = ROOT / "examples" / "generate.py"


@pytest.mark.slow
def test_a_video_gets_its_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(sample_clip(3, 2.0), tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "clip.mp4", "a ball bounces on wood"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")  # here, where all is imported
    assert capsys.readouterr().out == "2.00 s at 16000 Hz by toy\n"
    info = probe(tmp_path / "out.mp4")
    assert info.video_codec == probe(tmp_path / "clip.mp4").video_codec
    assert info.audio_codec is not None
