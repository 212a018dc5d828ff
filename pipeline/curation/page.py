"""Gathers what the page of a curation shows, by queries on the catalog.

Few numbers, however many clips there are.
"""

import contextlib
import math
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.curation.dataset_clips import DatasetClips, dataset_clips
from pipeline.curation.gates import Threshold, thresholds
from pipeline.curation.known_flaws import flaw_figures
from pipeline.media import Framing, MediaError, media_workers, probe, read_audio, read_frames
from pipeline.procedural import write_media
from pipeline.report.charts import label
from pipeline.report.curation import Bin, CurationPage, Fact, Sample, Step, Sweep
from warehouse.files import Json
from warehouse.rows.live import literal, quote

COLUMNS = 24  # bars of a histogram
SWEEP_STEPS = 40
REASONS = 6  # shown of a step
LABELS = 12  # shown at each end, by kept share
BINS, SAMPLES = 9, 20  # so the page holds at most so many clips, each of at most so many bytes:
PREVIEW_BYTES = 160_000
PREVIEW_SECONDS, PREVIEW_FPS, PREVIEW_SIDE, PREVIEW_RATE = 4.0, 12, 128, 32_000


def gather_page(home: Path, version: str | None = None, seed: int = 0) -> CurationPage:
    """What the page shows of a dataset name or version, None for the newest.

    `seed` draws the clips to watch. Raises FoleyError when there is no such dataset.
    """
    with dataset_clips(home, version) as clips:
        bounds = [t for t in thresholds(clips.policy.gates) if t.column in clips.facts]
        spans = _spans(clips, bounds)
        labels = clips.rows("""
            select label as name, count(*) as clips, count(*) filter (kept) as kept
            from dataset_clips where label is not null
            group by label order by avg(kept::int), label""")
        ends = labels if len(labels) <= 2 * LABELS else labels[:LABELS] + labels[-LABELS:]
        return CurationPage(
            dataset=clips.dataset,
            steps=_steps(clips),
            facts=[_fact(clips, name, span, bounds) for name, span in spans.items()],
            sweeps=[_sweep(clips, threshold, spans[threshold.column]) for threshold in bounds],
            labels=ends,
            classes=len(labels),
            bins=_bins(clips, [t.column for t in bounds], seed),
            flaws=flaw_figures(clips),
            seed=seed,
        )


def _steps(clips: DatasetClips) -> list[Step]:
    """The funnel with its reasons; of a failure its message counts, without the file's name."""
    rows = clips.con.execute(
        """
        with dropped as (
            select if(contains(reason, ': '), split_part(reason, ': ', 1) || ': ', reason) as step,
                   if(ends_with(reason, ': failed') or starts_with(reason, 'clips: '),
                      coalesce(regexp_replace(message, '^/.*?: ', ''), reason),
                      split_part(reason, ': ', 2)) as why
            from dataset_clips where not kept),
        counted as (select step, why, count(*) as clips from dropped group by all)
        select step, list((why, clips) order by clips desc, why)[:?], count(*)
        from counted group by step""",
        [REASONS],
    ).fetchall()
    reasons: Any = {step: (tuple(shown), kinds - len(shown)) for step, shown, kinds in rows}
    funnel: list[Json] = clips.dataset["funnel"]
    gates = clips.policy.gates
    steps = [
        Step(row["step"], row["dropped"], row["left"], "", *reasons.get(f"{row['step']}: ", ()))
        for row in funnel[: len(funnel) - len(gates)]  # stages come first
    ]
    return steps + [
        Step(gate.name, row["dropped"], row["left"], str(gate.condition))
        for gate, row in zip(gates, funnel[len(steps) :], strict=True)
    ]


def _spans(clips: DatasetClips, bounds: Sequence[Threshold]) -> dict[str, tuple[float, float]]:
    """The axis of every fact that differs between clips, those with thresholds first.

    All values but the outermost thousandth, and the thresholds.
    """
    names = list(dict.fromkeys([*(t.column for t in bounds), *clips.facts]))
    if not names:
        return {}
    columns = ", ".join(f"quantile_cont({quote(name)}, [0.001, 0.999])" for name in names)
    row: object = clips.con.execute(f"select {columns} from dataset_clips").fetchall()[0]
    spans: dict[str, tuple[float, float]] = {}
    for name, ends in zip(names, row, strict=True):
        asked = [t.bound for t in bounds if t.column == name]
        if ends is None or not all(map(math.isfinite, ends)):
            continue
        if asked or ends[0] < ends[1]:
            low, high = min(ends[0], *asked, ends[0]), max(ends[1], *asked, ends[1])
            spans[name] = (float(low), float(high) if high > low else low + 1.0)
    return spans


