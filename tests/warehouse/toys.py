"""Small stages over real files, whose results follow from the files' content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.curation.gates import Condition, Gate
from pipeline.curation.policy import Policy
from pipeline.stages.engine import BatchResult, fingerprints, plan, run_batch
from pipeline.stages.stage import Clip, Failed, Outcome, Passed, Rejected, Stage
from warehouse import Warehouse, array_field, field, to_bytes

SHAPE = (3, 4)


@dataclass(frozen=True)
class Gain:
    """A setting that changes the facts."""

    gain: float = 1.0


class Facts(Stage):
    """Facts of the file.

    Its last byte decides whether it passes, is rejected, fails or takes down its batch.
    """

    name = "facts"
    schema = pa.schema(
        [
            field("level", pa.float64(), "last byte times gain"),
            field("together", pa.int64(), "clips in the batch"),
        ]
    )
    batch_size = 5

    def __init__(self, settings: Gain | None = None) -> None:
        self.settings = settings or Gain()

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [self._one(clip, len(clips)) for clip in clips]

    def _one(self, clip: Clip, together: int) -> Outcome:
        byte = Path(clip["path"]).read_bytes()[-1]
        columns = {"level": byte * self.settings.gain, "together": together}
        if byte % 10 == 7:
            return Failed("Broken", f"byte {byte}")
        if byte % 10 == 8:
            raise ValueError(f"batch with byte {byte}")
        return Rejected("quiet", columns) if byte % 10 == 9 else Passed(columns)


class Tokens(Stage):
    """An array a clip, made from what `facts` found."""

    name = "tokens"
    upstream = ("facts",)
    schema = pa.schema(
        [
            array_field("tokens", "float16", (-1, *SHAPE), "tokens"),
            field("n_tokens", pa.int32(), "number of tokens"),
        ]
    )
    batch_size = 4

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [
            Passed({"tokens": to_bytes(tokens(c["level"])), "n_tokens": length(c["level"])})
            for c in clips
        ]


class Text(Stage):
    """The prompt's length, whatever the file holds."""

    name = "text"
    reads = ("prompt",)
    schema = pa.schema([field("n_letters", pa.int32(), "letters of the prompt")])
    batch_size = 7

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [Passed({"n_letters": len(c["prompt"] or "")}) for c in clips]


def length(level: float) -> int:
    """Tokens of a clip of this level."""
    return 1 + int(level) % 3


def tokens(level: float) -> np.ndarray:
    """The tokens of a clip of this level: [length, *SHAPE]."""
    return np.full((length(level), *SHAPE), level, np.float16)


def stages(gain: float = 1.0) -> list[Stage]:
    """The toy pipeline."""
    return [Facts(Gain(gain)), Tokens(), Text()]


def make_files(folder: Path, count: int, first: int = 0) -> pa.Table:
    """Write `count` tiny files, clip number i ending in byte i % 50, and describe them as clips."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for i in range(first, first + count):
        path = folder / f"{i:04d}.bin"
        path.write_bytes(f"clip {i} ".encode() + bytes([i % 50]))
        video = f"video{i // 3:04d}"
        rows.append(
            {"clip_id": f"clip{i:04d}", "path": str(path), "source": "toy", "source_video": video}
        )
        rows[-1] |= {"prompt": "p" * (i % 7), "url": f"https://example.org/{video}"}
    return pa.Table.from_pylist(rows)


def run_once(wh: Warehouse, pipeline: Iterable[Stage]) -> list[BatchResult]:
    """Plan every stage once and run its batches."""
    pipeline = list(pipeline)
    stage_hashes = fingerprints(pipeline)
    results: list[BatchResult] = []
    for stage in pipeline:
        work = plan(wh, stage, stage_hashes)
        results += [run_batch(wh, stage, work, batch) for batch in work.batches]
    return results


def run_all(wh: Warehouse, pipeline: Iterable[Stage]) -> None:
    """Run until nothing is left to do: failing clips use up their attempts."""
    pipeline = list(pipeline)
    while run_once(wh, pipeline):
        pass


POLICY = Policy(
    "toys",
    1,
    (
        Gate("level", (Condition("level", below=40),)),
        Gate("text", (Condition("n_letters", above=0),)),
    ),
    sft=(Condition("level", above=20),),
    val=0.2,
    test=0.2,
)


def facts_of(wh: Warehouse, gain: float = 1.0) -> dict[str, list[dict[str, Any]]]:
    """All live rows of all stages, but for how clips fell into batches, to compare warehouses."""
    pipeline = stages(gain)
    stage_hashes = fingerprints(pipeline)
    found = {
        stage.name: wh.rows(stage.name, stage_hashes[stage.name], None).to_pylist()
        for stage in pipeline
    }
    return {
        name: [{k: v for k, v in row.items() if k != "together"} for row in rows]
        for name, rows in found.items()
    }
