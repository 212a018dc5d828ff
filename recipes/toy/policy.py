"""The thresholds on scores of the policy `toy`, measured.

To be run again when the toy's ImageBind, its Audiobox or the picture of its clips change. Corpora
of seeds that no demo uses are rendered and scored by the stages of curation themselves; each
threshold is the highest that still keeps the share KEEP of their true clips. So what the policy
costs is chosen, and what it drops is measured.
"""

from __future__ import annotations

import math
import tempfile
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from model.presets.preset import Preset, load_preset
from pipeline.curation.dataset_clips import DatasetClips, dataset_clips
from pipeline.curation.gates import thresholds
from pipeline.curation.known_flaws import flaw_figures
from pipeline.curation.policy import POLICIES, Policy, load_policy, select
from pipeline.curation.sources import folder_source
from pipeline.curation.stage_graph import StageGraph
from pipeline.procedural import Corpus, write_corpus
from pipeline.stages.engine import plan, run_batch
from recipes.toy.recipe import Recipe
from warehouse import Warehouse

SEEDS = (201, 202, 203)  # of the corpora that are measured
KEEP = 0.98  # of true clips, by each threshold alone
SCORES = ("imagebind", "pq")

HEADER = """\
Policy of the toy preset, for procedural clips: of any other video the toy's scores say nothing. The
thresholds on scores and these lines are written by `uv run python -m recipes.toy policy`, which
scored {clips} true and {flawed} flawed clips of the seeds {seeds} (the demo's is another). Each is
the highest that keeps {keep:.0%} of the true clips. All gates together keep {true:.1%} of true,
{misdubbed:.1%} of mis-dubbed and {degraded:.1%} of degraded clips; the area under the ROC curve is
{imagebind:.3f} (mis-dubbed, by ImageBind) and {pq:.3f} (degraded, by PQ)."""


def make_policy(folder: Path, recipe: Recipe) -> None:
    """Write `toy.toml` with thresholds for the networks in `folder`."""
    preset, before = load_preset("toy", weights=folder), load_policy("toy")
    with tempfile.TemporaryDirectory() as scratch:
        wh, fingerprints = score_corpora(Path(scratch), preset, recipe.policy_clips)
        after, figures = measured(wh, fingerprints, before)
    figures |= {"clips": len(SEEDS) * recipe.policy_clips}
    text = rewritten((POLICIES / "toy.toml").read_text(), before, after, figures)
    (folder / "toy.toml").write_text(text)


def score_corpora(folder: Path, preset: Preset, clips: int) -> tuple[Warehouse, dict[str, str]]:
    """Score corpora, rendered into an empty folder -> a warehouse, and fingerprints of stages."""
    wh = Warehouse(folder / "home")
    listings: list[pa.Table] = []
    for seed in SEEDS:
        corpus = folder / f"procedural.{seed}"
        write_corpus(corpus, Corpus(clips, seed, bad=(), flawed=clips // 2))
        listings.append(folder_source(corpus).clips)
    wh.ingest(pa.concat_tables(listings))
    graph = StageGraph(preset)
    for stage in graph.scoring:
        todo = plan(wh, stage, graph.scoring_fingerprints)
        for batch in todo.batches:
            run_batch(wh, stage, todo, batch)
    return wh, graph.scoring_fingerprints


def threshold(clips: DatasetClips, score: str, keep: float = KEEP) -> float:
    """The highest threshold, of three decimals, that keeps this share of the true clips."""
    true = "truth->>'$.bad' is null and truth->>'$.flaw' is null"
    ranked = clips.rows(f"""
        select {score} as value from dataset_clips
        where {true} and {score} is not null order by 1""")
    return math.floor(ranked[math.floor((1 - keep) * len(ranked))]["value"] * 1000) / 1000


def measured(
    wh: Warehouse, fingerprints: Mapping[str, str], policy: Policy
) -> tuple[Policy, dict[str, float]]:
    """The policy with thresholds for the scored clips, and what it drops, as the header says it."""
    everything = select(wh, fingerprints, "all")
    wh.publish()
    with dataset_clips(wh.home, everything.version) as clips:
        bounds = {score: threshold(clips, score) for score in SCORES}
    chosen = with_bounds(policy, bounds)
    version = select(wh, fingerprints, chosen).version
    wh.publish()
    with dataset_clips(wh.home, version) as clips:
        figures = flaw_figures(clips)
    shares = {kind: f["kept"] / (f["kept"] + f["dropped"]) for kind, f in figures.items()}
    return chosen, shares | {
        figures[kind]["score"]: figures[kind]["auc"] for kind in ("misdubbed", "degraded")
    }


def with_bounds(policy: Policy, bounds: Mapping[str, float]) -> Policy:
    """The policy with other thresholds on these columns; each of its gates has one."""
    moved = {
        one.gate.name: one.moved(bounds[one.column])
        for one in thresholds(policy.gates)
        if one.column in bounds
    }
    return replace(policy, gates=tuple(moved.get(gate.name, gate) for gate in policy.gates))


def rewritten(text: str, before: Policy, after: Policy, figures: Mapping[str, float]) -> str:
    """The policy's file with new thresholds and header, and a new version where a gate changed."""
    body = text[text.index("name = ") :]
    for old, new in zip(thresholds(before.gates), thresholds(after.gates), strict=True):
        place = f'column = "{old.column}", {old.comparison} ='
        body = body.replace(f"{place} {old.bound}", f"{place} {new.bound}")
    if after.gates != before.gates:
        body = body.replace(f"version = {before.version}\n", f"version = {before.version + 1}\n", 1)
    seeds = ", ".join(map(str, SEEDS))
    flawed = round(figures["clips"]) // 2
    header = HEADER.format(seeds=seeds, keep=KEEP, flawed=flawed, **figures)
    lines = textwrap.wrap(" ".join(header.split()), 98)
    return "".join(f"# {line}\n" for line in lines) + body
