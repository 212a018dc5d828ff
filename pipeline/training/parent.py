"""The bridge that a training starts from: `foley train --from`, and the stages of a recipe."""

from dataclasses import dataclass
from pathlib import Path

from model.bridge_file import read_bridge_facts
from model.presets.preset import Preset
from model.weights.load import WeightsError
from pipeline.training.checkpoints import Checkpoint
from pipeline.training.states import read_states, states_in
from warehouse import FoleyError
from warehouse.files import Json


@dataclass(frozen=True)
class Parent:
    """A trained bridge as a beginning."""

    checkpoint: Checkpoint  # the bridge
    # take its optimiser's moments and moving average too, not its weights alone
    optimiser: bool = False

    @property
    def identity(self) -> Json:
        """What it adds to the identity of a training."""
        return {
            "parent": self.checkpoint.id,
            "parent_sha256": self.checkpoint.record["sha256"],
            "parent_optimiser": self.optimiser,
        }

    def check(self, preset: Preset) -> None:
        """Raises WeightsError where it is of other models, tokens or layers."""
        path = self.checkpoint.path
        facts = read_bridge_facts(path)
        facts.check_tokens(preset, path)
        facts.apply(preset, path)
        own, asked = facts.settings.model_dump(), preset.bridge.model_dump()
        differing = ", ".join(f"bridge.{k} = {v}" for k, v in own.items() if asked[k] != v)
        if differing:
            raise WeightsError(f"{path} has layers with {differing}: a training from it keeps them")

    @property
    def _folder(self) -> Path:
        """Where the states of the training that made it are."""
        made_by = str(self.checkpoint.record.get("of", self.checkpoint.id))
        return self.checkpoint.path.parent.parent / made_by

    def state(self) -> Json:
        """The trainer's state at this checkpoint. Raises FoleyError where it was not kept."""
        for state in read_states(self._folder):
            if state["trainer"]["step"] == self.checkpoint.record["steps"]:
                return state["trainer"]
        raise self._no_state()

    def check_state(self) -> None:
        """Raises FoleyError where no state was kept, before one is read."""
        record = self.checkpoint.record
        stopped_early = record.get("ended_after", record.get("steps")) != record.get("steps")
        if stopped_early or not states_in(self._folder):
            raise self._no_state()

    def _no_state(self) -> FoleyError:
        return FoleyError(
            f"the optimiser of checkpoint {self.checkpoint.id} was not kept: start from its "
            "weights alone, or train it with train.keep_state = true and no train.patience"
        )
