r"""Images of K sources, split for training, for stopping and for the test, and how batches come.

An example carries a number that names its random numbers: the d-th time an example is seen in a
run, by whichever model, it meets the same noise at the same level. One pass over a set is a
permutation of it, so that an example's d-th time comes in pass d.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from core.train.seeds import generator

# what a generator's numbers are for; the name goes (seed, run, purpose, ...)
ORDER, NOISE, HELD_OUT, START, SAMPLES = range(5)

AT_ONCE = 2**11  # numbers from one generator: making it costs as much as these


class Examples(NamedTuple):
    """Labelled images."""

    images: Tensor
    """`[N, C, H, W]` float32."""
    labels: Tensor
    """`[N]` int64, the source of each."""
    ids: np.ndarray
    """`[N]` integers from 0 that name an example's random numbers; distinct in a run."""

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the examples of several parts, in order."""
        images, labels, ids = zip(*parts, strict=True)
        return cls(torch.cat(images), torch.cat(labels), np.concatenate(ids))


class Sources(NamedTuple):
    """K sources, each with its own three sets of images."""

    names: tuple[str, ...]
    train: tuple[Examples, ...]
    validation: tuple[Examples, ...]
    """What early stopping looks at."""
    test: tuple[Examples, ...]

    @classmethod
    def labelled(cls, names: Sequence[str], parts: Sequence[Sequence[Tensor]]) -> Self:
        """Number the sources from 0, and the examples.

        Args:
            names: K.
            parts: K of training, validation and test images, `[n, C, H, W]` each.

        Raises:
            ValueError: a part of a source is empty, validation or test sets differ in size from
                source to source, or images differ in shape.
        """
        _check(names, parts)
        columns, start = [], 0
        for part in zip(*parts, strict=True):
            column = []
            for k, images in enumerate(part):
                labels = torch.full((len(images),), k, dtype=torch.int64, device=images.device)
                column.append(Examples(images, labels, start + np.arange(len(images))))
                start += len(images)
            columns.append(tuple(column))
        return cls(tuple(names), *columns)


def order(seed: int, run: int, who: int, *, size: int, first: int, count: int) -> np.ndarray:
    """Return which examples come, and for the how-many-th time, at places `first` and after.

    Args:
        seed: of the study.
        run: within it.
        who: from 0, names the order; 0 is all sources pooled, k + 1 source k alone.
        size: N, examples in the set.
        first: places before, from 0.
        count: places wanted.

    Returns:
        `[count, 2]` int64: place in the set, and its pass.
    """
    passes = np.arange(first // size, (first + count - 1) // size + 1)
    rows = np.concatenate(
        [generator(seed, run, ORDER, who, int(p)).permutation(size) for p in passes]
    )
    begin = first - passes[0] * size
    return np.stack([rows, np.repeat(passes, size)], 1)[begin : begin + count]


def noise(seed: int, run: int, ids: np.ndarray, draws: np.ndarray, size: int) -> np.ndarray:
    """Return the random numbers of (example, draw) pairs, standard normal.

    Args:
        seed: of the study.
        run: within it.
        ids: `[M]` which example.
        draws: `[M]` its how-many-th time, from 0.
        size: numbers a draw.

    Returns:
        `[M, size]` float32.
    """
    block = max(1, AT_ONCE // size)
    wanted = np.stack([ids, draws // block], 1)
    pairs, where = np.unique(wanted, axis=0, return_inverse=True)
    made = np.empty((len(pairs), block, size), np.float32)
    for into, (example, b) in zip(made, pairs, strict=True):
        generator(seed, run, NOISE, int(example), int(b)).standard_normal(
            out=into, dtype=np.float32
        )
    return made[where.reshape(-1), draws % block]


def _check(names: Sequence[str], parts: Sequence[Sequence[Tensor]]) -> None:
    if len(names) != len(parts) or not parts:
        raise ValueError(f"want a name a source, got {len(names)} and {len(parts)} sources")
    for name, part in zip(names, parts, strict=True):
        for what, images in zip(("training", "validation", "test"), part, strict=True):
            if not len(images):
                raise ValueError(f"want every source to have {what} images, and {name!r} has none")
    for what, at in (("validation", 1), ("test", 2)):
        sizes = [len(part[at]) for part in parts]
        if len(set(sizes)) > 1:
            raise ValueError(f"want as many {what} images of each source, got {sizes}")
    shapes = {tuple(images.shape[1:]) for part in parts for images in part}
    if len(shapes) > 1:
        raise ValueError(f"want images of one shape, got {sorted(shapes)}")
