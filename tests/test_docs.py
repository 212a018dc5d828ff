"""What README and docs say is what the code has and the committed results are."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from model.presets.preset import load_preset
from tests.benchmarks import evaluation

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS: dict[str, Any] = json.loads((ROOT / "docs/figures/demo-results.json").read_text())
CURATION: dict[str, Any] = json.loads((ROOT / "docs/figures/curation-results.json").read_text())
TITLES = {"true": "its own video", "other": "another clip's video", "none": "no video, text only"}


@pytest.mark.parametrize("condition", list(TITLES))
def test_the_sync_table_in_the_readme_is_that_of_the_committed_results(condition: str) -> None:
    row = RESULTS["sync"][condition]
    figures = f"{row['f1_60ms']:.2f} | {row['f1_100ms']:.2f} | {row['mae_ms']:.0f} ms"
    line = f"| {TITLES[condition]} | {figures} |"
    assert line in README


def test_the_other_figures_in_the_readme_are_those_of_the_committed_results() -> None:
    loss, swap = RESULTS["v_loss"], RESULTS["prompt_swap"]
    text = " ".join(README.split())
    assert f"v-loss {loss['true']:.3f} with its own video, {loss['null']:.3f} with none" in text
    assert f"{loss['other']:.3f} with another's" in text
    assert f"{swap['material_accuracy']:.0%} of the sounds take the new material" in text
    assert f"F1 {swap['f1_60ms']:.2f}" in text
    assert f"{RESULTS['held_out_clips']} held-out clips" in text
    assert RESULTS["machine"]["processor"] in text
    assert f"{RESULTS['seconds']['total']:.0f} s" in text


def test_the_committed_results_say_where_they_come_from() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", RESULTS["commit"])
    assert RESULTS["preset"] == "toy"


def test_the_curations_table_is_that_of_the_committed_results() -> None:
    page = (ROOT / "docs" / "curation.md").read_text()
    for kind, row in CURATION["flaws"].items():
        told = f"{row['score']} | {row['auc']:.3f} |" if "auc" in row else "| |"
        assert f"| {kind} | {row['kept'] + row['dropped']} | {row['kept']} | {told}" in page


def test_the_table_of_the_metric_check_is_that_of_its_committed_results() -> None:
    results = json.loads((ROOT / "docs/figures/metric-check.json").read_text())
    page = (ROOT / "docs" / "evaluation.md").read_text()
    assert evaluation.table(results) in page
    followed = results["desync_rank_correlation"]
    said = f"{followed['systems']:.2f} over systems, {followed['clips']:.2f} over clips"
    assert f"rank correlation {said}" in page
    assert f"{results['clips']} clips that no network has seen" in page
    true = (results["sounds"]["true"]["ib"], results["bilinear"]["true"]["ib"])
    assert f"change IB of true sounds from {true[0]:.3f} to {true[1]:.3f}" in page


def test_every_local_link_leads_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    links = [
        (page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())
    ]
    assert links
    missing = [
        f"{page.name}: {link}"
        for page, link in links
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert not missing


def test_settings_page_gives_the_presets_own_values() -> None:
    rows = re.findall(
        r"^\|[^|]*\| `([\w.]+)` \| `?([^|`]+)`? \| `?([^|`]+)`? \|",
        (ROOT / "docs/training.md").read_text(),
        re.MULTILINE,
    )
    checked = 0
    for name, toy, paper in rows:
        section, _, key = name.partition(".")
        for preset, said in (("toy", toy.strip()), ("paper", paper.strip())):
            value: Any = getattr(getattr(load_preset(preset), section), key)
            assert str(value) == said, f"{name} of preset {preset}"
            checked += 1
    assert checked >= 8


def test_licences_of_all_models_are_in_the_readme() -> None:
    table = README[README.index("## Citation and licence") :]
    named = [
        "ImageBind",
        "Stable Audio Open",
        "Audiobox",
        "V-JEPA2",
        "T5",
        "PANNs",
        "PaSST",
        "VGGish",
        "Synchformer",
    ]
    assert all(name in table for name in named)


def test_pins_that_belong_together_are_in_the_project() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {"prefect==3.8.8", "torch==2.11.0"} <= set(dependencies)
