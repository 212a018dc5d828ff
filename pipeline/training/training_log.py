"""What a training leaves behind beside its checkpoints, in HOME/checkpoints/<id>.

state.pt (what an unfinished training goes on from), tensorboard/, samples/ (sounds).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from model.foley import FoleyControl, SoundRequest
from model.presets.settings import TrainSettings
from model.training.trainer import Progress, Trainer
from pipeline.features.video_tokens import tokens_from_bytes
from pipeline.media import write_flac
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import TrainingCheckpoints
from warehouse import FoleyError
from warehouse.files import make_folder, write_file

SAMPLES = 2  # validation clips whose sound is written where the settings ask for samples
_POINTS = 1000  # about so many points of the loss curve are kept in a record
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError)


class TrainingLog:
    """Files and records of one training, in the main process only."""

    def __init__(self, data: DatasetFeatures, id: str, identity: Mapping[str, Any]) -> None:
        self.data, self.wh = data, data.wh
        self.checkpoints = TrainingCheckpoints(data.wh, id, identity)
        self.folder = self.wh.folder("checkpoints") / id
        #: Points [step, loss] and [step, true, null, other] of the curves.
        self.figures: dict[str, list[list[float]]] = {"losses": [], "validation": []}
        self._since: list[float] = []  # losses since the last point
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
        """Go on from the state that was kept, if any. Raises FoleyError if it cannot be read."""
        if not self._state.is_file():
            return
        try:
            state = torch.load(self._state, map_location="cpu", weights_only=True)
            trainer.load_state_dict(state["trainer"])
            self.figures = {name: state[name] for name in self.figures}
            self._since = state["since"]
        except _UNREADABLE as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            raise FoleyError(
                f"{self._state} is damaged or of another version ({what}): "
                "delete it, and training begins anew"
            ) from None
        self._first = trainer.step + 1

    def keep_state(self, trainer: Trainer) -> None:
        """Write all that the training needs to go on, in place of what was kept before."""
        make_folder(self.folder)
        state = {"trainer": trainer.state_dict(), "since": self._since, **self.figures}
        write_file(self.wh.tmp, lambda handle: torch.save(state, handle), self._state)

    def step(self, trainer: Trainer, progress: Progress) -> None:
        """Note one step; write a checkpoint, a state and samples where they are due."""
        settings, step = trainer.settings, progress.step
        self._since.append(progress.loss)
        if len(self._since) >= max(1, settings.steps // _POINTS) or step == settings.steps:
            self._add_point(settings, progress)
        if (v := progress.validation) is not None:
            self.figures["validation"].append([step, v.true, v.null, v.other])
            self._board.add_scalars("validation", vars(v), step)
        if settings.sample_every and step % settings.sample_every == 0:
            self._samples(trainer)
        due = step in settings.keep_steps or step % settings.checkpoint_every == 0
        if due and step < settings.steps:
            self._board.flush()
            self.checkpoints.write(trainer, self.figures)
            self.keep_state(trainer)
            self.checkpoints.rotate(settings, self.figures["validation"])

    def _add_point(self, settings: TrainSettings, progress: Progress) -> None:
        """A point of every curve: of the steps since the last one, pauses between them included."""
        step, now = progress.step, perf_counter()
        self.figures["losses"].append([step, sum(self._since) / len(self._since)])
        clips = len(self._since) * settings.batch_size * settings.micro_batches
        self._board.add_scalar("clips_per_second", clips / (now - self._at), step)
        if torch.cuda.is_available():
            self._board.add_scalar("peak_memory_gb", torch.cuda.max_memory_reserved() / 1e9, step)
        for name in ("loss", "grad_norm", "learning_rate"):
            self._board.add_scalar(name, getattr(progress, name), step)
        self._at, self._since = now, []

    def finish(self, trainer: Trainer) -> None:
        """Write the trained bridge; the state is no longer needed."""
        self.checkpoints.write(trainer, self.figures, final=True)
        self._state.unlink(missing_ok=True)
        self._board.close()

    def _samples(self, trainer: Trainer) -> None:
        """Write the sound of a few validation clips, and show it in TensorBoard."""
        clips = self.data.dataset.clip_ids("val")[:SAMPLES]
        fingerprint = self.data.fingerprints["video_tokens"]
        rows = self.wh.rows("video_tokens", fingerprint, clip_ids=clips).to_pylist()
        if not rows:
            return
        prompts = {row["clip_id"]: row["prompt"] for row in self.wh.clips(None, clips).to_pylist()}
        preset = trainer.backbone.preset
        requests = [
            SoundRequest(
                prompts[row["clip_id"]] or "",
                float(row["video_seconds"]),
                seed,
                tokens_from_bytes(preset, row["video_tokens"]),
            )
            for seed, row in enumerate(rows)
        ]
        with trainer.averaged(), trainer.precision():
            try:
                sounds = FoleyControl(trainer.backbone, trainer.bridge).generate(requests)
            finally:  # sampling freezes what training trains
                trainer.bridge.train()
                for parameter in trainer.parameters:
                    parameter.requires_grad_(True)
        folder, rate = make_folder(self.folder / "samples"), preset.sample_rate
        for row, sound in zip(rows, sounds, strict=True):
            name = row["clip_id"]
            file = f"step{trainer.step:06d}-{name.replace('/', '_')}.flac"
            write_flac(folder / file, sound, rate)
            mono = torch.from_numpy(sound.mean(0, keepdims=True))
            self._board.add_audio(name, mono, trainer.step, rate)
