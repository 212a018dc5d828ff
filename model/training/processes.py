"""Processes that train together: who takes what, and how their gradients become one."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def undisturbed(work: Callable[[], T]) -> T:
    """Do a piece of work to its end, also where a signal comes and raises an exception meanwhile.

    Python's handlers of signals run in the main thread alone, so the work is done in another.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Processes:
    """The processes that train together, and which of them this is."""

    rank: int = 0  # number of this process, of which 0 is the main one
    world: int = 1  # how many there are
    told_to_stop: Callable[[], bool] = _never  # whether this one was told to; asked once a step

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            dist.barrier()

    def share(self, count: int) -> range:
        """Which of so many batches this process takes."""
        return range(self.rank, count, self.world)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in each of them."""
        if self.world == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total

    def together(self, module: nn.Module) -> nn.Module:
        """The module, whose gradients are from now on the mean over all processes.

        PyTorch's DistributedDataParallel gives every process the first one's weights, then sends
        gradients in buckets while the rest of the backward is computed.
        """
        if self.world == 1:
            return module
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)
        return DistributedDataParallel(
            module,
            broadcast_buffers=False,  # they do not change
            gradient_as_bucket_view=True,
            # Without it buckets are laid out anew after the first step, so that three and more
            # processes would sum in another order after a stop than without one.
            find_unused_parameters=True,
        )

    def different(self, tensors: Iterable[Tensor]) -> list[int]:
        """Processes whose tensors are not those of the first to the bit; all processes call this.

        Each tells only the sum of every tensor's bytes.
        """
        if self.world == 1:
            return []
        data = (tensor.detach().flatten().view(torch.uint8) for tensor in tensors)
        mine = torch.stack([part.sum(dtype=torch.int64) for part in data])
        of_all = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(of_all, mine)
        return [rank for rank, sums in enumerate(of_all) if not sums.equal(of_all[0])]


ALONE = Processes()