def _fact(
    clips: DatasetClips, name: str, span: tuple[float, float], bounds: Sequence[Threshold]
) -> Fact:
    """Clips by bin; what lies beyond an end counts in the last bin there."""
    column, (low, high) = quote(name), span
    rows = clips.con.sql(f"""
        select greatest(0, least({COLUMNS - 1},
                   floor(({column} - {low}) / {high - low} * {COLUMNS})))::int as bin,
               count(*), count(*) filter (kept)
        from dataset_clips where isfinite({column}::double) group by bin""").fetchall()
    counts = {place: (clips, kept) for place, clips, kept in rows}
    everything, kept = zip(*(counts.get(i, (0, 0)) for i in range(COLUMNS)), strict=True)
    asked = tuple((t.sign, t.bound) for t in bounds if t.column == name)
    return Fact(name, clips.facts[name], low, high, everything, kept, asked)


def _sweep(clips: DatasetClips, threshold: Threshold, span: tuple[float, float]) -> Sweep:
    """Kept share of the clips that reach the gates, for every place of one threshold."""
    gates = clips.policy.gates

    def share(bound: float) -> str:
        moved = [threshold.moved(bound) if gate is threshold.gate else gate for gate in gates]
        kept = " and ".join(f"coalesce({gate.condition.sql()}, false)" for gate in moved)
        return f"avg(({kept})::int)"

    places = [*np.linspace(*span, SWEEP_STEPS + 1).tolist(), threshold.bound]
    names = ", ".join(literal(gate.name) for gate in gates)
    row: object = clips.con.execute(f"""
        select {", ".join(map(share, places))}
        from dataset_clips where reason is null or reason in ({names})""").fetchall()[0]
    *shares, now = [float(value or 0.0) for value in row]
    condition = f"{threshold.column} {threshold.sign} {label(threshold.bound)}"
    points = list(zip(places, shares, strict=False))
    return Sweep(threshold.gate.name, condition, threshold.bound, now, points)


def _bins(clips: DatasetClips, shown: Sequence[str], seed: int) -> list[Bin]:
    """Random clips of those kept, and of those dropped for each of the most frequent reasons."""
    names = list(dict.fromkeys(shown))
    rows = clips.rows(f"""
        with binned as (
            select *, coalesce(reason, 'kept') as bin, row_number() over (
                partition by reason
                order by md5_number_lower('{int(seed)}:' || clip_id)) as drawn
            from dataset_clips),
        bins as (
            select bin, count(*) as clips from binned
            group by bin order by bin <> 'kept', clips desc, bin limit {BINS})
        select bin, clips, clip_id, path, prompt, message{"".join(f", {quote(n)}" for n in names)}
        from binned join bins using (bin) where drawn <= {SAMPLES}
        order by bin <> 'kept', clips desc, bin, clip_id""")
    workers = media_workers()
    jobs = (partial(preview, Path(row["path"] or "")) for row in rows)
    videos = workers.map(jobs, ahead=4 * workers.count)

    def sample(row: Json, video: bytes | MediaError | None) -> Sample:
        numbers = ", ".join(f"{name} {row[name]:.3g}" for name in names if row[name] is not None)
        facts = "; ".join(filter(None, [numbers, row["message"]]))
        shown = None if isinstance(video, MediaError) else video
        return Sample(row["clip_id"], row["prompt"] or "", row["path"] or "", facts, shown)

    pairs = groupby(zip(rows, videos, strict=True), lambda pair: (pair[0]["bin"], pair[0]["clips"]))
    return [Bin(*bin, [sample(*pair) for pair in group]) for bin, group in pairs]


def preview(path: Path) -> bytes | None:
    """The beginning of a clip as a small mp4 for a browser, None without picture and sound.

    Made anew, and never the file itself: that may be large, of a kind that no browser plays, or
    made to harm one.
    """
    frames = audio = None
    with contextlib.suppress(MediaError):
        seconds = min(PREVIEW_SECONDS, probe(path).duration or PREVIEW_SECONDS)
        times = np.arange(max(1, round(seconds * PREVIEW_FPS))) / PREVIEW_FPS
        frames = read_frames(path, times, Framing(PREVIEW_SIDE, PREVIEW_SIDE))
    with contextlib.suppress(MediaError):
        audio = read_audio(path, PREVIEW_RATE, max_seconds=PREVIEW_SECONDS)
    if frames is None and audio is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "preview.mp4"
        write_media(small, frames, audio, fps=PREVIEW_FPS, sample_rate=PREVIEW_RATE)
        content = small.read_bytes()
    return content if len(content) <= PREVIEW_BYTES else None
