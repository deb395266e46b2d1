"""Sources of real images: scikit-learn's digits, and how similar one may choose them.

The images are 8 x 8 and come with scikit-learn (Alpaydin and Kaynak, UCI, 1998): 1797, some 180 of
each digit. They are shifted and scaled to mean 0 and standard deviation 1/2, as EDM wants its data.

Similarity, from most to least: `(3, 3, 3)` deals the images of one digit among three sources,
which then do not differ at all; `closest` and `farthest` digits are chosen by the Frechet distance
between their images, over all choices, before anything is trained. The paper takes classes of
ImageNet that are near or far in a hierarchy of names.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from core.multisource.examples import Sources
from core.multisource.frechet import features, frechet_distance
from core.train.seeds import generator

CLASSES = 10
MEAN, SD = 4.884, 6.017
"""Of all pixels, which are 0 .. 16."""
VALIDATION, TEST = 24, 60
"""Images of each source for early stopping, and for the test."""


def digits(sources: Sequence[int], n: int | Sequence[int], *, seed: int, run: int = 0) -> Sources:
    """Return a split of the digits into sources.

    Images are drawn without replacement. A digit that is named several times is dealt: its sources
    share no training image, and share the held-out ones, which are fresh to each.

    Args:
        sources: K digits, 0 to 9.
        n: training images of each source, or K sizes.
        seed: of the study.
        run: within it; every run draws its own split.

    Raises:
        ValueError: a digit that does not occur, sizes that are not K, or more images of a digit
            than there are.
    """
    sizes = [n] * len(sources) if isinstance(n, int | np.integer) else [int(size) for size in n]
    if len(sizes) != len(sources):
        raise ValueError(f"want one n or {len(sources)}, one a source, got {len(sizes)}")
    held_out = VALIDATION + TEST
    dealt = Counter(dict.fromkeys(sources, held_out))
    parts, images = [], {digit: _shuffled(digit, seed, run) for digit in dict.fromkeys(sources)}
    for digit, size in zip(sources, sizes, strict=True):
        start, found = dealt[digit], images[digit]
        dealt[digit] += size
        if size < 1 or dealt[digit] > len(found):
            raise ValueError(
                f"want n of 1 to {len(found) - start} further images of the digit {digit}, got "
                f"{size}: there are {len(found)}, of which {held_out} are held out and "
                f"{start - held_out} train other sources"
            )
        parts.append((found[start : start + size], found[:VALIDATION], found[VALIDATION:held_out]))
    return Sources.labelled([str(digit) for digit in sources], parts)


def closest(K: int) -> tuple[int, ...]:
    """Return the K digits with the least mean Frechet distance between two of them."""
    return min(_choices(K), key=_spread)


def farthest(K: int) -> tuple[int, ...]:
    """Return the K digits with the greatest mean Frechet distance between two of them."""
    return max(_choices(K), key=_spread)


@lru_cache(maxsize=1)
def distances() -> np.ndarray:
    """Return the Frechet distance between any two digits, `[10, 10]`, all their images taken."""
    found = [features(images) for images in _classes()]
    return np.array([[frechet_distance(a, b) for b in found] for a in found])


def _choices(K: int) -> list[tuple[int, ...]]:
    if not 2 <= K <= CLASSES:
        raise ValueError(f"want to choose 2 to {CLASSES} digits, got {K}")
    return list(combinations(range(CLASSES), K))


def _spread(chosen: tuple[int, ...]) -> float:
    """Return the mean distance between two of the chosen."""
    return float(np.mean([distances()[pair] for pair in combinations(chosen, 2)]))


def _shuffled(digit: int, seed: int, run: int) -> Tensor:
    if digit not in range(CLASSES):
        raise ValueError(f"want digits of 0 to {CLASSES - 1}, got {digit!r}")
    images = _classes()[digit]
    return images[torch.from_numpy(generator(seed, run, digit).permutation(len(images)))]


@lru_cache(maxsize=1)
def _classes() -> tuple[Tensor, ...]:
    """Return `[N, 1, 8, 8]` images of each digit."""
    # takes a second, and whoever trains on a folder needs no digits
    from sklearn.datasets import load_digits

    pixels, target = (np.asarray(part) for part in load_digits(return_X_y=True))
    x = torch.tensor((pixels - MEAN) / SD / 2, dtype=torch.float32).view(-1, 1, 8, 8)
    return tuple(x[torch.from_numpy(target == digit)] for digit in range(CLASSES))
