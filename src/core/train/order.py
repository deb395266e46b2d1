"""Which examples are the batch of a step: every epoch sees each once, in an order of its own."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from core.train.seeds import generator


def batches(count: int, size: int) -> int:
    """Return how many batches an epoch has; the last may be smaller."""
    return -(-count // size)


def rows_at(count: int, step: int, *, size: int, seed: int) -> tuple[int, list[int]]:
    """Return the epoch of a step and which of `count` examples are its batch, over all ranks.

    The order of an epoch has the name (seed, epoch): any step can be had at once.
    """
    epoch, place = divmod(step, batches(count, size))
    return epoch, _order(count, epoch, seed)[place * size : (place + 1) * size].tolist()


@lru_cache(maxsize=2)
def _order(count: int, epoch: int, seed: int) -> NDArray[np.int64]:
    return generator(seed, epoch).permutation(count)
