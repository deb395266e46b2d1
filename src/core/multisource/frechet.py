r"""Two looks at samples that a likelihood does not need: Frechet distance, and copying.

    FD(a, b)  = |mean a - mean b|^2 + tr(Cov a + Cov b - 2 (Cov a Cov b)^(1/2))
    copied    = P(a sample is nearer to the training set than a held-out image is)

The Frechet distance is read beside a reference line: the distance from the training images to the
test images, which is what a model scores that returns its training set and nothing else. A model at
the line may be perfect or may have memorised; `copied` tells which: 1/2 where samples are as far
from the training images as fresh ones are, 1 where they are copies.

Sources: arXiv:1706.08500 (FID; features of Inception there, fixed cosines here); the test for
copying is that of arXiv:2004.05675, Sec. 2, without its partition into cells.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.fft import dctn
from scipy.stats import rankdata
from torch import Tensor

FREQUENCIES = 4


def features(images: Tensor) -> np.ndarray:
    """Return the lowest spatial frequencies of images, which no data chose.

    Args:
        images: `[N, C, H, W]`, H and W at least 4.

    Returns:
        `[N, 16 C]` float64, coefficients of the orthonormal discrete cosine transform.
    """
    found = np.asarray(dctn(images.double().cpu().numpy(), axes=(2, 3), norm="ortho"))
    return found[:, :, :FREQUENCIES, :FREQUENCIES].reshape(len(images), -1)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Frechet distance between normal fits, in squared units of the features.

    It is biased upwards in small samples: compare only distances of equal sizes.

    Args:
        a: `[N, F]`, at least two rows.
        b: `[M, F]`.

    Raises:
        ValueError: fewer than two rows, or other features in one than in the other.
    """
    if min(len(a), len(b)) < 2 or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"want two samples of at least two rows [N, F], got {a.shape}, {b.shape}")
    mean = np.square(a.mean(0) - b.mean(0)).sum()
    root = _root(np.cov(a, rowvar=False).reshape(a.shape[1], -1))
    cov_b = np.cov(b, rowvar=False).reshape(root.shape)
    overlap = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(mean + np.square(root).sum() + np.trace(cov_b) - 2 * overlap)


class Copied(NamedTuple):
    """How often a sample is nearer to the training images than a held-out image is."""

    share: float
    """1/2 without copying, 1 where every sample is a copy."""
    z: float
    """Standard errors above 1/2, if nothing is copied: Mann and Whitney's test."""


def copied(samples: Tensor, train: Tensor, held_out: Tensor) -> Copied:
    """Return how often a sample is nearer to its nearest training image than a held-out image is.

    Distances are Euclidean, of pixels; ties count half.

    Args:
        samples: `[M, ...]` of a model.
        train: `[N, ...]` what it was trained on.
        held_out: `[T, ...]` of the same source, never trained on.

    Raises:
        ValueError: one of them is empty.
    """
    if not (len(samples) and len(train) and len(held_out)):
        sizes = len(samples), len(train), len(held_out)
        raise ValueError(f"want samples, training and held-out images, got {sizes} of them")
    ours, theirs = nearest(samples, train), nearest(held_out, train)
    m, t = len(ours), len(theirs)
    # the sum of the held-out distances' ranks counts the samples below each
    ranks = rankdata(np.concatenate([ours, theirs]))[m:]
    share = (ranks.sum() - t * (t + 1) / 2) / (m * t)
    return Copied(float(share), float((share - 0.5) * np.sqrt(12 * m * t / (m + t + 1))))


def nearest(images: Tensor, among: Tensor) -> np.ndarray:
    """Return the distance from each image to the nearest of others, `[N]` float64."""
    pixels = images.flatten(1).double(), among.flatten(1).double()
    # the quick way to a distance loses a copy's zero to rounding
    found = torch.cdist(*pixels, compute_mode="donot_use_mm_for_euclid_dist")
    return found.amin(1).cpu().numpy()


def _root(covariance: np.ndarray) -> np.ndarray:
    """Return the symmetric square root."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
