"""What the feature stages have in common: their columns, and how they are written."""

import numpy as np
from torch import Tensor

from model.presets.preset import Preset
from pipeline.stages.stage import Clip
from warehouse import to_bytes

#: The columns of a feature set.
FEATURE_COLUMNS = (
    *("video_tokens", "n_video_tokens"),
    *("latent_mean", "latent_scale", "n_latents", "audio_seconds"),
    *("text_tokens", "n_text_tokens"),
)


def clip_seconds(preset: Preset, clip: Clip) -> float:
    """Seconds of the clip that are used: all of it, up to the preset's limit."""
    return min(float(clip["duration"]), preset.max_seconds)


def half_bytes(tensor: Tensor) -> bytes:
    """A tensor as float16, which all features are stored in."""
    return to_bytes(tensor.cpu().numpy().astype(np.float16))


def middle_times(count: int, rate: float) -> bytes:
    """Middles of `count` tokens at `rate` a second, s after the first picture: float32 [count]."""
    return to_bytes(((np.arange(count) + 0.5) / rate).astype(np.float32))
