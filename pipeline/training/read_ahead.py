"""Batches that are read while earlier ones are trained on, so that the device never waits."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Self

import torch

from model.training.feature_batch import FeatureBatch

AHEAD = 4  # batches; of the finest tokens and 12 clips each has 150 MB


class ReadAhead(Iterator[FeatureBatch]):
    """The same batches in the same order, of which a thread reads the next few.

    It works in the `with` block that this opens and ends with it. What goes wrong there is raised
    where its batch would have come. Where there is a GPU, batches come in memory that it can copy
    from while it computes.
    """

    def __init__(self, batches: Iterator[FeatureBatch]) -> None:
        self._batches = batches
        self._pool = ThreadPoolExecutor(1, "read ahead")
        self._ahead: deque[Future[FeatureBatch | None]] = deque()
        self.waited = 0.0  # seconds that batches were waited for

    def __enter__(self) -> Self:
        for _ in range(AHEAD):
            self._ahead.append(self._pool.submit(self._read))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _read(self) -> FeatureBatch | None:
        batch = next(self._batches, None)
        return batch.pinned() if batch is not None and torch.cuda.is_available() else batch

    def __next__(self) -> FeatureBatch:
        started = perf_counter()
        batch = self._ahead.popleft().result()
        self.waited += perf_counter() - started
        if batch is None:
            raise StopIteration
        self._ahead.append(self._pool.submit(self._read))
        return batch
