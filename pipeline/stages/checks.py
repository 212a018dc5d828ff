"""Whether what a stage gives for a clip is what it declared, and of the file that was ingested."""

from pathlib import Path

import pyarrow as pa

from pipeline.stages.stage import Clip, Failed, Outcome, Passed, Stage


def checked(stage: Stage, clip: Clip, outcome: Outcome) -> Outcome:
    """The outcome, or a failure: the file changed meanwhile, or columns are not as declared."""
    if isinstance(outcome, Failed):
        return outcome
    if "sha256" in stage.reads and _changed(clip):
        return Failed("SourceChanged", "the file was replaced after it was ingested: ingest again")
    declared, given = set(stage.schema.names), set(outcome.columns)
    missing = declared - given if isinstance(outcome, Passed) else set[str]()
    if missing or given - declared:
        unknown = sorted(given - declared)
        return Failed(
            "ColumnError", f"missing columns {sorted(missing)}, unknown columns {unknown}"
        )
    for column in stage.schema:
        try:
            pa.array([outcome.columns.get(column.name)], column.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as exc:
            wrong = f"column {column.name} is no {column.type}: {str(exc)[:500]}"
            return Failed("ColumnError", wrong)
    return outcome


def _changed(clip: Clip) -> bool:
    """Whether the clip's file is another than was ingested; a missing one is the stage's to see."""
    try:
        stat = Path(clip["path"]).stat()
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) != (clip["bytes"], clip["mtime_ns"])
