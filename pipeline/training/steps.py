"""The steps of a training: taken, measured, noted, and left so that they can be gone on with."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice

from model.training.divergence import DivergedError
from model.training.feature_batch import FeatureBatch
from model.training.processes import undisturbed
from model.training.trainer import Progress, Trainer
from model.training.validation import Losses
from pipeline.training.read_ahead import ReadAhead
from pipeline.training.training_log import TrainingLog
from warehouse import FoleyError


class StoppedError(Exception):
    """Processes that train together were told to stop; their state is kept."""

    def __init__(self, step: int) -> None:
        super().__init__(f"training was told to stop after step {step}")
        self.step = step


class TrainingSteps:
    """The steps that are left; of processes that train together, the main one alone writes."""

    def __init__(
        self,
        trainer: Trainer,
        validation: Sequence[FeatureBatch],
        log: TrainingLog,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.trainer, self.validation, self.log = trainer, validation, log
        self.on_progress = on_progress
        self.main = trainer.processes.rank == 0
        self._waited = lambda: 0.0  # seconds for data
        self._noted = trainer.step  # the last that is in the figures, with its checkpoint if due

    def take(self, batches: ReadAhead) -> None:
        """Take all steps that are left, of micro-batches one after another.

        Raises FoleyError when training diverged, with the last good checkpoint, and StoppedError.
        Whatever ends it, the main process keeps the state after the last step.
        """
        self._waited = lambda: batches.waited
        try:
            self._begin()
            while not self.trainer.finished:
                self._take(islice(batches, len(self.trainer.mine)))
        except DivergedError as error:
            good = self.log.checkpoints.last_good(error.good)
            left = f"go on from the last good checkpoint (--from {good})" if good else "begin anew"
            raise FoleyError(f"training diverged at {error}: {left}. {error.advice}") from None
        except BaseException:
            if self.main and self.trainer.latest is not None:
                undisturbed(self._keep)
            raise

    def _begin(self) -> None:
        """See that processes begin alike, and measure what a stop kept from being measured."""
        self.trainer.check_processes()
        if not self.log.validated(self.trainer.step):
            losses = self._measure()
            if self.main:
                self.log.add_validation(self.trainer.step, losses)

    def _take(self, batches: Iterable[FeatureBatch]) -> None:
        trainer = self.trainer
        progress = trainer.train_step(batches)
        if self.log.due(trainer.settings, trainer.step) or self._is_measured:
            trainer.check_processes()
        progress = replace(progress, validation=self._measure())
        if self.main:
            undisturbed(lambda: self._note(progress))
            self.log.samples_where_due(trainer)
            self.on_progress(progress)
        if trainer.stopped and not trainer.finished:
            raise StoppedError(trainer.step)

    @property
    def _is_measured(self) -> bool:
        """Whether validation is due after the step that the trainer is at."""
        settings, step = self.trainer.settings, self.trainer.step
        if step == 0:  # the weights to begin with are the first to beat
            return bool(self.validation) and settings.patience is not None
        due = step == settings.steps or step % settings.validate_every == 0
        return bool(self.validation) and due

    def _measure(self) -> Losses | None:
        """Validation losses after the step that the trainer is at, if they are due."""
        return self.trainer.validate(self.validation) if self._is_measured else None

    def _note(self, progress: Progress) -> None:
        self.log.step(self.trainer, progress, self._waited())
        self._noted = progress.step

    def _keep(self) -> None:
        """Keep the state after the last step, also where the stop came before it was noted."""
        if self._noted < self.trainer.step and self.trainer.latest is not None:
            self._note(self.trainer.latest)
        self.log.keep_state(self.trainer)
        self.log.close()
