"""Checkpoints: trained bridges with their records.

HOME/checkpoints/<id>/bridge.safetensors, checkpoint.json    the trained bridge
HOME/checkpoints/<id>-step000100/...                         on the way to it
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from model.presets.preset import Preset
from model.presets.settings import TrainSettings
from model.weights.files import BRIDGE_FILE
from warehouse import FoleyError, Warehouse
from warehouse.files import Json, file_sha256, make_folder, read_json, scratch_folder, write_file

if TYPE_CHECKING:
    from model.bridge_file import BridgeFacts
    from model.training.trainer import Trainer

SHIPPED = "shipped"  # name of the bridge beside a preset's weights
NEWEST = "newest"  # name of the bridge that was trained last


@dataclass(frozen=True)
class Checkpoint:
    """A trained bridge."""

    id: str  # in the home folder; of another file, the begin of its hash
    path: Path  # its bridge.safetensors
    # how it was trained; of a file without a record beside it, only its hash
    record: Json
    trained: bool = False  # False where it was there already
    origin: str = ""  # where it was found, for a person to read


def find_checkpoint(wh: Warehouse, id: str) -> Checkpoint | None:
    """A checkpoint whose file is what was written, or None."""
    path = wh.folder("checkpoints") / id / BRIDGE_FILE
    records = [record for record in wh.records("checkpoints") if record["id"] == id]
    if not records or not path.is_file() or file_sha256(path) != records[0]["sha256"]:
        return None
    return Checkpoint(id, path, records[0])


def choose_checkpoint(wh: Warehouse | None, preset: Preset, name: str | None = None) -> Checkpoint:
    """The bridge of a name: one rule for generation, evaluation, further training and the API.

    Args:
        wh: the home folder, if there is one.
        preset: which the bridge is to be run with.
        name: id of a checkpoint in the home folder; "newest" of this preset in it; "shipped" beside
            the preset's weights; or a bridge file. None: the newest, else the shipped one.

    Raises:
        FoleyError: there is none of that name, its file is damaged, or it is of another preset.
    """
    shipped = preset.weights / BRIDGE_FILE
    if name == SHIPPED or (name is None and not _newest(wh, preset) and shipped.is_file()):
        return _from_file(shipped, f"the one shipped with preset {preset.name}")
    if name in (None, NEWEST):
        newest = _newest(wh, preset)
        if wh is None or newest is None:
            where = f" in {wh.home}" if wh else ""
            where += "" if name else f", and none is at {shipped}"
            raise FoleyError(
                f"no bridge was trained for preset {preset.name}{where}: "
                f"run foley train --preset {preset.name}, or name a bridge file as the checkpoint"
            )
        return _in_home(wh, preset, newest, "the newest")
    if Path(name).is_file():
        return _from_file(Path(name), "a file")
    if wh is None or "/" in name or name.endswith(".safetensors"):
        raise FoleyError(f"no such checkpoint: {name}")
    return _in_home(wh, preset, name, "the one asked for")


def _newest(wh: Warehouse | None, preset: Preset) -> str | None:
    """Id of the checkpoint that was trained last for a preset, finished ones before others.

    Those of ablations do not count: they were trained on less, or on what curation rejects.
    """
    if wh is None:
        return None
    records = [
        record
        for record in wh.records("checkpoints")
        if record["preset"] == preset.name and not record.get("ablation")
    ]
    records.sort(key=lambda record: ("of" not in record, str(record.get("created_at", ""))))
    return str(records[-1]["id"]) if records else None


def _in_home(wh: Warehouse, preset: Preset, id: str, which: str) -> Checkpoint:
    checkpoint = find_checkpoint(wh, id)
    if checkpoint is None:
        known = any(record["id"] == id for record in wh.records("checkpoints"))
        why = f"checkpoint {id} in {wh.home} is damaged" if known else f"no checkpoint {id!r}"
        raise FoleyError(f"{why}: run foley train, or name another (foley sql 'from checkpoints')")
    record = checkpoint.record
    if record["preset"] != preset.name:
        raise FoleyError(
            f"checkpoint {id} was trained for preset {record['preset']}, not {preset.name}: "
            f"give --preset {record['preset']}"
        )
    return replace(checkpoint, origin=f"{which} in {wh.home}, {record['steps']} steps")


def _from_file(path: Path, origin: str) -> Checkpoint:
    """A bridge file, with the record beside it if it lies in a home folder."""
    if not path.is_file():
        raise FoleyError(f"no bridge file {path}: run foley train")
    beside, digest = path.parent / "checkpoint.json", file_sha256(path)
    record: dict[str, object] = read_json(beside) if beside.is_file() else {}
    if record.get("sha256") != digest:
        record = {"sha256": digest}
    return Checkpoint(str(record.get("id", digest[:16])), path, record, origin=origin)


def _early_stop(trainer: Trainer) -> dict[str, object]:
    """What a record says of early stopping: which step's weights they are, and when it ended."""
    if trainer.early.best is None:
        return {}
    return {"steps": trainer.early.best, "ended_after": trainer.step, "early": trainer.early.stop}


