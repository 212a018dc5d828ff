"""The columns of a feature set."""

from __future__ import annotations

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
