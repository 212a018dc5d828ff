"""The example that fine-tunes: its clips are what it says, and it runs as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model.metrics.onsets import detect_onsets, sync_score
from pipeline.media import read_audio
from pipeline.procedural import SAMPLE_RATE, sample_clip
from tests.foley.commands import ROOT, environment

EXAMPLE = ROOT / "examples" / "fine_tune.py"


@pytest.mark.slow
def test_it_says_how_well_four_bridges_keep_time_with_late_sounds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLE, tmp_path / "home", "--steps", "2", "--clips", "2", "2", "2"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.splitlines()[-5:]
    assert re.fullmatch(r"best after step \d, ended after step 2", said[0])
    figures = r"onset F1 at 60 ms \d\.\d{3}, v-loss \d\.\d{4}"
    names = ("shipped", "fine-tuned at a lower rate, stopped early", "fine-tuned", "from nothing")
    for name, line in zip(names, said[1:], strict=True):
        assert re.fullmatch(f"{name}: {figures}", line)

    lines = (tmp_path / "home" / "clips" / "clips.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["split"] for row in rows] == ["train", "train", "val", "val", "test", "test"]
    heard: list[np.ndarray] = []
    for row in rows:
        sound = read_audio(tmp_path / "home" / "clips" / row["file"], SAMPLE_RATE, "mono")
        heard.append(detect_onsets(sound, SAMPLE_RATE))
    told = [np.array(row["truth"]["impacts"]) for row in rows]
    seen = [np.array(sample_clip(row["truth"]["seed"]).impacts) for row in rows]
    late, in_time = sync_score(told, heard).f1_60ms, sync_score(seen, heard).f1_60ms
    assert late > 0.9
    assert in_time < 0.1
