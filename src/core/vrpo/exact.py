r"""The ELBO of a short response without sampling: every mask, its probability, its term.

A response of L tokens has 2^L - 1 masks with a masked token. Under the fixed-count form each has a
known probability, so that mean, variance, both parts of the variance and every covariance of an
ELBO estimate are finite sums. An array `f` here holds one value a mask in its last axis, in the
order of `all_masks(L)`: the terms of a policy, those of a reference, their difference, a gradient.

Sources: arXiv:2505.19223v2, Eqs. (12)-(15), Lemma 5. Rao-Blackwellised and cut time forms are ours.
"""

from functools import lru_cache
from math import comb, log
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import beta, betaincc
from torch import Tensor

from core.vrpo.draws import count_law
from core.vrpo.model import MaskedDiffusionLM
from core.vrpo.packing import pack

Array = NDArray[np.floating]
LONGEST = 12
"""Tokens of a response whose masks are enumerated: 4,095 masks."""


class VarianceSplit(NamedTuple):
    """The two parts of the variance of one term, nats squared (Lemma 5)."""

    V_t: Array
    """Variance over counts, or times, of the mean term."""
    V_y: Array
    """Mean over counts, or times, of the variance over masks."""

    def estimate(self, n_t: int, n_y: int = 1) -> Array:
        """Return the variance of the estimate from n_t independent counts and n_y masks at each."""
        return self.V_t / n_t + self.V_y / (n_t * n_y)


def all_masks(L: int) -> Tensor:
    """Return every mask of L tokens that masks one at least, `[2^L - 1, L]` bool.

    Raises:
        ValueError: L is not within 1..LONGEST.
    """
    if not 1 <= L <= LONGEST:
        raise ValueError(
            f"want a response of 1 to {LONGEST} tokens to enumerate its masks, got {L}: "
            "estimate longer ones from draws, see core.vrpo.budget"
        )
    bits = torch.arange(1, 2**L)[:, None] >> torch.arange(L - 1, -1, -1)
    return (bits & 1).bool()


@torch.no_grad()
def masked_sums(
    model: MaskedDiffusionLM, prompts: list[Tensor], responses: list[Tensor], *, at_once: int = 128
) -> Array:
    """Return S(m) = sum over the masked tokens of log p, for every mask of every response.

    Args:
        model: its precision is the precision of the result: `.double()` for exact work.
        prompts: B of them, one-dimensional, any lengths.
        responses: B of them, all of L tokens.
        at_once: sequences in a forward pass; as many as the cache holds is fastest.

    Returns:
        `[B, 2^L - 1]`, nats.

    Raises:
        ValueError: responses of several lengths, or too long; or the model gives nan or infinity.
    """
    lengths = sorted({len(y) for y in responses})
    if len(lengths) != 1:
        raise ValueError(f"want responses of one length, got lengths {lengths}: call once for each")
    masks = all_masks(lengths[0])
    device = next(model.parameters()).device
    every = [(x, y, m) for x, y in zip(prompts, responses, strict=True) for m in masks]
    found = []
    for start in range(0, len(every), at_once):
        xs, ys, ms = zip(*every[start : start + at_once], strict=True)
        packed = pack(xs, ys, ms, mask_id=model.config.mask_id)
        found.append(model(packed.to(device)).double().cpu())
    sums = torch.cat(found).reshape(-1, len(masks)).numpy()
    bad = np.flatnonzero(~np.isfinite(sums).all(axis=1)).tolist()
    if bad:
        raise ValueError(
            f"want finite log-likelihoods, got nan or infinity for response(s) {bad[:5]}: look at "
            "them; if they are in order, the model's weights are not"
        )
    return sums


def terms(sums: Array) -> Array:
    """Return the terms of the fixed-count form, L / l S(m) (Eq. 15)."""
    L = tokens(sums)
    return sums * (L / counts(L))


def mean(f: Array) -> Array:
    """Return the mean over l uniform and masks uniform at l: of terms, the ELBO."""
    return f @ probabilities(tokens(f))


def covariance(f: Array, g: Array) -> Array:
    """Return the covariance of two values of one mask."""
    p = probabilities(tokens(f))
    return ((f - mean(f)[..., None]) * (g - mean(g)[..., None])) @ p


def variance(f: Array) -> Array:
    """Return the variance of one value."""
    return covariance(f, f)


def correlation(f: Array, g: Array) -> Array:
    """Return the correlation of two values of one mask."""
    return covariance(f, g) / np.sqrt(variance(f) * variance(g))


def split(f: Array) -> VarianceSplit:
    """Return both parts of the variance of the fixed-count form."""
    mu, v = profile(f)
    return VarianceSplit(mu.var(axis=-1), v.mean(axis=-1))


def profile(f: Array) -> tuple[Array, Array]:
    """Return mean and variance over the masks of each count l = 1..L, `[..., L]` both."""
    L = tokens(f)
    parts = [f[..., counts(L) == l] for l in range(1, L + 1)]
    return (
        np.stack([part.mean(axis=-1) for part in parts], axis=-1),
        np.stack([part.var(axis=-1) for part in parts], axis=-1),
    )


def iid_variance(f: Array, n: int, proposal: tuple[float, ...] | None = None) -> Array:
    """Return the variance of the mean of n terms with independent counts from q, one mask each."""
    mu, v = profile(f)
    L = tokens(f)
    q = count_law(L, proposal)
    second = ((mu**2 + v) / (L**2 * q)).sum(axis=-1)
    return (second - mean(f) ** 2) / n


