"""Text embeddings: the backbone's text encoder on a clip's prompt."""

from collections.abc import Sequence

import pyarrow as pa

from model.presets.preset import Preset
from model.weights.files import weights_bytes
from pipeline.features.audio_latents import CHUNK, BackboneStage
from pipeline.features.columns import half_bytes
from pipeline.stages.progress import advance
from pipeline.stages.stage import Clip, Outcome, Passed
from warehouse import array_field, field


class TextEmbeddings(BackboneStage):
    """Tokens of the backbone's own text encoder for the clip's prompt."""

    name = "text_embeddings"
    version = 1
    upstream = ()
    reads = ("prompt",)
    batch_size = 4096

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        shape, tokens = (-1, preset.text_width), "[tokens, width], without padding"
        self.schema = pa.schema(
            [
                array_field("text_tokens", "float16", shape, tokens),
                field("n_text_tokens", pa.int32(), "text tokens"),
            ]
        )

    @property
    def weights(self) -> int:
        """Those of the text encoder."""
        return weights_bytes(self.preset.model("text"))

    def setup(self) -> None:
        """Load the text encoder, and no other part of the backbone."""
        from model.backbone import TextEncoder
        from model.weights.device import choose_device

        self._text = TextEncoder.from_pretrained(self.preset, choose_device())

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Tokens of each prompt."""
        outcomes: list[Outcome] = []
        for start in range(0, len(clips), CHUNK):
            prompts = [clip["prompt"] or "" for clip in clips[start : start + CHUNK]]
            for tokens in self._text.encode(prompts):
                row = {"text_tokens": half_bytes(tokens), "n_text_tokens": len(tokens)}
                outcomes.append(Passed(row))
            advance(len(prompts))
        return outcomes
