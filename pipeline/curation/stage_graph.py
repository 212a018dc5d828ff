"""The stages of a preset, in order, and their fingerprints."""

from collections.abc import Callable, Sequence
from functools import cached_property
from inspect import signature
from typing import cast

from model.presets.preset import Preset
from model.presets.settings import ModelError, load_class
from pipeline.features.audio_latents import AudioLatents
from pipeline.features.text_embeddings import TextEmbeddings
from pipeline.features.video_tokens import VideoTokens
from pipeline.scoring.audiobox import AudioboxScore
from pipeline.scoring.imagebind import ImageBindScore
from pipeline.scoring.loudness import Silence
from pipeline.scoring.picture import Picture
from pipeline.scoring.probe import Probe
from pipeline.scoring.sync import Sync
from pipeline.scoring.tags import Tags
from pipeline.stages.engine import fingerprints
from pipeline.stages.stage import Stage
from warehouse import FoleyError


class StageGraph:
    """What a preset runs over clips: made once a run, and asked by all that need its stages.

    Stages of one's own come from the preset's `stages` and from `own` (those of a policy, say),
    each named as `package.module:Class`. Raises FoleyError for one that cannot be used.
    """

    def __init__(self, preset: Preset, own: Sequence[str] = ()) -> None:
        self.preset = preset
        #: Facts that policies select by. Cheap stages come first: costly ones see fewer clips.
        self.scoring: list[Stage] = [
            *_house_scores(preset),
            *(load_stage(name, preset) for name in dict.fromkeys([*preset.stages, *own])),
        ]
        #: What training reads of the clips of a dataset.
        self.features: list[Stage] = [
            VideoTokens(preset),
            AudioLatents(preset),
            TextEmbeddings(preset),
        ]

    @property
    def stages(self) -> list[Stage]:
        """Every stage, in order."""
        return [*self.scoring, *self.features]

    @property
    def feature_stages(self) -> list[Stage]:
        """The features, and before them the stages that they are computed from."""
        needed = {stage.name for stage in self.features}
        for stage in reversed(self.stages):
            needed |= set(stage.upstream) if stage.name in needed else set()
        return [stage for stage in self.stages if stage.name in needed]

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of every stage, by name. It is read from the weights, so it may take time."""
        return fingerprints(self.stages)

    @cached_property
    def scoring_fingerprints(self) -> dict[str, str]:
        """Fingerprints of the stages that a policy reads. No weights of a feature are needed."""
        return fingerprints(self.scoring)

    @cached_property
    def feature_fingerprints(self) -> dict[str, str]:
        """Fingerprints of `feature_stages`, which training reads. No weights of a score are needed.

        They stay the same where a score that no feature needs is changed, added or left out.
        """
        return fingerprints(self.feature_stages)


def _house_scores(preset: Preset) -> list[Stage]:
    """The scores that come with the house, but for those that the preset leaves out."""
    stages: list[Stage] = [Probe(), Silence(), Picture()]
    if preset.scores.imagebind:
        stages.append(ImageBindScore(preset))
    if preset.scores.audiobox:
        stages.append(AudioboxScore(preset))
    if preset.scores.sync:
        stages.append(Sync(preset))
    if preset.scores.tagger is not None:
        stages.append(Tags(preset, preset.scores.tagger))
    return stages


def load_stage(name: str, preset: Preset) -> Stage:
    """The stage that `package.module:Class` names; a class that takes an argument gets the preset.

    A module beside the preset.toml is named with its folder in front (`load_preset` does that).
    Raises FoleyError where there is no such module or class, and for a class that is no stage.
    """
    try:
        loaded = load_class(name)
    except ModelError as error:
        raise FoleyError(f"stage {error}") from None
    kind = loaded.__name__
    if not issubclass(loaded, Stage):
        raise FoleyError(f"stage {name}: {kind} is no subclass of pipeline.stages.stage.Stage")
    make = cast("Callable[..., Stage]", loaded)
    try:
        stage = make(preset) if signature(make).parameters else make()
    except TypeError as error:  # an abstract class, or one that takes something else
        raise FoleyError(f"stage {name}: {error}") from None
    missing = [attribute for attribute in ("name", "schema") if not hasattr(stage, attribute)]
    if missing:
        raise FoleyError(f"stage {name}: {kind} has no {' and no '.join(missing)}")
    return stage
