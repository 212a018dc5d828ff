"""What a training leaves behind beside its checkpoints, in HOME/checkpoints/<id>.

state.pt and state-before.pt (what an unfinished training goes on from), tensorboard/, samples/.
"""

import torch

from model.foley import FoleyControl, SoundRequest
from model.presets.settings import TrainSettings
from model.training.trainer import Progress, Trainer
from model.training.validation import Losses
from pipeline.features.video_tokens import tokens_from_bytes
from pipeline.media import write_flac
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import TrainingCheckpoints
from pipeline.training.meter import Curves, Meter
from pipeline.training.states import read_states, remove_states, states_in, write_state
from warehouse import FoleyError
from warehouse.files import make_folder

SAMPLES = 2  # validation clips whose sound is written where the settings ask for samples
_POINTS = 1000  # about so many points of the loss curve are kept in a record
_SHOWN_EVERY = 10  # steps, at most, between points of the curves


class TrainingLog:
    """Files and records of one training, in the main process only."""

    def __init__(
        self, data: DatasetFeatures, checkpoints: TrainingCheckpoints, meter: Meter, curves: Curves
    ) -> None:
        self.data, self.wh, self.checkpoints = data, data.wh, checkpoints
        self.folder = self.wh.folder("checkpoints") / checkpoints.id
        #: Points [step, loss] and [step, true, null, other] of the curves.
        self.figures: dict[str, list[list[float]]] = {"losses": [], "validation": []}
        self._since: list[float] = []  # losses since the last point
        self._meter, self._curves = meter, curves

    def resume(self, trainer: Trainer) -> None:
        """Go on from the newest state that can be read. Raises FoleyError if none of them can."""
        for state in read_states(self.folder):
            try:
                trainer.load_state_dict(state["trainer"])
                self.figures = {name: state[name] for name in self.figures}
                self._since = state["since"]
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                raise FoleyError(
                    f"{self.folder} holds a state of another version ({error!r:.80}): "
                    "delete its state*.pt, and training begins anew"
                ) from None
            self._curves.first = trainer.step + 1
            return
        if damaged := states_in(self.folder):
            raise FoleyError(
                f"{' and '.join(map(str, damaged))} cannot be read: delete what is damaged, and "
                "training begins anew"
            )

    def keep_state(self, trainer: Trainer) -> None:
        """Write all that the training needs to go on."""
        state = {"trainer": trainer.state_dict(), "since": self._since, **self.figures}
        write_state(self.wh.tmp, self.folder, state)

    def step(self, trainer: Trainer, progress: Progress, waited: float) -> None:
        """Note a step (`waited`: seconds for data so far), and write what is due after it."""
        settings, step = trainer.settings, progress.step
        self._since.append(progress.loss)
        self._meter.add(progress)
        every = max(1, settings.steps // _POINTS)  # of the figures that are kept
        if step % min(every, _SHOWN_EVERY) == 0 or trainer.finished:
            self._curves.add(self._meter.figures(progress, waited), step)
        if len(self._since) >= every:
            self._add_point(step)
        self.add_validation(step, progress.validation)
        if self.due(settings, step) and step < settings.steps:
            self._curves.flush()
            self.checkpoints.write(trainer, self.figures)
            self.keep_state(trainer)
            self.checkpoints.rotate(settings, self.figures["validation"])

    def _add_point(self, step: int) -> None:
        if self._since:
            self.figures["losses"].append([step, sum(self._since) / len(self._since)])
            self._since = []

    def add_validation(self, step: int, losses: Losses | None) -> None:
        """Note what was measured after a step, if anything was."""
        if losses is not None:
            self.figures["validation"].append([step, losses.true, losses.null, losses.other])
            self._curves.add_together("validation", vars(losses), step)

    def validated(self, step: int) -> bool:
        """Whether a measurement after this step is in the figures."""
        return step in (point[0] for point in self.figures["validation"])

    @staticmethod
    def due(settings: TrainSettings, step: int) -> bool:
        """Whether a checkpoint is written after this step."""
        marked = step in settings.keep_steps or step % settings.checkpoint_every == 0
        return marked or step == settings.steps

    def finish(self, trainer: Trainer) -> None:
        """Write the trained bridge; the state is kept if the settings ask for it."""
        self._add_point(trainer.step)
        if trainer.settings.keep_state:
            self.keep_state(trainer)
        self.checkpoints.write(trainer, self.figures, final=True)
        if not trainer.settings.keep_state:
            remove_states(self.folder)
        self.close()

    def close(self) -> None:
        """Write what the curves have not been given yet."""
        self._curves.close()

    def samples_where_due(self, trainer: Trainer) -> None:
        """Write sound samples after the steps at which the settings ask for them."""
        every = trainer.settings.sample_every
        if every and trainer.step % every == 0:
            self._samples(trainer)

    def _samples(self, trainer: Trainer) -> None:
        """Write the sound of a few validation clips, and show it in TensorBoard."""
        clips = self.data.dataset.clip_ids("val")[:SAMPLES]
        fingerprint = self.data.fingerprints["video_tokens"]
        rows = self.wh.rows("video_tokens", fingerprint, clip_ids=clips).to_pylist()
        if not rows:
            return
        prompts = {row["clip_id"]: row["prompt"] for row in self.wh.clips(None, clips).to_pylist()}
        preset = trainer.backbone.preset
        requests: list[SoundRequest] = []
        for seed, row in enumerate(rows):
            prompt, tokens = prompts[row["clip_id"]], tokens_from_bytes(preset, row["video_tokens"])
            requests.append(SoundRequest(prompt or "", float(row["video_seconds"]), seed, tokens))
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
            self._curves.add_sound(name, mono, trainer.step, rate)