def systematic_variance(f: Array, n: int, proposal: tuple[float, ...] | None = None) -> Array:
    """Return the variance of the mean of n terms with systematic counts, one mask each.

    The n counts are functions of one uniform number, constant between known points: the variance
    over it is a finite sum.
    """
    mu, v = profile(f)
    L = tokens(f)
    q = count_law(L, proposal)
    cdf = np.concatenate([[0.0], np.cumsum(q)])
    # the set of levels repeats with period 1 / n
    cuts = np.unique(np.concatenate([[0.0, 1 / n], np.mod(cdf, 1 / n)]))
    width = np.diff(cuts) * n
    level = (cuts[:-1] + cuts[1:]) / 2
    l = np.searchsorted(cdf[1:-1], level[:, None] + np.arange(n) / n, side="right")  # [pieces, n]
    w = 1 / (L * q[l])
    means = (mu[..., l] * w).mean(axis=-1)
    within = (v[..., l] * w**2).sum(axis=-1) / n**2
    return (means**2 + within) @ width - mean(f) ** 2


def best_proposal(*fs: Array) -> tuple[float, ...]:
    """Return q_l proportional to the root of E[f^2 | l], pooled over all examples and arrays given.

    Best for independent counts; a good start for systematic ones.
    """
    second = [(mu**2 + v).reshape(-1, tokens(f)).mean(0) for f in fs for mu, v in [profile(f)]]
    q = np.sqrt(np.mean(second, axis=0))
    q = np.maximum(q, 1e-3 * q.max())  # a count that is never drawn biases the estimate
    return tuple((q / q.sum()).tolist())


def time_form(sums: Array, eps: float) -> tuple[Array, Array]:
    """Return mean and variance of the time form S(m) / t with t ~ U[eps, 1] (Eqs. 12, 13).

    Raises:
        ValueError: eps is not within (0, 1): the variance at 0 is infinite unless S is 0 for every
            mask of one token.
    """
    if not 0 < eps < 1:
        raise ValueError(
            f"want eps in (0, 1), got {eps}: at 0 the variance of the time form is infinite"
        )
    L = tokens(sums)
    first, second = (np.array(_moments(L, k, eps))[counts(L) - 1] for k in (1, 2))
    average = sums @ first / (1 - eps)
    return average, sums**2 @ second / (1 - eps) - average**2


def time_form_split(sums: Array) -> VarianceSplit:
    """Return V_t of the time form at eps = 0, which is finite, and V_y, which is infinite.

    V_y is finite, and not computed, only where S is 0 for every mask of one token.
    """
    L = tokens(sums)
    x, w = np.polynomial.legendre.leggauss(L)  # exact for the square of E[l | t], of degree 2L - 2
    t = (x[:, None] + 1) / 2
    l = counts(L)
    given_t = sums @ (t ** (l - 1) * (1 - t) ** (L - l)).T
    average = given_t @ w / 2
    ones = sums[..., l == 1]
    V_y = np.where((ones**2).sum(axis=-1) > 0, np.inf, np.nan)
    return VarianceSplit(given_t**2 @ w / 2 - average**2, V_y)


def rao_blackwell(sums: Array) -> tuple[Array, Array]:
    """Return mean and variance of the time form with 1 / t replaced by its mean given the mask.

    Given l masked tokens of L, t is Beta(l + 1, L - l + 1): the weight is (L + 1) / l, and l is
    uniform on 0..L; the empty mask counts 0.
    """
    L = tokens(sums)
    f = sums * ((L + 1) / counts(L))
    p = probabilities(L) * L / (L + 1)
    average = f @ p
    return average, f**2 @ p - average**2


def tokens(f: Array) -> int:
    """Return L for an array over the masks of L tokens.

    Raises:
        ValueError: its last axis is not 2^L - 1 long.
    """
    L = (f.shape[-1] + 1).bit_length() - 1
    if f.shape[-1] != 2**L - 1 or L < 1:
        raise ValueError(f"want a last axis of 2^L - 1 masks, got {f.shape}")
    return L


@lru_cache(maxsize=LONGEST)
def counts(L: int) -> NDArray[np.int64]:
    """Return how many tokens each mask hides, `[2^L - 1]`."""
    return all_masks(L).sum(1).numpy()


@lru_cache(maxsize=LONGEST)
def probabilities(L: int) -> Array:
    """Return the probability of each mask under the fixed-count form, `[2^L - 1]`."""
    return np.array([1 / (L * comb(L, int(l))) for l in counts(L)])


def _moments(L: int, k: int, eps: float) -> list[float]:
    """Return the integral over t in [eps, 1] of t^(l - k) (1 - t)^(L - l) for l = 1..L."""
    found = []
    for l in range(1, L + 1):
        a, b = l - k + 1, L - l + 1
        found.append(beta(a, b) * betaincc(a, b, eps) if a > 0 else _over_t(b - 1, eps))
    return found


def _over_t(m: int, eps: float) -> float:
    """Return the integral over [eps, 1] of (1 - t)^m / t, which is 1 / t - sum_{j<m} (1 - t)^j."""
    return -log(eps) - sum((1 - eps) ** j / j for j in range(1, m + 1))
