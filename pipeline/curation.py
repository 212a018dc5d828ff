"""The stages of curation and of the feature cache, in order."""

from __future__ import annotations

from model.presets import Preset
from pipeline.features import AudioLatents, TextEmbeddings, VideoTokens
from pipeline.picture import Picture
from pipeline.probe import Probe
from pipeline.scores import AudioboxScore, ImageBindScore
from pipeline.silence import Silence
from pipeline.stage import Stage
from pipeline.sync import Sync
from pipeline.tags import Tags

FEATURE_COLUMNS = (
    "video_tokens",
    "n_video_tokens",
    "latent_mean",
    "latent_scale",
    "n_latents",
    "audio_seconds",
    "text_tokens",
    "n_text_tokens",
)


def scoring_stages(preset: Preset) -> list[Stage]:
    """Facts that policies select by; cheap stages first, so that costly ones see only what may be kept.

    The last two are there where the preset configures them: `scores.sync`, `scores.tagger`.
    """
    stages: list[Stage] = [Probe(), Silence(), Picture(), ImageBindScore(preset), AudioboxScore(preset)]
    if preset.scores.sync:
        stages.append(Sync(preset))
    if preset.scores.tagger is not None:
        stages.append(Tags(preset, preset.scores.tagger))
    return stages


def feature_stages(preset: Preset) -> list[Stage]:
    """Features of the clips of a dataset."""
    return [VideoTokens(preset), AudioLatents(preset), TextEmbeddings(preset)]
