"""Sync: by how much sound and picture are apart, where a sync network is configured.

A fact, and no gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.presets.preset import Preset
from pipeline.media import Framing, read_frames
from pipeline.media.mono import Frames, Samples, read_sound
from pipeline.stages.reading import read_then_run
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from warehouse import field

CHUNK = 4  # clips whose pictures are held at once: 30 MB each at full size


@dataclass(frozen=True)
class SyncSettings:
    """How much of a clip is looked at: its first so many seconds, as evaluation does."""

    seconds: float


def watch_and_hear(
    path: Path, times: npt.NDArray[np.float64], side: int, sample_rate: int, seconds: float
) -> tuple[Frames, Samples]:
    """The centre squares on screen at these times (s), and the sound of the first `seconds` without DC, mono."""
    return read_frames(path, times, Framing(side, side)), read_sound(path, sample_rate, seconds)


class Sync(Stage):
    """Offset between sound and picture by Synchformer, over the first and the last window of a clip."""

    name = "sync"
    version = 1
    upstream = ("probe", "silence")
    schema = pa.schema(
        [
            field(
                "desync",
                pa.float32(),
                "DeSync: mean of both windows' absolute offsets, s, 0..2; null if too short",
            ),
            field(
                "sync_offset",
                pa.float32(),
                "mean of their offsets, s, -2..2, above 0 where the sound is late",
            ),
        ]
    )
    batch_size = 64

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        self.settings = SyncSettings(preset.evaluation_seconds)

    @property
    def model_revision(self) -> str:
        """Content hash of Synchformer's weights."""
        from model.networks.synchformer import Synchformer

        return Synchformer.revision(self.preset)

    def setup(self) -> None:
        """Load Synchformer."""
        from model.networks.synchformer import Synchformer

        self._network: Any = Synchformer.from_pretrained(self.preset)

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Two facts a clip; a clip shorter than a window passes without, and is not read."""
        long_enough = [len(self._times(clip)) >= self._network.window_frames for clip in clips]
        looked_at = [clip for clip, looked in zip(clips, long_enough, strict=True) if looked]
        found = iter(read_then_run(looked_at, self._reading, self._compare, CHUNK))
        nothing = Passed(dict.fromkeys(self.schema.names))
        return [next(found) if looked else nothing for looked in long_enough]

    def _times(self, clip: Clip) -> npt.NDArray[np.float64]:
        return self._network.times(min(clip["duration"], self.settings.seconds))

    def _reading(self, clip: Clip) -> partial[tuple[Frames, Samples]]:
        network = self._network
        path, seconds = Path(clip["path"]), self.settings.seconds
        return partial(
            watch_and_hear, path, self._times(clip), network.size, network.sample_rate, seconds
        )

    def _compare(self, ready: Sequence[tuple[Clip, tuple[Frames, Samples]]]) -> list[Passed]:
        from model.metrics.metrics import offsets_of

        seen = self._network.watch([frames for _, (frames, _) in ready])
        heard = self._network.hear([sound for _, (_, sound) in ready])
        rows: list[Passed] = []
        for video, audio in zip(seen, heard, strict=True):
            offsets = offsets_of(
                self._network.offset_logits(video.features[None], audio.features[None])[0]
            )
            rows.append(
                Passed(
                    {"desync": float(np.abs(offsets).mean()), "sync_offset": float(offsets.mean())}
                )
            )
        return rows
