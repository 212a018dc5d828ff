"""What a training leaves behind.

Its state, checkpoints on the way, curves for TensorBoard, and samples to hear.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from model.foley import FoleyControl, SoundRequest, save_bridge
from model.presets.settings import TrainSettings
from model.training.trainer import Progress, Trainer
from pipeline.features.video_tokens import tokens_from_bytes
from pipeline.media import write_flac
from pipeline.training.batches import DatasetFeatures
from warehouse import FoleyError
from warehouse.files import file_sha256, make_folder, write_file

SAMPLES = 2  # validation clips whose sound is written where the settings ask for samples
_POINTS = 1000  # about so many points of the loss curve are kept in a record


class TrainingLog:
    """Files and records of one training, in the main process only."""

    def __init__(self, data: DatasetFeatures, id: str, identity: Mapping[str, Any]) -> None:
        self.data, self.wh, self.id, self.identity = data, data.wh, id, dict(identity)
        self.folder = self.wh.folder("checkpoints") / id
        self.losses: list[list[float]] = []
        self.validation: list[list[float]] = []
        self._since: list[float] = []
        self._first = 1  # step that this run begins with
        self._at = perf_counter()  # of the last point, or of the beginning

    @property
    def _state(self) -> Path:
        return self.folder / "state.pt"

    @cached_property
    def _board(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=self._first)

    def resume(self, trainer: Trainer) -> None:
        """Go on from the state that was kept, if there is one.

        Raises FoleyError for one that cannot be read.
        """
        if not self._state.is_file():
            return
        try:
            state = torch.load(self._state, map_location="cpu", weights_only=True)
            trainer.load_state_dict(state["trainer"])
            self.losses, self.validation, self._since = (
                state["losses"],
                state["validation"],
                state["since"],
            )
        except (
            pickle.UnpicklingError,
            RuntimeError,
            EOFError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            raise FoleyError(
                f"{self._state} is damaged or of another version ({what}): delete it, and training begins anew"
            ) from None
        self._first = trainer.step + 1

    def keep_state(self, trainer: Trainer) -> None:
        """Write all that the training needs to go on, in place of what was kept before."""
        make_folder(self.folder)
        state = {
            "trainer": trainer.state_dict(),
            "losses": self.losses,
            "validation": self.validation,
        }
        write_file(
            self.wh.tmp,
            lambda handle: torch.save(state | {"since": self._since}, handle),
            self._state,
        )

    def step(self, trainer: Trainer, progress: Progress) -> None:
        """Note one step; write a checkpoint, a state and samples where they are due."""
        settings = trainer.settings
        self._since.append(progress.loss)
        if len(self._since) >= max(1, settings.steps // _POINTS) or progress.step == settings.steps:
            self.losses.append([progress.step, sum(self._since) / len(self._since)])
            self._speed(settings, progress.step)
            self._since = []
            for name in ("loss", "grad_norm", "learning_rate"):
                self._board.add_scalar(name, getattr(progress, name), progress.step)
        if (v := progress.validation) is not None:
            self.validation.append([progress.step, v.true, v.null, v.other])
            self._board.add_scalars("validation", vars(v), progress.step)
        if settings.sample_every and progress.step % settings.sample_every == 0:
            self._samples(trainer)
        mark = progress.step in settings.keep_steps
        if progress.step < settings.steps and (
            mark or progress.step % settings.checkpoint_every == 0
        ):
            self._board.flush()
            self._write(trainer, self._step_id(progress.step))
            self.keep_state(trainer)
            self._rotate(settings.keep_last, settings.keep_steps)

    def _speed(self, settings: TrainSettings, step: int) -> None:
        """Clips a second of the steps since the last point, pauses for validation and checkpoints in it, and memory."""
        now = perf_counter()
        clips = len(self._since) * settings.batch_size * settings.micro_batches
        self._board.add_scalar("clips_per_second", clips / (now - self._at), step)
        if torch.cuda.is_available():
            self._board.add_scalar("peak_memory_gb", torch.cuda.max_memory_reserved() / 1e9, step)
        self._at = now

    def finish(self, trainer: Trainer) -> None:
        """Write the trained bridge; the state is no longer needed."""
        self._write(trainer, self.id)
        self._state.unlink(missing_ok=True)
        self._board.close()

    def last_good(self, step: int) -> str | None:
        """Id of the newest checkpoint on the way, of this step or one before it."""
        good = [record["id"] for record in self._on_the_way() if record["steps"] <= step]
        return good[-1] if good else None

    def _step_id(self, step: int) -> str:
        return f"{self.id}-step{step:06d}"

    def _on_the_way(self) -> list[dict[str, Any]]:
        """Records of this training's checkpoints before the final one, by step."""
        mine = [r for r in self.wh.records("checkpoints") if r.get("of") == self.id]
        return sorted(mine, key=lambda record: record["steps"])

    def _write(self, trainer: Trainer, id: str) -> None:
        """Write a bridge, then the record that makes it a checkpoint."""
        path = make_folder(self.wh.folder("checkpoints") / id) / "bridge.safetensors"
        aside = path.with_suffix(".part")
        with trainer.averaged():
            save_bridge(aside, trainer.bridge, self.identity["backbone"], self.identity["encoder"])
        digest = file_sha256(aside)
        aside.replace(path)
        metrics = {"losses": self.losses, "validation": self.validation}
        record = self.identity | {
            "steps": trainer.step,
            "sha256": digest,
            "code": version("foley-control"),
            **metrics,
        }
        record |= {"created_at": datetime.now(UTC).isoformat()} | (
            {"of": self.id} if id != self.id else {}
        )
        self.wh.write_record("checkpoints", id, record)

    def _rotate(self, keep_last: int, keep_steps: Sequence[int]) -> None:
        """Remove checkpoints on the way but for the last, the best, those at set marks, and those that were used."""
        known = self._on_the_way()
        kept = {record["id"] for record in known[-keep_last:] if record["steps"]}
        kept |= {self._step_id(step) for step in keep_steps}
        measured = {int(step): true for step, true, *_ in self.validation}
        best = min(
            (r for r in known if r["steps"] in measured),
            key=lambda r: measured[r["steps"]],
            default=None,
        )
        kept |= {best["id"]} if best else set()
        kept |= {str(record.get("checkpoint")) for record in self.wh.records("evaluations")}
        for record in known:
            if record["id"] not in kept and not self._made_sound(record["id"]):
                shutil.rmtree(self.wh.folder("checkpoints") / record["id"], ignore_errors=True)

    def _made_sound(self, id: str) -> bool:
        """Whether a stage was ever planned that generates with this checkpoint."""
        stages = [path.name for path in (self.wh.home / "commits").glob("generate*")]
        planned = (
            self.wh.descriptor(stage, fp) for stage in stages for fp in self.wh.fingerprints(stage)
        )
        return any(descriptor.settings.get("checkpoint") == id for descriptor in planned)

    def _samples(self, trainer: Trainer) -> None:
        """Write the sound of a few validation clips, and show it in TensorBoard."""
        clips = self.data.dataset.clip_ids("val")[:SAMPLES]
        tokens = self.wh.rows(
            "video_tokens", self.data.fingerprints["video_tokens"], clip_ids=clips
        ).to_pylist()
        prompts = {
            row["clip_id"]: row["prompt"] or ""
            for row in self.wh.clips(["prompt"], clips).to_pylist()
        }
        if not tokens:
            return
        preset = trainer.backbone.preset
        requests = [
            SoundRequest(
                prompts[row["clip_id"]],
                float(row["video_seconds"]),
                seed,
                tokens_from_bytes(preset, row["video_tokens"]),
            )
            for seed, row in enumerate(tokens)
        ]
        rate = preset.sample_rate
        with trainer.averaged(), trainer.precision():
            foley = FoleyControl(trainer.backbone, trainer.bridge)
            try:
                sounds = foley.generate(requests)
            finally:
                trainer.bridge.train()
                for parameter in trainer.parameters:
                    parameter.requires_grad_(True)
        for row, sound in zip(tokens, sounds, strict=True):
            name = row["clip_id"]
            path = (
                make_folder(self.folder / "samples")
                / f"step{trainer.step:06d}-{name.replace('/', '_')}.flac"
            )
            write_flac(path, sound, rate)
            self._board.add_audio(
                name, torch.from_numpy(sound.mean(0, keepdims=True)), trainer.step, rate
            )
