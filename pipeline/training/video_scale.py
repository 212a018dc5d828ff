"""Mean and deviation of video tokens, by which the bridge standardises them."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from warehouse import FeatureSet
from warehouse.files import read_json, write_file

_CLIPS = 1024  # that are looked at: hundreds of thousands of tokens, of clips in random order
_TOGETHER = 16  # clips whose tokens are held


class Moments:
    """Mean and variance of rows that come in pieces, in float64 (Chan et al. 1979)."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean, self._squares = np.zeros(width), np.zeros(width)

    def add(self, rows: np.ndarray) -> None:
        """More rows [N, V]."""
        rows = rows.astype(np.float64)
        count = self.count + len(rows)
        if count == self.count:
            return
        mean = rows.mean(0)
        apart = mean - self.mean
        self._squares += np.square(rows - mean).sum(0)
        self._squares += np.square(apart) * self.count * len(rows) / count
        self.mean += apart * len(rows) / count
        self.count = count

    @property
    def std(self) -> np.ndarray:
        """Standard deviation [V], of n - 1."""
        return np.sqrt(self._squares / max(1, self.count - 1))


def video_scale(features: FeatureSet, tmp: Path) -> tuple[Tensor, Tensor]:
    """Mean and deviation [V] of the tokens that clips have, padding left out.

    Of the first 1,024 clips of a feature set, which lie in random order. Measured once and kept
    beside the set, so that every training and every process takes the same. `tmp` is where the
    file is written first.
    """
    file = features.path / "_video_scale.json"
    if not file.is_file():
        moments = Moments(features.columns["video_tokens"].shape[-1])
        rows = np.arange(min(len(features), _CLIPS))
        batches = np.split(rows, range(_TOGETHER, len(rows), _TOGETHER))
        for arrays in features.read_batches(batches, ["video_tokens", "n_video_tokens"]):
            for tokens, count in zip(
                arrays["video_tokens"], arrays["n_video_tokens"].tolist(), strict=True
            ):
                moments.add(tokens[:count].reshape(-1, tokens.shape[-1]))
        found = {
            "clips": len(rows),
            "tokens": moments.count,
            "mean": moments.mean.tolist(),
            "std": moments.std.tolist(),
        }
        write_file(tmp, lambda handle: handle.write(json.dumps(found).encode()), file)
    kept = read_json(file)
    return torch.tensor(kept["mean"]), torch.tensor(kept["std"])
