"""A stage that kills the process that runs it, once.

What the machine does to a worker in the middle of its work.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.stages.stage import Clip, Outcome, Passed, Rejected, Stage
from warehouse import field


@dataclass(frozen=True)
class MortalSettings:
    shortest: int = 2


class Mortal(Stage):
    """Length of a clip's id.

    Beside a clip's file stands which process took it, and what CUDA would show that. Where `death`
    is a path, the first process to come to clip c3 leaves it there and dies.
    """

    name = "mortal"
    batch_size = 1
    schema = pa.schema([field("id_length", pa.int64(), "characters of the id")])
    settings = MortalSettings()

    def __init__(self, death: Path | None = None) -> None:
        self.death = death

    def setup(self) -> None:
        """As a stage with a model."""

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        for clip in clips:
            Path(clip["path"]).with_suffix(".ran").write_text(f"{os.getpid()} {gpus}")
        return [self._one(clip["clip_id"]) for clip in clips]

    def _one(self, clip_id: str) -> Outcome:
        if clip_id == "c3" and self.death and not self.death.exists():
            self.death.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        if len(clip_id) < self.settings.shortest:
            return Rejected("too short")
        return Passed({"id_length": len(clip_id)})
