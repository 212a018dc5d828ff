"""The example that makes sound for a video runs as it stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pipeline.media import probe
from pipeline.procedural import sample_clip
from pipeline.procedural.writing import write_clip
from tests.foley.commands import ROOT, environment


def test_a_video_gets_its_sound(tmp_path: Path) -> None:
    write_clip(sample_clip(3, 2.0), tmp_path / "clip.mp4")
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "generate.py", "clip.mp4", "a ball bounces on wood"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "2.00 s at 16000 Hz by toy\n"
    info = probe(tmp_path / "out.mp4")
    assert info.video_codec == probe(tmp_path / "clip.mp4").video_codec
    assert info.audio_codec is not None