class TrainingCheckpoints:
    """The checkpoints that one training writes: some on the way, and the final one."""

    def __init__(self, wh: Warehouse, id: str, identity: Json, facts: BridgeFacts) -> None:
        self.wh, self.id, self.identity, self.facts = wh, id, dict(identity), facts

    def write(self, trainer: Trainer, figures: Mapping[str, object], final: bool = False) -> None:
        """Write the bridge as it is, then the record that makes it a checkpoint."""
        id = self.id if final else self._step_id(trainer.step)
        path = make_folder(self.wh.folder("checkpoints") / id) / BRIDGE_FILE
        with scratch_folder(self.wh.tmp) as folder:
            saved = folder / path.name
            from model.bridge_file import save_bridge  # here: to choose one takes no torch

            with trainer.best() if final else trainer.averaged():
                save_bridge(saved, trainer.bridge, self.facts)
            digest = file_sha256(saved)
            with saved.open("rb") as source:  # the library flushes nothing to disk
                write_file(self.wh.tmp, lambda target: shutil.copyfileobj(source, target), path)
        record = self.identity | {
            "steps": trainer.step,
            **(_early_stop(trainer) if final else {}),
            "sha256": digest,
            "code": version("foley-control"),
            **figures,
            "created_at": self._now(),
        }
        self.wh.write_record("checkpoints", id, record if final else record | {"of": self.id})

    def _now(self) -> str:
        """The time, or a moment after the newest checkpoint where a clock was set back."""
        now = datetime.now(UTC).isoformat()
        last = max(
            (str(r.get("created_at", "")) for r in self.wh.records("checkpoints")), default=""
        )
        later = timedelta(microseconds=1)
        return now if now > last else (datetime.fromisoformat(last) + later).isoformat()

    def last_good(self, step: int) -> str | None:
        """Id of the newest checkpoint on the way, of this step or one before it."""
        good = [record["id"] for record in self._on_the_way() if record["steps"] <= step]
        return good[-1] if good else None

    def rotate(self, settings: TrainSettings, validation: Sequence[Sequence[float]]) -> None:
        """Remove checkpoints on the way but the last, the best, those at marks and those used."""
        records = self._on_the_way()
        keep = {record["id"] for record in records[-settings.keep_last :]}
        keep |= {self._step_id(step) for step in settings.keep_steps}
        for kind in ("evaluations", "sounds"):
            keep |= {str(record.get("checkpoint")) for record in self.wh.records(kind)}
        keep |= {str(record.get("parent")) for record in self.wh.records("checkpoints")}
        losses = {int(step): true for step, true, *_ in validation}
        measured = [record for record in records if record["steps"] in losses]
        if measured:
            keep.add(min(measured, key=lambda record: losses[record["steps"]])["id"])
        for record in records:
            if record["id"] not in keep and not self._made_sound(record["id"]):
                shutil.rmtree(self.wh.folder("checkpoints") / record["id"], ignore_errors=True)

    def _step_id(self, step: int) -> str:
        return f"{self.id}-step{step:06d}"

    def _on_the_way(self) -> list[Json]:
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
