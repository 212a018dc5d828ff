"""Sync: by how much sound and picture are apart, where the preset asks for it. A fact, no gate."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from model.presets.preset import Preset
from model.types import Audio, Frames, Times
from pipeline.media import Framing, read_frames
from pipeline.media.mono import read_sound
from pipeline.scoring.network import NetworkScore
from pipeline.stages.reading import read_then_run
from pipeline.stages.stage import Clip, Outcome, Passed

CHUNK = 4  # clips whose pictures are held at once: 30 MB each at full size


@dataclass(frozen=True)
class SyncSettings:
    """How much of a clip is looked at: its first so many seconds, as evaluation does."""

    seconds: float


def read_clip(
    path: Path, times: Times, side: int, sample_rate: int, seconds: float
) -> tuple[Frames, Audio]:
    """Centre squares [T, side, side, 3] at these times (s), and the sound's first `seconds`."""
    return read_frames(path, times, Framing(side, side)), read_sound(path, sample_rate, seconds)


class Sync(NetworkScore):
    """Offset of sound and picture by Synchformer, over the first and the last window of a clip."""

    name = "sync"
    network = "synchformer"
    batch_size = 64

    def __init__(self, preset: Preset) -> None:
        super().__init__(preset)
        self.settings = SyncSettings(preset.evaluation_seconds)

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Two facts a clip; a clip shorter than a window passes without, and is not read."""
        long_enough = [len(self._times(clip)) >= self._network.window_frames for clip in clips]
        compared = [clip for clip, is_long in zip(clips, long_enough, strict=True) if is_long]
        outcomes = iter(read_then_run(compared, self._reading, self._compare, CHUNK))
        nothing = Passed(dict.fromkeys(self.schema.names))
        return [next(outcomes) if is_long else nothing for is_long in long_enough]

    def _times(self, clip: Clip) -> Times:
        return self._network.times(min(clip["duration"], self.settings.seconds))

    def _reading(self, clip: Clip) -> partial[tuple[Frames, Audio]]:
        network, path = self._network, Path(clip["path"])
        rate, seconds = network.sample_rate, self.settings.seconds
        return partial(read_clip, path, self._times(clip), network.size, rate, seconds)

    def _compare(self, ready: Sequence[tuple[Clip, tuple[Frames, Audio]]]) -> list[Passed]:
        from model.metrics.metrics import offsets_of

        network = self._network
        seen = network.watch([frames for _, (frames, _) in ready])
        heard = network.hear([sound for _, (_, sound) in ready])
        rows: list[Passed] = []
        for video, audio in zip(seen, heard, strict=True):
            logits = network.offset_logits(video.features[None], audio.features[None])
            offsets = offsets_of(logits[0])
            values = {"desync": float(np.abs(offsets).mean()), "sync_offset": float(offsets.mean())}
            rows.append(Passed(values))
        return rows
