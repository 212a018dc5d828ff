"""What the demo's report shows, as plain values: it computes no result of its own."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class ReportSound(NamedTuple):
    """One sound of a clip."""

    audio: NDArray[np.float32]  # in -1..1, mono [S] or [C, S]
    sample_rate: int
    onsets: Collection[float] = ()  # detected times, seconds


@dataclass(frozen=True)
class ReportClip:
    """One clip with a player."""

    clip_id: str
    prompt: str
    video: bytes  # of an mp4 that a browser can play
    sounds: Mapping[str, ReportSound]  # by condition: original, true, other, swap, none
    impacts: Collection[float] = ()  # known times, seconds
    swapped_prompt: str | None = None


@dataclass(frozen=True)
class ReportData:
    """Everything in the report; a section whose part is empty says that it was not measured."""

    results: Mapping[str, Any]  # results.json, from which every figure shown is formatted
    loss: Sequence[Sequence[float]] = ()  # (step, loss)
    validation: Sequence[Sequence[float]] = ()  # (step, true, null, other), all v-losses
    clips: Sequence[ReportClip] = ()
    curation_page: str = ""  # name of the dataset's page in the same folder
    note: str = ""  # what its scores are worth
    title: str = "foley demo"
