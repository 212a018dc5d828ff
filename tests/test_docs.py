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


def test_the_fine_tuning_table_is_that_of_the_committed_results() -> None:
    text = (ROOT / "docs/training.md").read_text()
    for name, row in json.loads((ROOT / "docs/figures/fine-tune.json").read_text())[
        "bridges"
    ].items():
        figures = f"{row['f1_60ms']:.3f} | {row['mae_ms']:.0f} ms | {row['v_loss']:.3f}"
        assert f"| {name} | {row['steps']} | {figures} |" in text


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


def test_the_table_of_the_pooling_ablation_is_that_of_its_committed_results() -> None:
    results = json.loads((ROOT / "docs/figures/ablation-pooling.json").read_text())
    page = (ROOT / "docs" / "training.md").read_text()
    for steps in sorted({mark["steps"] for mark in results["marks"]}):
        cells: list[str] = []
        for mark in (m for m in results["marks"] if m["steps"] == steps):
            kl, f1, loss = (mark["figures"][name] for name in ("kl_panns", "f1_60ms", "v_loss"))
            cells.append(f"{kl['value']:.3f} ({kl['low']:.3f} to {kl['high']:.3f})")
            cells += [f"{f1['value']:.3f}", f"{loss['value']:.4f}"]
        assert f"| {steps} | {' | '.join(cells)} |" in page
    text = " ".join(page.split())
    trained, held_out = results["clips"]["frame"], results["held_out_clips"]
    assert f"{trained} training and {held_out} held-out clips" in text
    assert f"at {results['commit'][:10]}; {results['seconds']} s on" in text


def test_the_table_of_the_curation_ablation_is_that_of_its_committed_results() -> None:
    results = json.loads((ROOT / "docs/figures/ablation-curation.json").read_text())
    page = (ROOT / "docs" / "curation.md").read_text()
    names = {"curated": "what the policy kept", "uncurated": "all that decodes"}
    for mark in results["marks"]:
        kl, f1, loss = (mark["figures"][name] for name in ("kl_panns", "f1_60ms", "v_loss"))
        told = f"{kl['value']:.3f} ({kl['low']:.3f} to {kl['high']:.3f})"
        row = f"{told} | {f1['value']:.3f} | {loss['value']:.4f}"
        assert f"| {names[mark['variant']]} | {row} |" in page
    text = " ".join(page.split())
    clips = results["clips"]
    assert f"in the demo {clips['curated']} clips against {clips['uncurated']}," in text
    assert f"({results['commit'][:10]}, " in text
    assert f"{results['held_out_clips']} held-out clips" in text


def test_the_tables_of_simulated_worlds_are_those_of_their_committed_results() -> None:
    results = json.loads((ROOT / "docs/figures/world.json").read_text())
    page = (ROOT / "docs" / "toy.md").read_text()
    shown = ("own video", "another's video", "no video", "true sound, decoded", "true sound")
    for level, found in results["time"].items():
        low, high = found["f1_60ms"]["own video"]["interval"]
        cells = [f"{found['f1_60ms'][name]['value']:.2f}" for name in shown]
        cells[0] += f" ({low:.2f} to {high:.2f})"
        assert f"| {level} | {' | '.join(cells)} |" in page
        assert f"{found['clips']} worlds a level" in page
    names = {
        "force": ("level 1", "level 2", "level 3"),
        "place": ("level 1", "level 2", "level 3"),
        "material": (
            "of true sounds the judge tells",
            "by a swapped prompt, the new one",
            "F1 by a swapped prompt",
            "by no prompt, the visible one",
        ),
        "cause": ("both", "heard in the act", "nowhere else"),
        "rest": ("onsets a second",),
        "unseen": ("hits in the picture that are met", "hits outside of it that are met"),
    }
    for claim, figures in names.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| {claim} |"))
        for name in figures:
            assert f"{results[claim][name]:.2f}" in row, (claim, name)
    assert results["commit"][:10] in page
    policy = (ROOT / "pipeline/curation/policies/world.toml").read_text()
    header = " ".join(policy[: policy.index("name =")].replace("#", "").split())
    row = next(line for line in page.splitlines() if line.startswith("| curation |"))
    measured = re.findall(r"\d+\.\d%|0\.\d{3}", header)
    assert len(measured) == 5
    assert all(figure in row for figure in measured)


def _told(rows: list[dict[str, float]]) -> str:
    """Means of some figures, with the lowest and the highest F1."""
    f1 = [row["F1"] for row in rows]
    mean = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    told = [f"{mean['F1']:.2f} ({min(f1):.2f} to {max(f1):.2f})"]
    told += [f"{mean[name]:.2f}" for name in ("F1, another's video", "side", "material")]
    return " | ".join(
        [*told, f"{mean['v-loss']:.3f}", f"{round(mean['dB over the quietest tenth'])}"]
    )


