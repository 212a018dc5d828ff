"""A score of one's own: the mean brightness of a clip's picture.

Put this file beside a preset.toml that says

    base = "toy"
    stages = ["add_a_score:Brightness"]

and run `foley curate FOLDER --preset PRESET_FOLDER`. The score is then in the funnel, on the
page of the curation, in the catalog (`foley sql "from brightness"`), and policies select by it:

    [[gate]]
    name = "dark"
    keep = [{ column = "brightness", at_least = 0.1 }]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.media import Framing, read_frames
from pipeline.stages.reading import read_each
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from warehouse import field


@dataclass(frozen=True)
class BrightnessSettings:
    """Other settings give another fingerprint, and all clips are scored again."""

    per_second: float = 2.0
    side: int = 32  # pixels: a mean needs no more


class Brightness(Stage):
    """Drops nothing: whether a clip is too dark is for a policy to say."""

    name = "brightness"
    version = 1  # raise it when the code gives other results
    upstream = ("probe", "silence")
    settings = BrightnessSettings()
    schema = pa.schema([field("brightness", pa.float32(), "mean brightness of the picture, 0..1")])

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """One outcome a clip: worker processes read the files, and a broken one is a row too."""

        def job(clip: Clip) -> partial[np.ndarray]:
            times = np.arange(0, clip["duration"], 1 / self.settings.per_second)
            framing = Framing(self.settings.side, self.settings.side)
            return partial(read_frames, Path(clip["path"]), times, framing)

        return read_each(clips, job, lambda frames: Passed({"brightness": frames.mean() / 255}))
