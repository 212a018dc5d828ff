"""The thresholds on scores of the policy of a preset, measured.

To be run again when its ImageBind, its Audiobox or the picture of its clips change. Corpora of
seeds that no demo uses are rendered and scored by the stages of curation themselves; each threshold
is the highest that still keeps the share KEEP of their true clips. So what the policy costs is
chosen, and what it drops is measured.
"""

from __future__ import annotations

import math
import tempfile
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from warehouse import Warehouse

SEEDS = (201, 202, 203)  # of the corpora that are measured
KEEP = 0.98  # of true clips, by each threshold alone
SCORES = ("imagebind", "pq")

HEADER = """\
Policy of the preset {preset}, for {kind}: of any other video its scores say nothing. The thresholds
on scores and these lines are written by the step `policy` of `uv run python -m recipes.{preset}`,
which scored {clips} true and {flawed} flawed clips of the seeds {seeds} (no demo's). Each is
the highest that keeps {keep:.0%} of the true clips. All gates together keep {true:.1%} of true,
{misdubbed:.1%} of mis-dubbed and {degraded:.1%} of degraded clips; the area under the ROC curve is
{imagebind:.3f} (mis-dubbed, by ImageBind) and {pq:.3f} (degraded, by PQ)."""


@dataclass(frozen=True)
class Subject:
    """Whose policy is measured, and on what."""

    preset: str
    kind: str  # of clips, as the header names them
    corpora: Mapping[str, Corpus]  # by the name of a folder

    @property
    def true(self) -> int:
        """Clips that are not flawed."""
        return sum(corpus.good for corpus in self.corpora.values())


def procedural(clips: int) -> Subject:
    """The toy's, with so many true clips of each seed."""
    of = {f"procedural.{s}": Corpus(clips, s, bad=(), flawed=clips // 2) for s in SEEDS}
    return Subject("toy", "procedural clips", of)


def make_policy(folder: Path, subject: Subject) -> None:
    """Write a policy of the preset's name with thresholds for the networks in `folder`."""
    name = subject.preset
    preset, before = load_preset(name, weights=folder), load_policy(name)
    with tempfile.TemporaryDirectory() as scratch:
        wh, fingerprints = score_corpora(Path(scratch), preset, subject.corpora)
        after, figures = measured(wh, fingerprints, before)
    text = rewritten((POLICIES / f"{name}.toml").read_text(), before, after)
    header = HEADER.format(
        preset=name,
        kind=subject.kind,
        clips=subject.true,
        flawed=sum(corpus.flawed for corpus in subject.corpora.values()),
        seeds=", ".join(str(corpus.seed) for corpus in subject.corpora.values()),
        keep=KEEP,
        **figures,
    )
    lines = textwrap.wrap(" ".join(header.split()), 98)
    (folder / f"{name}.toml").write_text("".join(f"# {line}\n" for line in lines) + text)


def score_corpora(
    folder: Path, preset: Preset, corpora: Mapping[str, Corpus]
) -> tuple[Warehouse, dict[str, str]]:
    """Score corpora, rendered into an empty folder -> a warehouse, and fingerprints of stages."""
    graph = StageGraph(preset)
    fingerprints = graph.scoring_fingerprints  # of weights that are missed here, and not later
    wh = Warehouse(folder / "home")
    listings: list[pa.Table] = []
    for name, corpus in corpora.items():
        write_corpus(folder / name, corpus)
        listings.append(folder_source(folder / name).clips)
    wh.ingest(pa.concat_tables(listings))
    for stage in graph.scoring:
        todo = plan(wh, stage, fingerprints)
        for batch in todo.batches:
            run_batch(wh, stage, todo, batch)
    return wh, fingerprints


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


def rewritten(text: str, before: Policy, after: Policy) -> str:
    """The policy's file with new thresholds, no header, and a new version where a gate changed."""
    body = text[text.index("name = ") :]
    for old, new in zip(thresholds(before.gates), thresholds(after.gates), strict=True):
        place = f'column = "{old.column}", {old.comparison} ='
        body = body.replace(f"{place} {old.bound}", f"{place} {new.bound}")
    if after.gates != before.gates:
        body = body.replace(f"version = {before.version}\n", f"version = {before.version + 1}\n", 1)
    return body
