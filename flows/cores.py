"""How many cores torch uses: one a batch where batches run side by side, all where work runs alone."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def all_cores() -> Generator[None]:
    """Let torch use every core, for training and sampling: these run alone."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
