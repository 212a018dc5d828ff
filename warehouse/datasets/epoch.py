"""In which order an epoch goes through a feature set, and which clips make a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WINDOW = 256
_WINDOW_BYTES = 256 << 20
_POOL = 4096  # clips among which like ones are looked for


@dataclass(frozen=True)
class Epoch:
    """An order of clips: a function of these values and of the set alone.

    Clips are shuffled within windows of 256 (256 MiB at most) of row groups in random order.

    Attributes:
        batch_size: clips of a batch.
        seed: of the order.
        number: of the epoch; each has an order of its own.
        by: a column of numbers, of which the clips of a batch have like values: of 4,096 shuffled
            clips those of neighbouring values make a batch. Without `drop_last` they have equal
            values, and a batch may be short.
        drop_last: full batches only, so that fewer than `batch_size` clips are left out, others in
            each epoch; else every clip comes once.
        most: clips that are taken, the first ones of the random order; None for all.

    """

    batch_size: int
    seed: int = 0
    number: int = 0
    by: str | None = None
    drop_last: bool = True
    most: int | None = None

    def batches(
        self, pieces: Sequence[np.ndarray], row_bytes: int, values: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Rows of each batch.

        Args:
            pieces: the rows of the set in pieces that lie together on disk.
            row_bytes: bytes of a row.
            values: of the column `by`, of every row.

        """
        size, seeds = self.batch_size, [self.seed, self.number]
        order = np.random.default_rng(seeds).permutation(len(pieces))
        stream = np.concatenate([np.empty(0, np.int64), *(pieces[piece] for piece in order)])
        stream = stream[: self.most]
        if self.drop_last:
            stream = stream[: len(stream) // size * size]
        window = _POOL if self.by else min(_WINDOW, _WINDOW_BYTES // max(1, row_bytes))
        window = max(1, window // size) * size
        batches: list[np.ndarray] = []
        for number, begin in enumerate(range(0, len(stream), window)):
            part = stream[begin : begin + window]
            part = part[np.random.default_rng([*seeds, 0, number]).permutation(len(part))]
            begins = range(size, len(part), size)
            batches += np.split(part, begins) if values is None else self._like(part, values[part])
        return batches

    def _like(self, rows: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
        """Batches of shuffled rows that have like values, in an order that mixes all values."""
        place = np.argsort(values, kind="stable")
        if self.drop_last:
            begins = np.arange(0, len(place), self.batch_size)
        else:
            _, first, counts = np.unique(values[place], return_index=True, return_counts=True)
            runs = zip(first.tolist(), counts.tolist(), strict=True)
            begins = np.concatenate([np.arange(a, a + n, self.batch_size) for a, n in runs])
        batches = np.split(place, begins[1:])
        # A batch comes where one of its clips stood: each batch's another one, because the first of
        # several, or their middle, would bring rare values early, or in the middle.
        stood = [batch[number % len(batch)] for number, batch in enumerate(batches)]
        return [rows[batches[i]] for i in np.argsort(stood)]
