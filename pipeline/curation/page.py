"""Gathers what the page of a curation shows, by queries on the catalog.

Few numbers, however many clips there are.
"""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.curation.judged_clips import Judged, judged
from pipeline.curation.known_flaws import flaw_figures
from pipeline.media import Framing, MediaError, media_workers, probe, read_audio, read_frames
from pipeline.procedural import write_media
from pipeline.report.charts import label
from pipeline.report.curation import Bin, CurationPage, Fact, Label, Sample, Step, Sweep
from warehouse.rows.live import literal, quote

COLUMNS = 24  # bars of a histogram
SWEEP_STEPS = 40
REASONS = 6  # shown of a step
LABELS = 12  # shown at each end, by kept share
BINS, SAMPLES = 9, 20  # so the page holds at most so many clips, each of at most so many bytes:
PREVIEW_BYTES = 160_000
PREVIEW_SECONDS, PREVIEW_FPS, PREVIEW_SIDE, PREVIEW_RATE = 4.0, 12, 128, 32_000
_SIGNS = {">": ">", ">=": "≥", "<": "<", "<=": "≤"}
_COMPARISON = re.compile(
    r"\b(?P<fact>[A-Za-z_]\w*)\s*(?P<sign><=?|>=?)\s*(?P<bound>-?\d+(?:\.\d+)?)"
)


@dataclass(frozen=True)
class Threshold:
    """One comparison of a fact with a number in a gate."""

    gate: int
    fact: str
    sign: str
    bound: float
    span: tuple[int, int]  # of the number in the gate's text


def look(home: Path, version: str | None = None, seed: int = 0) -> CurationPage:
    """What the page shows of a dataset name or version, None for the newest; `seed` draws the clips to watch.

    Raises FoleyError when there is no such dataset.
    """
    with judged(home, version) as found:
        gates: list[dict[str, str]] = found.dataset["policy"]["gates"]
        thresholds = [t for t in thresholds_of(gates) if t.fact in found.facts]
        spans = _spans(found, thresholds)
        labels = found.rows(
            "select label, count(*) as clips, count(*) filter (kept) as kept from judged where label is not null "
            "group by label order by avg(kept::int), label"
        )
        return CurationPage(
            dataset=found.dataset,
            steps=_steps(found),
            facts=[_fact(found, name, span, thresholds) for name, span in spans.items()],
            sweeps=[
                _sweep(found, gates, threshold, spans[threshold.fact]) for threshold in thresholds
            ],
            labels=[Label(row["label"], row["clips"], row["kept"]) for row in _ends(labels)],
            classes=len(labels),
            bins=_bins(found, [t.fact for t in thresholds], seed),
            flaws=flaw_figures(found),
            seed=seed,
        )


def thresholds_of(gates: Sequence[Mapping[str, str]]) -> list[Threshold]:
    """Every comparison of a fact with a number in the gates."""
    return [
        Threshold(i, m["fact"], m["sign"], float(m["bound"]), m.span("bound"))
        for i, gate in enumerate(gates)
        for m in _COMPARISON.finditer(gate["keep"])
    ]


def _steps(found: Judged) -> list[Step]:
    """The funnel with its reasons.

    Of a failure its message counts, without the name of the file.
    """
    rows = found.con.sql(
        "with dropped as (select if(contains(reason, ': '), split_part(reason, ': ', 1) || ': ', reason) as step, "
        "if(ends_with(reason, ': failed') or starts_with(reason, 'clips: '), "
        "coalesce(regexp_replace(message, '^/.*?: ', ''), reason), split_part(reason, ': ', 2)) as why from judged "
        "where not kept), counted as (select step, why, count(*) as clips from dropped group by all) "
        "select step, list((why, clips) order by clips desc, why)[:?] as reasons, count(*) as kinds from counted "
        "group by step",
        params=[REASONS],
    ).fetchall()
    why = {
        step: ([(str(text), int(n)) for text, n in reasons], kinds) for step, reasons, kinds in rows
    }
    funnel: list[dict[str, Any]] = found.dataset["funnel"]
    gates = found.dataset["policy"]["gates"]
    conditions = [""] * (len(funnel) - len(gates)) + [
        gate["keep"] for gate in gates
    ]  # stages come first
    steps: list[Step] = []
    for row, keep in zip(funnel, conditions, strict=True):
        reasons, kinds = ([], 0) if keep else why.get(f"{row['step']}: ", ([], 0))
        steps.append(
            Step(
                row["step"], row["dropped"], row["left"], keep, tuple(reasons), kinds - len(reasons)
            )
        )
    return steps


