"""What the commands print when they are done: short text for a person. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.results import figures
from warehouse.catalog.capacity import FEW
from warehouse.catalog.rendering import render

if TYPE_CHECKING:
    from flows.curate import Curated
    from flows.demo import Demo
    from flows.download import Downloaded
    from flows.evaluate import Evaluated
    from pipeline.training.checkpoints import Checkpoint
    from pipeline.training.estimate import Estimate
    from warehouse import Status
    from warehouse.catalog.capacity import CapacityPlan
    from warehouse.maintenance import Maintained, Problem


def _counts(item: object, names: str) -> dict[str, object]:
    """The attributes of those names, under the same words."""
    return {name.replace("_", " "): getattr(item, name) for name in names.split()}


def curate(result: Curated) -> str:
    """The end of `foley curate`."""
    counts = result.dataset.counts
    names = "stage passed rejected failed done_before quarantined"
    rows = [_counts(c, names) | {"seconds": round(c.seconds, 1)} for c in result.stages]
    taken = ", ".join(f"{number} {what}" for what, number in asdict(result.ingest).items())
    lines = [f"Clips of the sources: {taken}.", "", render(rows), ""]
    if not any(count.batches for count in result.stages):
        lines += ["Nothing to do: every clip was done before.", ""]
    splits = ", ".join(f"{counts[split]} {split}" for split in ("train", "val", "test"))
    total = f"{counts['kept']} of {counts['clips']} clips kept ({splits})"
    lines.append(f"Dataset {result.dataset.version}: {total}.")
    funnel = [step for step in result.dataset.funnel if step["dropped"]]
    return "\n".join([*lines, *(f"  {s['dropped']} dropped by {s['step']}" for s in funnel)])


def download(result: Downloaded) -> str:
    """The end of `foley download`."""
    before = result.units - result.fetched - len(result.failed)
    done = f"{result.clips} clips; {result.fetched} fetched, {before} there before"
    lines = [f"{result.folder}: {done}."]
    if result.counts:
        rows = [{"split": split, **counts} for split, counts in result.counts.items()]
        lines += ["", render([{k.replace("_", " "): v for k, v in r.items()} for r in rows]), ""]
    if result.without_video or result.without_row:
        without = f"{result.without_row} videos no annotation"
        lines.append(f"{result.without_video} annotated clips have no video, {without}.")
    lines += [f"failed: {error}" for _, error in result.failed[:10]]
    if len(result.failed) > 10:
        lines.append(f"... and {len(result.failed) - 10} more")
    again = "; run again for what failed" if result.failed else ""
    return "\n".join([*lines, f"Details are in download.json{again}.", "Go on with: foley curate"])


def train(result: Checkpoint | list[Estimate]) -> str:
    """The end of `foley train`."""
    if isinstance(result, list):
        return "\n\n".join(map(str, result))
    before = "" if result.trained else "Nothing to do, it was trained before: "
    from pipeline.training.batches import epoch_text

    best = ""
    if last := result.record.get("ended_after"):
        best = f": step {result.record['steps']}, the best by validation up to step {last}"
    facts = result.record.get("epoch")  # of a checkpoint of an earlier version there may be none
    said = f"Clips: {epoch_text(facts)}.\n" if facts else ""
    dataset = result.record["dataset"]
    return f"{before}checkpoint {result.id} of dataset {dataset}{best}\n{said}{result.path}"


def ablate(page: Path) -> str:
    """The end of `foley ablate`."""
    return f"{page.read_text()}\n{page}"


def demo(result: Demo) -> str:
    """The end of `foley demo`."""
    results = result.results
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in results["seconds"].items())
    reasons = [item for step in results["funnel"] for item in step["reasons"].items()]
    return "\n".join(
        [
            *([] if result.worked else ["Nothing to do: every stage was done before.", ""]),
            render(results["funnel"], columns=["stage", "passed", "rejected", "failed"]),
            "",
            *(f"  {count} clip{'' if count == 1 else 's'}: {reason}" for reason, count in reasons),
            "",
            render([_flaw(kind, row) for kind, row in results["curation"].items()]),
            "",
            f"Synchronisation on {results['held_out_clips']} held-out clips",
            figures(results),
            "",
            f"seconds: {seconds}",
            f"report:  {result.report}",
            f"clips:   {result.report.with_name('curation-' + results['dataset'] + '.html')}",
        ]
    )


def evaluate(result: Evaluated) -> str:
    """The end of `foley evaluate`."""
    lines = [figures(result.held_out.figures)] if result.held_out else []
    if table2 := result.table2:
        from pipeline.evaluation.tables import summary

        lines += [result.files["table2.md"].read_text()]
        lines += summary(table2.systems, table2.counts)
        lines += [f"{name}: {path}" for name, path in result.files.items()]
    return "\n".join(lines)


def _flaw(kind: str, row: Mapping[str, object]) -> dict[str, object]:
    """What a curation made of clips whose flaw is known."""
    return {
        "known to be": kind,
        "kept": row["kept"],
        "dropped": row["dropped"],
        "by score": row.get("score"),
        "area under ROC": row.get("auc"),
    }


def status(status: Status) -> str:
    """The text of `foley status`."""
    rows = [
        _counts(stage, "stage passed rejected failed quarantined waiting")
        | {"clips/s": _round(stage.clips_per_second, 1), "eta s": _round(stage.eta_seconds, 0)}
        for stage in status.stages
    ]
    lines = [f"{status.clips} clips, {status.unreadable} that cannot be read", ""]
    sizes = [f"{name} {size / 1e6:.1f}" for name, size in status.disk_bytes.items() if size]
    disk = f"MB on disk: {', '.join(sizes) or 'nothing yet'}"
    return "\n".join([*lines, *([render(rows), ""] if rows else []), disk])


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
    return "\n".join([*lines, problems(done.problems)])


def problems(found: Sequence[Problem]) -> str:
    """What is wrong with files, a line each."""
    lines = [f"{problem.path}: {problem.what}" for problem in found]
    return "\n".join(lines or ["every file is as it was written"])


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits or None)


def plan(plan: CapacityPlan) -> str:
    """The text of `foley plan`."""
    rows = [
        {
            "stage": stage.stage,
            "on": "gpu" if stage.device else "worker",
            "clips": stage.clips,
            "clips/s each": round(stage.rate, 2),
            "hours": round(stage.hours, 2),
            "GB": round(stage.gigabytes, 2),
            "cost": round(stage.cost, 2),
            "measured on": f"{stage.measured} clips{' (few)' if stage.measured < FEW else ''}",
        }
        for stage in plan.stages
    ]
    total: dict[str, Any] = dict.fromkeys(rows[0]) | {"stage": "total", "clips": plan.clips}
    for title, name in (("hours", "hours"), ("GB", "gigabytes"), ("cost", "cost")):
        total[title] = round(sum(getattr(stage, name) for stage in plan.stages), 2)
    return f"{render([*rows, total])}\n\nclips themselves: {plan.source_gigabytes:.1f} GB"
