"""The example of a score of one's own runs, and is a score like any other with no other change."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from model.presets.preset import load_preset
from pipeline.curation.page import gather_page
from pipeline.curation.policy import load_policy, select
from pipeline.curation.sources import folder_source
from pipeline.curation.stage_graph import StageGraph
from pipeline.report import write_page
from pipeline.report.curation import render_curation
from pipeline.stages.engine import fingerprints
from tests.foley.commands import ROOT
from tests.pipeline.small import work
from warehouse import FoleyError, Warehouse, query

EXAMPLE = ROOT / "examples" / "add_a_score.py"
STAGES = 'stages = ["add_a_score:Brightness"]\n'
BOUND = 0.2
POLICY = f"""
name = "lit"
version = 1
[[gate]]
name = "dark"
keep = [{{ column = "brightness", at_least = {BOUND} }}]
"""


def brightness(path: str) -> float:
    """The mean of all pictures of a file, by another way than the example's."""
    with av.open(path) as source:
        pictures = [f.to_ndarray(format="rgb24").mean() for f in source.decode(video=0)]
    return float(np.mean(pictures)) / 255


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60


def test_a_score_of_ones_own_shows_everywhere(tmp_path: Path, corpus: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    (tmp_path / "preset.toml").write_text('base = "toy"\n' + STAGES)
    (tmp_path / "lit.toml").write_text(POLICY)
    graph = StageGraph(load_preset(str(tmp_path)))
    stages = [s for s in graph.scoring if s.name in ("probe", "silence", "brightness")]
    assert len(stages) == 3
    named = fingerprints(stages)
    wh = Warehouse(tmp_path / "home")
    wh.ingest(folder_source(corpus).clips)
    work(wh, stages, named)
    dataset = select(wh, named, str(tmp_path / "lit.toml"))
    wh.publish()
    rows = query(wh.home, "from brightness join clips using (clip_id)").to_pylist()
    assert len(rows) > 8
    for row in rows:
        assert row["brightness"] == pytest.approx(brightness(row["path"]), abs=0.02)
    lit = {row["clip_id"] for row in rows if row["brightness"] >= BOUND}
    assert set(dataset.clip_ids()) == lit
    assert 0 < len(lit) < len(rows)
    funnel = query(wh.home, "select passed from funnel where stage = 'brightness'").to_pylist()
    assert funnel == [{"passed": len(rows)}]
    write_page(tmp_path / "page.html", render_curation(gather_page(wh.home)))
    page = (tmp_path / "page.html").read_text()
    for text in ("mean brightness of the picture", "gate: brightness ≥", "keep ≥"):
        assert text in page


def test_a_policy_may_bring_the_stage_that_its_gate_needs(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    (tmp_path / "lit.toml").write_text(STAGES + POLICY)
    policy = load_policy(str(tmp_path / "lit.toml"))
    graph = StageGraph(load_preset("toy"), policy.stages)
    assert graph.scoring[-1].name == "brightness"
    columns = {field.name: field.type for stage in graph.scoring for field in stage.schema}
    policy.check_columns(columns, "lit")
    with pytest.raises(FoleyError, match=r"policy lit: gate dark: no stage gives .* brightness"):
        policy.check_columns({}, "lit")
