"""The benchmark for a GPU runs, here with the toy on the CPU, and writes all of its figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from model.presets.preset import Preset
from tests.benchmarks.gpu import FIGURES, RESULTS, Sizes, figures, gpu, measured, write_results


@pytest.mark.slow
def test_every_part_measures_something(preset: Preset, tmp_path: Path) -> None:
    parts = list(
        measured(preset, "cpu", Sizes(batch=2, seconds=1.0, steps=1, rounds=1), backend="eager")
    )
    assert len(parts) == 5
    for row in parts[-1]:
        on_gpus = "memory" in row["name"] or "share" in row["name"]
        assert (row["value"] is None) == on_gpus, row
        assert (row.get("unmeasured") == "not known of this card") == on_gpus, row
    write_results(tmp_path / "found.json", parts[0], "a card")
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["card"] == "a card"
    assert {row["name"]: row.get("unmeasured") for row in written["figures"]}[
        "12 s of sound: peak memory"
    ] == "not run"


@pytest.mark.slow
def test_a_part_that_fails_says_why_and_the_others_run(preset: Preset, tmp_path: Path) -> None:
    broken = preset.model_copy(update={"weights": tmp_path})
    found = list(measured(broken, "cpu", Sizes(batch=1, seconds=1.0, steps=1, rounds=1)))[-1]
    assert all("no weights at" in row["unmeasured"] for row in found)


def test_the_committed_file_has_every_figure_or_says_why_not() -> None:
    held = json.loads(RESULTS.read_text())
    assert [(row["name"], row["unit"], row["target"]) for row in held["figures"]] == [
        (name, unit, target) for name, unit, _, target in FIGURES
    ]
    assert all((row["value"] is None) == ("unmeasured" in row) for row in held["figures"])
    if held["card"] is None:
        assert held["figures"] == figures({}, {name: "no GPU was at hand" for name, *_ in FIGURES})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_a_line_and_leaves_the_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = RESULTS.read_bytes()
    assert list(gpu()) == []
    assert RESULTS.read_bytes() == before
    assert capsys.readouterr().err.splitlines() == [
        "gpu: torch finds no CUDA device here, so nothing is measured"
    ]
