"""The stages of curation and of the feature cache, in order."""

from __future__ import annotations

from model.presets.preset import Preset
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


def scoring_stages(preset: Preset) -> list[Stage]:
    """Facts that policies select by; cheap stages first, so that costly ones see only what may be kept.

    The last two are there where the preset configures them: `scores.sync`, `scores.tagger`.
    """
    stages: list[Stage] = [
        Probe(),
        Silence(),
        Picture(),
        ImageBindScore(preset),
        AudioboxScore(preset),
    ]
    if preset.scores.sync:
        stages.append(Sync(preset))
    if preset.scores.tagger is not None:
        stages.append(Tags(preset, preset.scores.tagger))
    return stages


def feature_stages(preset: Preset) -> list[Stage]:
    """Features of the clips of a dataset."""
    return [VideoTokens(preset), AudioLatents(preset), TextEmbeddings(preset)]


def all_stages(preset: Preset) -> list[Stage]:
    """Every stage of curation, in order."""
    return [*scoring_stages(preset), *feature_stages(preset)]


def feature_fingerprints(preset: Preset) -> dict[str, str]:
    """Fingerprints of the stages that training reads.

    Scorers may have changed since without it mattering.
    """
    fps = fingerprints(all_stages(preset))
    return {stage.name: fps[stage.name] for stage in feature_stages(preset)}
