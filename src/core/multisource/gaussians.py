r"""The paper's Gaussian family, in which every error is known without sampling it.

    x | k ~ N((phi_k, psi), I_d),    phi_k of d1 coordinates, psi of d - d1

The estimates are means: of a source's samples alone (single), or with the last d - d1 coordinates
averaged over all samples (multi). Their errors are normal, with variances 1 / n_k and 1 / n, and TV
is a function of their length. So a study needs no data, only errors of means, and its expectation
is an integral over chi squares and the random n_k.

`tau` is the sd of what the "shared" coordinates differ between sources: the paper has 0.

Source: arXiv:2502.14583, Sections 4.1 and 5.1. Symbols here = there: `K` sources, `n` samples of
all together, `d`, `d1` $d_1$, `beta_sim` $\beta_{sim}$ = (d - d1) / d; `n_k` samples of a source.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from scipy.special import erf
from torch import Tensor

from core.checks import at_least
from core.multisource._tensor_checks import sources_with_data
from core.multisource.bounds import Array
from core.multisource.gaussian_tv import equal_covariance_tv

NODES = 64
"""Of Gauss-Legendre's rule along each of two quantiles; so many leave rounding."""


@dataclass(frozen=True)
class Setting:
    """One point of a figure."""

    K: int
    n: int
    d: int = 10
    d1: int = 5
    weights: tuple[float, ...] | None = None
    """p_Y; None for sources alike."""
    tau: float = 0.0
    """Sd of the differences between sources in the coordinates that are taken for shared."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        at_least(1, K=self.K, n=self.n, d=self.d)
        at_least(0, d1=self.d1)
        if self.d1 > self.d or not self.tau >= 0:
            raise ValueError(f"want d1 <= d and tau >= 0, got {self}")
        p = self.p_Y
        if len(p) != self.K or not (p > 0).all() or abs(p.sum() - 1) > 1e-9:
            raise ValueError(f"want K positive weights that sum to one, got a sum of {p.sum():.6g}")
        if self.n < self.K:
            raise ValueError(f"want a sample of each source, got n = {self.n} for K = {self.K}")

    @property
    def p_Y(self) -> Array:
        """Return the weights of the sources, `[K]`."""
        return np.full(self.K, 1 / self.K) if self.weights is None else np.asarray(self.weights)

    @property
    def beta_sim(self) -> float:
        """Share of the coordinates that sources have in common."""
        return 1 - self.d1 / self.d


class Errors(NamedTuple):
    """Total variation of each source in each replication."""

    single: Tensor
    """`[R, K]` each source estimated alone."""
    multi: Tensor
    """`[R, K]` all at once."""


class Fit(NamedTuple):
    """Estimated means, `[R, K, d]` both."""

    single: Tensor
    multi: Tensor


class Expected(NamedTuple):
    """Expectations of R_TV."""

    single: float
    multi: float


def draw_counts(setting: Setting, reps: int, rng: np.random.Generator) -> np.ndarray:
    """Return how many samples each source has in each replication, `[R, K]`, none of them zero.

    Replications with an empty source are drawn again: there is no estimate of it.
    """
    n_k = rng.multinomial(setting.n, setting.p_Y, size=reps)
    while (empty := (n_k == 0).any(1)).any():
        n_k[empty] = rng.multinomial(setting.n, setting.p_Y, size=int(empty.sum()))
    return n_k


def simulate(
    setting: Setting, reps: int, rng: np.random.Generator, *, device: torch.device | str = "cpu"
) -> Errors:
    """Return the errors of both estimates in independent replications, exactly distributed.

    Args:
        setting: what is estimated.
        reps: R, replications.
        rng: what is drawn from, on the CPU.
        device: where the total variations are computed.
    """
    at_least(1, reps=reps)
    K, d, d1 = setting.K, setting.d, setting.d1
    n_k = draw_counts(setting, reps, rng)
    error = torch.from_numpy(rng.standard_normal((reps, K, d))).to(device)
    share = torch.from_numpy(n_k / setting.n).to(device)[..., None]  # [R, K, 1]
    error /= (share * setting.n).sqrt()
    own, shared = error[..., :d1].square().sum(-1), error[..., d1:]
    single = own + shared.square().sum(-1)
    if setting.tau:
        nu = torch.from_numpy(rng.standard_normal((reps, K, d - d1)) * setting.tau).to(device)
        pooled = (share * (shared + nu)).sum(1, keepdim=True) - nu
        multi = own + pooled.square().sum(-1)
    else:
        multi = own + (share * shared).sum(1).square().sum(-1)[:, None]
    return Errors(equal_covariance_tv(single.sqrt()), equal_covariance_tv(multi.sqrt()))


def risk(errors: Tensor, setting: Setting) -> Tensor:
    """Return R_TV of each replication, `[R]`: the mean over sources, weighted by p_Y."""
    return errors @ torch.from_numpy(setting.p_Y).to(errors)


def expected(setting: Setting) -> Expected:
    """Return the expectations of R_TV, by quadrature over the chi squares and a sum over n_k.

    Args:
        setting: with tau = 0.

    Raises:
        ValueError: tau is not 0.
    """
    if setting.tau:
        raise ValueError(f"want tau = 0, where errors are known, got {setting.tau}: simulate it")
    d, d1, n = setting.d, setting.d1, setting.n
    single = multi = 0.0
    for weight, sources in zip(*np.unique(setting.p_Y, return_counts=True), strict=True):
        n_k, p = _counts(n, float(weight)) if setting.K > 1 else (np.array([n]), np.ones(1))
        p = sources * weight * p
        single += p @ _expected_tv(d, 1 / n_k, 0, 1 / n)
        multi += p @ _expected_tv(d1, 1 / n_k, d - d1, 1 / n)
    return Expected(float(single), float(multi))


def fit(x: Tensor, y: Tensor, *, K: int, d1: int) -> Fit:
    """Return the maximum-likelihood means of many data sets.

    Args:
        x: `[R, n, d]` samples.
        y: `[R, n]` int64, which source each is from, in 0..K-1.
        K: sources.
        d1: coordinates, the first ones, in which they differ.

    Raises:
        ValueError: shapes do not fit, or a source has no sample in one of the sets.
    """
    if x.ndim != 3 or y.shape != x.shape[:2]:
        raise ValueError(f"want x [R, n, d] and y [R, n], got {list(x.shape)}, {list(y.shape)}")
    if y.min() < 0 or y.max() >= K:
        raise ValueError(f"want labels in 0..{K - 1}, got {int(y.min())}..{int(y.max())}")
    x = x.double()
    belongs = torch.nn.functional.one_hot(y, K).to(x)  # [R, n, K]
    n_k = belongs.sum(1)
    sources_with_data(n_k)
    single = belongs.mT @ x / n_k[..., None]
    multi = single.clone()
    multi[..., d1:] = x[..., d1:].mean(1, keepdim=True)
    return Fit(single, multi)


def limit_constant(dim: int) -> float:
    """Return sqrt(n) E TV / sqrt(dim) of one mean in `dim` coordinates as n grows.

    It rises to 1 / sqrt(2 pi) with the dimension.
    """
    log = math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2)
    return math.exp(log) * math.sqrt(2 / dim) / math.sqrt(2 * math.pi)


def _counts(n: int, p: float) -> tuple[np.ndarray, np.ndarray]:
    """Return values of n_k and their probabilities, given n_k > 0, all but 1e-14 of them."""
    k = np.arange(1, n + 1)
    prob = stats.binom.pmf(k, n, p)
    kept = prob > 1e-14 / n
    return k[kept], prob[kept] / prob[kept].sum()


def _expected_tv(d_own: int, v_own: np.ndarray, d_shared: int, v_shared: float) -> np.ndarray:
    """Return E erf(|delta| / (2 sqrt 2)) for each variance of the own coordinates, `[n_k]`."""
    own, w_own = _chi_square(d_own)
    shared, w_shared = _chi_square(d_shared)
    square = v_own[:, None, None] * own[:, None] + v_shared * shared
    return erf(np.sqrt(square / 8)) @ w_shared @ w_own


def _chi_square(df: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of a mean over a chi square, along its root."""
    if df == 0:
        return np.zeros(1), np.ones(1)
    u, w = np.polynomial.legendre.leggauss(NODES)
    low, high = (math.sqrt(f(1e-17, df)) for f in (stats.chi2.ppf, stats.chi2.isf))
    r = low + (high - low) * (u + 1) / 2
    weight = w * stats.chi.pdf(r, df)
    return r**2, weight / weight.sum()
