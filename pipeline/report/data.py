"""What the demo's report shows, as plain values: it computes no result of its own."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class ReportSound(NamedTuple):
    """One sound of a clip.

    `audio` is float32 in -1..1, mono [S] or [C, S]; `onsets` are detected times in seconds.
    """

    audio: NDArray[np.float32]
    sample_rate: int
    onsets: Collection[float] = ()


@dataclass(frozen=True)
class ReportClip:
    """One clip with a player.

    `video` is the bytes of an mp4 that a browser can play; `impacts` are known times in seconds,
    empty if unknown; `sounds` maps a condition (original, true, other, swap, none) to its sound.
    """

    clip_id: str
    prompt: str
    video: bytes
    sounds: Mapping[str, ReportSound]
    impacts: Collection[float] = ()
    swapped_prompt: str | None = None


@dataclass(frozen=True)
class ReportData:
    """Everything in the report; a section whose part is empty says that it was not measured.

    `results` is the content of results.json; every figure shown is formatted from it. `loss` is
    (step, loss); `validation` is (step, true, null, other), all v-losses. `curation_page` is the
    name of the dataset's page in the same folder; `note` says what its scores are worth.
    """

    results: Mapping[str, Any]
    loss: Sequence[Sequence[float]] = ()
    validation: Sequence[Sequence[float]] = ()
    clips: Sequence[ReportClip] = ()
    curation_page: str = ""
    note: str = ""
    title: str = "foley demo"