def _spans(found: Judged, thresholds: Sequence[Threshold]) -> dict[str, tuple[float, float]]:
    """The axis of every fact that differs between clips.

    All but the outermost thousandth, with its thresholds.
    """
    names = list(found.facts)
    if not names:
        return {}
    columns = ", ".join(f"quantile_cont({quote(name)}, [0.001, 0.999])" for name in names)
    row: Any = found.con.execute(f"select {columns} from judged").fetchall()[0]
    asked = {name: [t.bound for t in thresholds if t.fact == name] for name in names}
    spans: dict[str, tuple[float, float]] = {}
    order = [t.fact for t in thresholds] + names
    for name, ends in sorted(zip(names, row, strict=True), key=lambda item: order.index(item[0])):
        if (
            ends is not None
            and all(map(math.isfinite, ends))
            and (asked[name] or ends[0] < ends[1])
        ):
            low, high = min([ends[0], *asked[name]]), max([ends[1], *asked[name]])
            spans[name] = (float(low), float(high) if high > low else low + 1.0)
    return spans


def _fact(
    found: Judged, name: str, span: tuple[float, float], thresholds: Sequence[Threshold]
) -> Fact:
    """Clips by bin; what lies beyond an end counts in the last bin there."""
    column, (low, high) = quote(name), span
    place = f"floor(({column} - {low}) / {high - low} * {COLUMNS})"
    rows = found.con.sql(
        f"select greatest(0, least({COLUMNS - 1}, {place}))::int as place, count(*), count(*) filter (kept) "
        f"from judged where isfinite({column}::double) group by place"
    ).fetchall()
    by = {place: (clips, kept) for place, clips, kept in rows}
    clips, kept = zip(*(by.get(i, (0, 0)) for i in range(COLUMNS)), strict=True)
    bounds = tuple((_SIGNS[t.sign], t.bound) for t in thresholds if t.fact == name)
    return Fact(name, found.facts[name], low, high, clips, kept, bounds)


def _sweep(
    found: Judged,
    gates: Sequence[Mapping[str, str]],
    threshold: Threshold,
    span: tuple[float, float],
) -> Sweep:
    """Kept share of the clips that reach the gates, for every place of one threshold.

    All in one look at the clips.
    """
    names = ", ".join(literal(gate["name"]) for gate in gates)
    begin, end = threshold.span

    def share(bound: float) -> str:
        texts = [gate["keep"] for gate in gates]
        text = texts[threshold.gate]
        texts[threshold.gate] = f"{text[:begin]}{bound!r}{text[end:]}"
        return f"avg(({' and '.join(f'coalesce(({text}), false)' for text in texts)})::int)"

    places = [*np.linspace(*span, SWEEP_STEPS + 1).tolist(), threshold.bound]
    row: Any = found.con.execute(
        f"select {', '.join(map(share, places))} from judged where reason is null or reason in ({names})"
    ).fetchall()[0]
    *shares, now = [float(value or 0.0) for value in row]
    gate = gates[threshold.gate]
    condition = f"{threshold.fact} {_SIGNS[threshold.sign]} {label(threshold.bound)}"
    return Sweep(
        gate["name"], condition, threshold.bound, now, list(zip(places, shares, strict=False))
    )


def _ends(labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return labels if len(labels) <= 2 * LABELS else labels[:LABELS] + labels[-LABELS:]


def _bins(found: Judged, shown: Sequence[str], seed: int) -> list[Bin]:
    """Random clips of those that were kept, and of those that were dropped for each of the most frequent reasons."""
    facts = ", ".join(quote(name) for name in dict.fromkeys(shown))
    rows = found.rows(
        "with binned as (select *, coalesce(reason, 'kept') as bin, "
        f"row_number() over (partition by reason order by md5_number_lower('{int(seed)}:' || clip_id)) as drawn "
        "from judged), bins as (select coalesce(reason, 'kept') as bin, count(*) as clips from judged group by bin "
        f"order by bin <> 'kept', clips desc, bin limit {BINS}) "
        f"select bin, clips, clip_id, path, prompt, message{', ' if facts else ''}{facts} "
        f"from binned join bins using (bin) where drawn <= {SAMPLES} order by bin <> 'kept', clips desc, bin, clip_id"
    )
    jobs = (partial(preview, Path(row["path"] or "")) for row in rows)
    workers = media_workers()
    videos: Iterator[bytes | MediaError | None] = workers.map(jobs, ahead=4 * workers.count)
    bins: dict[str, Bin] = {}
    for row, video in zip(rows, videos, strict=True):
        said = [f"{name} {row[name]:.3g}" for name in dict.fromkeys(shown) if row[name] is not None]
        lines = [", ".join(said)] + ([str(row["message"])] if row["message"] else [])
        seen = None if isinstance(video, MediaError) else video
        sample = Sample(
            row["clip_id"],
            row["prompt"] or "",
            row["path"] or "",
            "; ".join(filter(None, lines)),
            seen,
        )
        known = bins.get(row["bin"], Bin(row["bin"], row["clips"], ()))
        bins[row["bin"]] = Bin(known.name, known.clips, [*known.samples, sample])
    return list(bins.values())


def preview(path: Path) -> bytes | None:
    """The beginning of a clip as a small mp4 for a browser, or None where it has neither picture nor sound.

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
