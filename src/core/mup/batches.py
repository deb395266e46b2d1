"""The batches of a training on images: each has a name, and is drawn where it is needed.

Which view and latent of an image, its time, its noise and whether its label is dropped: all that
has the name (seed, epoch, image). Images that are held out have names of their own, the same in
every run, so that the losses of two runs differ by what was learned.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from core.mup.digits import STEPS
from core.train.distributed import World, share
from core.train.order import rows_at
from core.train.seeds import generator

# names of generators; those of a batch have two parts and three, and meet none of these
_SPLIT, _HELD_OUT = (0,), (1, 0, 0, 0)


class Images(Protocol):
    """What is trained on; `core.mup.latents.Latents` is one."""

    labels: Tensor
    """`[N]` int64."""

    def __len__(self) -> int:
        """Return N."""
        ...

    def draw(self, row: int, rng: np.random.Generator) -> Tensor:
        """Return an image or latent `[C, S, S]`, float32, for this generator."""
        ...


class Batch(NamedTuple):
    """This rank's part of a batch."""

    x: Tensor
    """`[B, C, S, S]`"""
    t: Tensor
    """`[B]`"""
    y: Tensor
    """`[B]`; the number of classes for a label that is dropped."""
    noise: Tensor
    counted: int
    """So many, from the front, count; see `core.train.distributed.share`."""
    size: int
    """Images that count, on all ranks."""


def split(count: int, held_out: int) -> tuple[list[int], list[int]]:
    """Return which images are trained on, and which never are: the same for every run.

    Raises:
        ValueError: none would be left to train on, or none is held out.
    """
    if not 1 <= held_out < count:
        raise ValueError(
            f"want 1 to {count - 1} images held out of {count}, got {held_out}: --held-out N"
        )
    order = generator(*_SPLIT).permutation(count).tolist()
    return order[held_out:], order[:held_out]


class Batches:
    """The batches of a run, by step; the next one is drawn while one is in use."""

    def __init__(
        self,
        data: Images,
        *,
        size: int,
        held_out: int,
        none: int,
        label_dropout: float,
        seed: int,
        world: World,
    ) -> None:
        """Draw from images.

        Args:
            data: the same on all ranks.
            size: images in a batch, over all ranks; the last of an epoch may have fewer.
            held_out: images that are never in a batch.
            none: the label of those that are dropped.
            label_dropout: their share.
            seed: from 0.
            world: this rank.

        Raises:
            ValueError: see `split`.
        """
        self.data, self.size, self.none, self.world = data, size, none, world
        self.label_dropout, self.seed = label_dropout, seed
        self.rows, self.held_out = split(len(data), held_out)
        self.pool = ThreadPoolExecutor(1)
        self.coming: tuple[int, Future[Batch]] | None = None

    def __call__(self, step: int) -> Batch:
        """Return this rank's part of the batch of a step, from 0."""
        if self.coming is None or self.coming[0] != step:
            self.coming = (step, self.pool.submit(self._batch, step))
        batch = self.coming[1].result()
        self.coming = (step + 1, self.pool.submit(self._batch, step + 1))
        return batch

    def of_held_out(self, places: range) -> Batch:
        """Return this rank's part of images that are held out, with times and noise that are fixed.

        Of all of them, image i has a time in the i-th of equal parts of [0, 1000).
        """
        mine, counted = share(list(places), self.world)
        drawn = []
        for place in mine:
            row, rng = self.held_out[place], generator(*_HELD_OUT, self.held_out[place])
            x = self.data.draw(row, rng)
            t = int((place + rng.random()) * STEPS / len(self.held_out))
            drawn.append((x, t, int(self.data.labels[row]), _normal(x, rng)))
        return _stacked(drawn, counted, len(places))

    def _batch(self, step: int) -> Batch:
        epoch, places = rows_at(len(self.rows), step, size=self.size, seed=self.seed)
        mine, counted = share([self.rows[place] for place in places], self.world)
        drawn = []
        for row in mine:
            rng = generator(self.seed, epoch, row)
            x = self.data.draw(row, rng)
            t, noise = int(rng.integers(STEPS)), _normal(x, rng)
            dropped = rng.random() < self.label_dropout
            drawn.append((x, t, self.none if dropped else int(self.data.labels[row]), noise))
        return _stacked(drawn, counted, len(places))


def _normal(like: Tensor, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(like.shape), dtype=np.float32)).to(like.dtype)


def _stacked(drawn: Sequence[tuple[Tensor, int, int, Tensor]], counted: int, size: int) -> Batch:
    x, t, y, noise = zip(*drawn, strict=True)
    stacked = (torch.stack(x), torch.tensor(t), torch.tensor(y), torch.stack(noise))
    return Batch(*stacked, counted, size)
