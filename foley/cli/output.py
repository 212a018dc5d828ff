"""What the commands print when they are done: short text for a person. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.results import figures
from warehouse.catalog.capacity import FEW
from warehouse.catalog.rendering import render

if TYPE_CHECKING:
    from flows.curate import Curated
    from flows.demo import Demo
    from flows.download import Downloaded
    from flows.evaluate import Evaluated
    from flows.running.batches import StageCounts
    from warehouse import Status
    from warehouse.catalog.capacity import CapacityPlan
    from warehouse.maintenance import Maintained


def stage_table(counts: Iterable[StageCounts]) -> str:
    """What a run did, a line a stage."""
    rows = [
        {
            "stage": c.stage,
            "passed": c.passed,
            "rejected": c.rejected,
            "failed": c.failed,
            "done before": c.done_before,
            "quarantined": c.quarantined,
            "seconds": round(c.seconds, 1),
        }
        for c in counts
    ]
    return render(list(rows[0]), rows, "table") if rows else ""


def curated(result: Curated) -> str:
    """The end of `foley curate`."""
    counts = result.dataset.counts
    lines = [stage_table(result.stages), ""]
    if not any(count.batches for count in result.stages):
        lines += ["Nothing to do: every clip was done before.", ""]
    splits = ", ".join(f"{counts[split]} {split}" for split in ("train", "val", "test"))
    lines += [
        f"Dataset {result.dataset.version}: {counts['kept']} of {counts['clips']} clips kept ({splits}).",
        *(
            f"  {step['dropped']} dropped by {step['step']}"
            for step in result.dataset.funnel
            if step["dropped"]
        ),
    ]
    return "\n".join(lines)


def downloaded(result: Downloaded) -> str:
    """The end of `foley download`."""
    before = result.units - result.fetched - len(result.failed)
    lines = [
        f"{result.folder}: {result.clips} clips; {result.fetched} fetched, {before} there before."
    ]
    rows = [
        {"split": split, **{k.replace("_", " "): v for k, v in c.items()}}
        for split, c in result.counts.items()
    ]
    lines += ["", render(list(rows[0]), rows, "table"), ""] if rows else []
    if result.without_video or result.without_row:
        lines.append(
            f"{result.without_video} annotated clips have no video, {result.without_row} videos no annotation."
        )
    lines += [f"failed: {error}" for _, error in result.failed[:10]]
    if len(result.failed) > 10:
        lines.append(f"... and {len(result.failed) - 10} more")
    lines.append(
        "Details are in download.json" + ("; run again for what failed." if result.failed else ".")
    )
    lines.append(f"Go on with: foley curate {result.folder}")
    return "\n".join(lines)


def demo(result: Demo) -> str:
    """The end of `foley demo`."""
    results = result.results
    lines: list[str] = (
        [] if result.worked else ["Nothing to do: every stage was done before. What it found:", ""]
    )
    lines += [render(["stage", "passed", "rejected", "failed"], results["funnel"], "table"), ""]
    reasons: list[tuple[str, Any]] = [
        item for step in results["funnel"] for item in step["reasons"].items()
    ]
    lines += [f"  {number} clip{'s' if number > 1 else ''}: {reason}" for reason, number in reasons]
    lines += ["", flaw_table(results["curation"])]
    lines += [
        "",
        f"Synchronisation on {results['held_out_clips']} held-out clips",
        figures(results),
        "",
    ]
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in results["seconds"].items())
    clips = result.report.with_name(f"curation-{results['dataset']}.html")
    lines += [f"seconds: {seconds}", f"report:  {result.report}", f"clips:   {clips}"]
    return "\n".join(lines)


def evaluated(result: Evaluated) -> str:
    """The end of `foley evaluate`."""
    lines = [figures(result.held_out.figures)] if result.held_out else []
    if table2 := result.table2:
        from pipeline.evaluation.tables import summary

        lines += [result.files["table2.md"].read_text()]
        lines += summary(table2.systems, table2.counts)
        lines += [f"{name}: {path}" for name, path in result.files.items()]
    return "\n".join(lines)


def flaw_table(flaws: Mapping[str, Mapping[str, Any]]) -> str:
    """What a curation made of clips of which it is known what is wrong with them."""
    names = {
        "known to be": "kind",
        "kept": "kept",
        "dropped": "dropped",
        "by score": "score",
        "area under ROC": "auc",
    }
    rows = [
        {title: ({"kind": kind} | dict(row)).get(key) for title, key in names.items()}
        for kind, row in flaws.items()
    ]
    return render(list(names), rows, "table")


def status(found: Status) -> str:
    """The text of `foley status`."""
    rows: Sequence[Mapping[str, Any]] = [
        {
            "stage": s.stage,
            "passed": s.passed,
            "rejected": s.rejected,
            "failed": s.failed,
            "quarantined": s.quarantined,
            "waiting": s.waiting,
            "clips/s": None if s.clips_per_second is None else round(s.clips_per_second, 1),
            "eta s": None if s.eta_seconds is None else round(s.eta_seconds),
        }
        for s in found.stages
    ]
    disk = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in found.disk_bytes.items() if size)
    lines = [f"{found.clips} clips, {found.unreadable} that cannot be read"]
    lines += ["", render(list(rows[0]), rows, "table")] if rows else []
    return "\n".join([*lines, "", f"MB on disk: {disk or 'nothing yet'}"])


def maintained(done: Maintained, deleted: bool) -> str:
    """The text of `foley maintain`."""
    size = sum(item.bytes for item in done.garbage) / 1e6
    ending = "removed" if deleted else "left behind: --delete removes it"
    lines = [f"{s}: {clips} failed clips will be tried again" for s, clips in done.released.items()]
    lines += [f"{m.stage}: {m.files} files with {m.rows} rows into one" for m in done.merged]
    lines += [f"{item.bytes:>12}  {item.path}  ({item.why})" for item in done.garbage]
    lines.append(
        f"{size:.1f} MB in {len(done.garbage)} places {ending}" if done.garbage else "clean"
    )
    lines += [f"{problem.path}: {problem.what}" for problem in done.problems]
    return "\n".join(lines if done.problems else [*lines, "every file is as it was written"])


def plan(found: CapacityPlan) -> str:
    """The text of `foley plan`."""
    rows: list[dict[str, Any]] = [
        {
            "stage": s.stage,
            "on": "gpu" if s.device else "worker",
            "clips": s.clips,
            "clips/s each": round(s.rate, 2),
            "hours": round(s.hours, 2),
            "GB": round(s.gigabytes, 2),
            "cost": round(s.cost, 2),
            "measured on": f"{s.measured} clips" + (" (few)" if s.measured < FEW else ""),
        }
        for s in found.stages
    ]
    hours, size, cost = (
        sum(getattr(s, name) for s in found.stages) for name in ("hours", "gigabytes", "cost")
    )
    total = {
        "stage": "total",
        "clips": found.clips,
        "hours": round(hours, 2),
        "GB": round(size, 2),
        "cost": round(cost, 2),
    }
    rows.append({name: total.get(name) for name in rows[0]})
    return f"{render(list(rows[0]), rows, 'table')}\n\nclips themselves: {found.source_gigabytes:.1f} GB"