def test_the_tables_of_trainings_on_worlds_are_those_of_their_committed_results() -> None:
    results = json.loads((ROOT / "docs/figures/world_training.json").read_text())
    page = (ROOT / "docs" / "toy.md").read_text()
    text = " ".join(page.split())
    names = {
        "anew, frame tokens": "`frame`",
        "anew, grid2 tokens": "`grid2`",
        "anew, flawed": "all, from nothing",
        "anew, flawed, kept by the policy": "what the policy keeps, from nothing",
        "anew, flawed, as many at random": "as many at random, from nothing",
        "true": "200 true ones",
        "flawed": "the flawed corpus, all 200",
        "flawed, kept by the policy": "what the policy `world` keeps of it",
        "flawed, as many at random": "as many of it at random",
        "half overlaid": "100 true ones, 100 under speech or music",
        "half overlaid, kept by the policy": "what the policy keeps of these",
        "all overlaid": "200 under speech or music",
    }
    assert {*names} == {*results["bridges"]}
    seeds = len(results["plan"]["seeds"])
    for name, title in names.items():
        found = results["bridges"][name]
        rows = [
            dict(zip(found["figures"], of, strict=True))
            for of in zip(*found["figures"].values(), strict=True)
        ]
        assert len(rows) == seeds
        assert f"| {title} | {found['clips']} | {_told(rows)} |" in page
    assert (
        f"| the shipped bridge, not trained on | | {_told(results['shipped, by noise'])} |" in page
    )
    for kind, (kept, of) in results["curation"].items():
        assert f"{kept} of {of} {kind.removesuffix(', of the half')}" in text
    assert f"world_training` ({results['machine']['cores']} cores" in text
    assert results["commit"][:10] in page


def test_how_few_steps_do_is_what_was_measured() -> None:
    lines = (ROOT / "docs/figures/toy-steps.jsonl").read_text().splitlines()
    text = " ".join((ROOT / "docs/generating.md").read_text().split())
    for figure in map(json.loads, lines):
        steps = figure["name"].split()[-2]
        assert re.search(rf"\b{steps} (steps |\([^)]*\) )?{figure['value']:.2f}\b", text), steps


def test_the_table_of_full_size_is_what_was_measured() -> None:
    lines = (ROOT / "docs/figures/full-size.jsonl").read_text().splitlines()
    rows: dict[str, list[str]] = {}
    for figure in map(json.loads, lines):
        command = figure["name"].removeprefix("full size, foley ").partition(":")[0]
        digits = 0 if figure["unit"] == "s" else 1
        rows.setdefault(command, []).append(f"{figure['value']:.{digits}f} {figure['unit']}")
    page = (ROOT / "docs" / "operating.md").read_text().partition("full-size.jsonl")[2]
    table = page.split("\n\n")[0].replace("`", "").replace("--low-memory", "in low memory")
    told = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    found = {re.sub(r", .*", "", cells[0]): cells[1:] for cells in told[2:]}
    assert found == rows


def test_what_editing_does_in_the_toy_is_what_was_measured() -> None:
    lines = (ROOT / "docs/figures/toy-editing.jsonl").read_text().splitlines()
    found = {figure["name"]: figure["value"] for figure in map(json.loads, lines)}
    page = (ROOT / "docs/generating.md").read_text()
    strengths = (0.7, 0.8, 0.85, 0.9, 1.0)
    for row, name in (
        ("onset F1 against the picture", "onset F1 at 60 ms, reference of strength {}"),
        ("share with the material of the reference", "material of the reference, strength {}"),
    ):
        values = " | ".join(f"{found[name.format(s)] + 1e-9:.2f}" for s in strengths)
        assert f"| {row} | {values} |" in page
    inside = "onset F1 at 60 ms within 1-3 s, {}"
    retakes, takes = (found[inside.format(name)] for name in ("retakes", "whole takes"))
    text = " ".join(page.split())
    assert f"F1 is {retakes:.2f} for retakes and {takes:.2f} for whole takes" in text
    assert f"at F1 {found['onset F1 at 60 ms with two prompts']:.2f}." in text
    level = "level within 0.25 s of the edges against the rest, {}"
    false = "onsets near the edges without an impact, {}"
    retakes, takes = (
        (f"{found[level.format(name)]:.1f} dB", f"{found[false.format(name)]:.0%}")
        for name in ("retakes", "whole takes")
    )
    assert f"level is {retakes[0]} over the rest (whole takes {takes[0][:3]})" in text
    assert f"{retakes[1]} of onsets are no impact (whole takes {takes[1]})" in text


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
