"""Picture: what can be told of a clip's picture without a model. It drops nothing; policies may."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from pipeline.media.glancing import Glance, glance
from pipeline.stages.reading import read_each
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from warehouse import field


@dataclass(frozen=True)
class PictureSettings:
    """How often the picture is looked at, and for how long at most."""

    per_second: float = 4.0
    max_seconds: float = 60.0


class Picture(Stage):
    """Standing and black pictures, cuts, and a hash by which duplicates are found."""

    name = "picture"
    version = 1
    upstream = ("probe", "silence")
    batch_size = 512
    settings = PictureSettings()
    schema = pa.schema(
        [
            field("static_share", pa.float64(), "share of time without a change of picture, 0..1"),
            field("black_share", pa.float64(), "share of time in which the picture is black, 0..1"),
            field("cuts", pa.int32(), "cuts between scenes"),
            field("phash", pa.uint64(), "perceptual hash of the middle picture, for duplicates"),
        ]
    )

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """One outcome a clip: failed if its picture cannot be decoded whole."""

        def job(clip: Clip) -> partial[Glance]:
            seconds = min(float(clip["duration"] or 0), self.settings.max_seconds)
            return partial(glance, Path(clip["path"]), seconds, self.settings.per_second)

        return read_each(clips, job, lambda facts: Passed(asdict(facts)))
