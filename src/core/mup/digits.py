"""Batches for small experiments: scikit-learn's digits, noised as a diffusion model sees them.

The images are real, 8 x 8, and come with scikit-learn (Alpaydin and Kaynak, UCI, 1998). The forward
process is DDPM's,

    x_t = sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) noise
    alpha_bar_t = prod_{s <= t} (1 - beta_s)

with beta growing linearly from 1e-4 to 0.02 over 1000 steps (arXiv:2006.11239v2, Eq. (4), Sec. 4).

A batch is named by a seed and a step: every width and every learning rate sees the same images, the
same noise and the same times, so that what differs between two runs is what was meant to differ.

Symbols: `x_t` $x_t$; `t` counts from 0, so it is $t - 1$ of the paper; `noise` $\\epsilon$.
"""

from functools import lru_cache
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from core.train.seeds import generator

STEPS = 1000
"""Steps of the forward process."""
BETA_1, BETA_T = 1e-4, 0.02
CLASSES = 10
HELD_OUT = 512
"""Images that are never drawn for training, of 1797."""

# names of generators; a batch's have two parts, and meet none of these
_SPLIT, _HELD_OUT = (0,), (1,)


class Batch(NamedTuple):
    """Noised images, and what there is to know about them."""

    x_t: Tensor
    """`[B, 1, 8, 8]` noised images, float32; noiseless ones are in [-1, 1]."""
    t: Tensor
    """`[B]` int64 in [0, 1000), from almost no noise to almost nothing else."""
    y: Tensor
    """`[B]` int64, which digit it is."""
    noise: Tensor
    """`[B, 1, 8, 8]` what was added before scaling, standard normal: what a model predicts."""

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Self:
        """Return the batch on a device, its images and noise in `dtype`."""
        return self._replace(
            x_t=self.x_t.to(device, dtype),
            t=self.t.to(device),
            y=self.y.to(device),
            noise=self.noise.to(device, dtype),
        )


def draw(seed: int, step: int, size: int) -> Batch:
    """Return the training batch that (seed, step) names.

    Images are drawn with replacement, times uniformly.

    Args:
        seed: from 0, of a run.
        step: from 0, within the run.
        size: B, images.

    Raises:
        ValueError: `size` is below one, or a part of the name is no integer from 0.
    """
    if size < 1:
        raise ValueError(f"want a batch of at least one image, got size={size}")
    rng = generator(seed, step)
    images, labels = _split()[0]
    rows = torch.from_numpy(rng.integers(len(images), size=size))
    return _noised(images[rows], labels[rows], rng.integers(STEPS, size=size), rng)


def held_out(size: int = HELD_OUT) -> Batch:
    """Return images that `draw` never gives, with fixed noise, their times spread evenly.

    Time i is uniform in the i-th of `size` equal parts of [0, 1000): a mean over the batch varies
    less than over times drawn alone.

    Args:
        size: B, images, each at most once.

    Raises:
        ValueError: there are not so many.
    """
    images, labels = _split()[1]
    if not 1 <= size <= len(images):
        raise ValueError(f"want 1 to {len(images)} images that were held out, got size={size}")
    rng = generator(*_HELD_OUT)
    t = ((np.arange(size) + rng.random(size)) * STEPS / size).astype(np.int64)
    return _noised(images[:size], labels[:size], t, rng)


def alpha_bar() -> Tensor:
    """Return what is left of the image's variance after each step, `[1000]` float64, falling."""
    beta = torch.linspace(BETA_1, BETA_T, STEPS, dtype=torch.float64)
    return torch.cumprod(1 - beta, dim=0)


def _noised(x: Tensor, y: Tensor, t: np.ndarray, rng: np.random.Generator) -> Batch:
    noise = torch.from_numpy(rng.standard_normal(tuple(x.shape), dtype=np.float32))
    times = torch.from_numpy(t)
    kept = alpha_bar()[times].view(-1, 1, 1, 1)
    x_t = kept.sqrt() * x + (1 - kept).sqrt() * noise
    return Batch(x_t.float(), times, y, noise)


@lru_cache(maxsize=1)
def _split() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images `[N, 1, 8, 8]` in [-1, 1] and labels `[N]`: of training, and held out."""
    # takes a second, and whoever plans a model needs no images
    from sklearn.datasets import load_digits

    pixels, target = (np.asarray(part) for part in load_digits(return_X_y=True))
    order = generator(*_SPLIT).permutation(len(target))  # the file is in order of writers
    x = torch.tensor(pixels[order], dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1  # 0 .. 16
    y = torch.tensor(target[order], dtype=torch.int64)
    return (x[HELD_OUT:], y[HELD_OUT:]), (x[:HELD_OUT], y[:HELD_OUT])
