"""Text embeddings: the backbone's text encoder on a clip's prompt."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from model.presets.preset import Preset
from pipeline.features.audio_latents import _BackboneStage
from pipeline.features.video_tokens import CHUNK, _half
from pipeline.stages.progress import advance
from pipeline.stages.stage import Clip, Outcome, Passed
from warehouse import array_field, field


class TextEmbeddings(_BackboneStage):
    """Tokens of the backbone's own text encoder for the clip's prompt."""

    name = "text_embeddings"
    version = 1
    upstream = ()
    reads = ("prompt",)
    batch_size = 4096

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        width = preset.text_width
        self.schema = pa.schema(
            [
                array_field(
                    "text_tokens", "float16", (-1, width), "[tokens, width], without padding"
                ),
                field("n_text_tokens", pa.int32(), "text tokens"),
            ]
        )

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Tokens of each prompt."""
        outcomes: list[Outcome] = []
        for start in range(0, len(clips), CHUNK):
            tokens = self._backbone.encode_text(
                [clip["prompt"] or "" for clip in clips[start : start + CHUNK]]
            )
            outcomes += [
                Passed({"text_tokens": _half(row), "n_text_tokens": len(row)}) for row in tokens
            ]
            advance(len(tokens))
        return outcomes
