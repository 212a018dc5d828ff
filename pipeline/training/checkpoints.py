"""Checkpoints: trained bridges with their records.

HOME/checkpoints/<id>/bridge.safetensors, checkpoint.json    the trained bridge
HOME/checkpoints/<id>-step000100/...                         on the way to it
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from model.foley import save_bridge
from model.presets.settings import TrainSettings
from model.training.trainer import Trainer
from warehouse import Warehouse
from warehouse.files import file_sha256, make_folder, scratch_folder, write_file


@dataclass(frozen=True)
class Checkpoint:
    """A trained bridge in the warehouse; `trained` is False where it was there already."""

    id: str
    path: Path
    record: dict[str, Any]
    trained: bool


def find_checkpoint(wh: Warehouse, id: str) -> Checkpoint | None:
    """A checkpoint whose file is what was written, or None."""
    path = wh.folder("checkpoints") / id / "bridge.safetensors"
    records = [record for record in wh.records("checkpoints") if record["id"] == id]
    if not records or not path.is_file() or file_sha256(path) != records[0]["sha256"]:
        return None
    return Checkpoint(id, path, records[0], trained=False)


class TrainingCheckpoints:
    """The checkpoints that one training writes: some on the way, and the final one."""

    def __init__(self, wh: Warehouse, id: str, identity: Mapping[str, Any]) -> None:
        self.wh, self.id, self.identity = wh, id, dict(identity)

    def write(self, trainer: Trainer, figures: Mapping[str, Any], final: bool = False) -> None:
        """Write the bridge as it is, then the record that makes it a checkpoint."""
        id = self.id if final else self._step_id(trainer.step)
        path = make_folder(self.wh.folder("checkpoints") / id) / "bridge.safetensors"
        revisions = self.identity["backbone"], self.identity["encoder"]
        with scratch_folder(self.wh.tmp) as folder:
            saved = folder / path.name
            with trainer.averaged():
                save_bridge(saved, trainer.bridge, *revisions)
            digest = file_sha256(saved)
            with saved.open("rb") as source:  # the library flushes nothing to disk
                write_file(self.wh.tmp, lambda target: shutil.copyfileobj(source, target), path)
        record = self.identity | {
            "steps": trainer.step,
            "sha256": digest,
            "code": version("foley-control"),
            **figures,
            "created_at": datetime.now(UTC).isoformat(),
        }
        self.wh.write_record("checkpoints", id, record if final else record | {"of": self.id})

    def last_good(self, step: int) -> str | None:
        """Id of the newest checkpoint on the way, of this step or one before it."""
        good = [record["id"] for record in self._on_the_way() if record["steps"] <= step]
        return good[-1] if good else None

    def rotate(self, settings: TrainSettings, validation: Sequence[Sequence[float]]) -> None:
        """Remove checkpoints on the way but the last, the best, those at marks and those used."""
        records = self._on_the_way()
        keep = {record["id"] for record in records[-settings.keep_last :]}
        keep |= {self._step_id(step) for step in settings.keep_steps}
        keep |= {str(record.get("checkpoint")) for record in self.wh.records("evaluations")}
        losses = {int(step): true for step, true, *_ in validation}
        measured = [record for record in records if record["steps"] in losses]
        if measured:
            keep.add(min(measured, key=lambda record: losses[record["steps"]])["id"])
        for record in records:
            if record["id"] not in keep and not self._made_sound(record["id"]):
                shutil.rmtree(self.wh.folder("checkpoints") / record["id"], ignore_errors=True)

    def _step_id(self, step: int) -> str:
        return f"{self.id}-step{step:06d}"

    def _on_the_way(self) -> list[dict[str, Any]]:
        """Records of this training's checkpoints before the final one, by step."""
        records = [r for r in self.wh.records("checkpoints") if r.get("of") == self.id]
        return sorted(records, key=lambda record: record["steps"])

    def _made_sound(self, id: str) -> bool:
        """Whether a stage was ever planned that generates with this checkpoint."""
        stages = [path.name for path in (self.wh.home / "commits").glob("generate*")]
        planned = (
            self.wh.descriptor(stage, fingerprint)
            for stage in stages
            for fingerprint in self.wh.fingerprints(stage)
        )
        return any(descriptor.settings.get("checkpoint") == id for descriptor in planned)
