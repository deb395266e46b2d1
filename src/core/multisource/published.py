r"""The paper's Figure 1: its settings, its numbers, and the way it measured them.

The public code (ML-GSAI/Multi-Souce-GM at 90804ee, folder `simulations`) draws one data set for a
seed, estimates both ways, and averages |p_hat / p - 1| / 2 over 500 new points. Its results, means
over five seeds, are in the repository; `measure` draws the same numbers in the same order and finds
them again.

Source: arXiv:2502.14583, Section 5.1 and Figure 1: d = 10, sources alike, phi_k = (k, .., k),
psi = 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from core.multisource._tensor_checks import sources_with_data
from core.multisource.gaussians import Setting

SEEDS = (3, 33, 520, 2025, 25731)
POINTS = 500
"""Test points of an estimate."""


class Measured(NamedTuple):
    """Estimates of R_TV."""

    single: float
    multi: float


def settings() -> dict[str, list[Setting]]:
    """Return the five settings of each panel, by what varies there."""
    d1 = [10 - s for s in (0, 3, 5, 7, 10)]  # 10 - int(10 beta), beta = 0, .3, .5, .7, 1
    return {
        "K": [Setting(K, 500) for K in (1, 3, 5, 10, 15)],
        "n": [Setting(5, n) for n in (100, 300, 500, 1000, 5000)],
        "beta_sim": [Setting(5, 500, d1=each) for each in d1],
    }


FIGURE_1 = {
    "K": [
        Measured(0.052748, 0.052748),
        Measured(0.092600, 0.072008),
        Measured(0.123970, 0.096245),
        Measured(0.174992, 0.128716),
        Measured(0.209824, 0.154412),
    ],
    "n": [
        Measured(0.278745, 0.203748),
        Measured(0.170272, 0.128545),
        Measured(0.123970, 0.096245),
        Measured(0.091473, 0.071754),
        Measured(0.038494, 0.029033),
    ],
    "beta_sim": [
        Measured(0.123970, 0.123970),
        Measured(0.123970, 0.106757),
        Measured(0.123970, 0.096245),
        Measured(0.123970, 0.081307),
        Measured(0.123970, 0.048970),
    ],
}
"""The published results, to six places; all rest on one stream of random numbers a seed."""


def measure(setting: Setting, seed: int) -> Measured:
    """Return what the published code measures with one seed, in its order of random numbers.

    Args:
        setting: with sources alike and tau = 0.
        seed: of torch's generator on the CPU.

    Raises:
        ValueError: a source that got no sample, of which the code takes the mean all the same.
    """
    z, of, means, hats = _estimates(setting, seed)
    return Measured(*(_mean_ratio(z, means[of], hat[of]) for hat in hats))


def mean_of_seeds(setting: Setting) -> Measured:
    """Return the mean of `measure` over the published seeds, a point of the figure."""
    runs = torch.tensor([measure(setting, seed) for seed in SEEDS], dtype=torch.float64)
    return Measured(*runs.mean(0).tolist())


def measure_point_by_point(setting: Setting, seed: int) -> Measured:
    """Return the same as the published code goes about it: a distribution object for each point.

    For comparisons of time; `measure` takes all points at once.

    Args:
        setting: as in `measure`.
        seed: of torch's generator on the CPU.
    """
    z, of, means, hats = _estimates(setting, seed)
    eye = torch.eye(setting.d)

    def densities(centres: Tensor) -> Tensor:
        each = zip(z, centres[of], strict=True)
        return torch.stack([MultivariateNormal(m, eye).log_prob(point).exp() for point, m in each])

    true = densities(means)
    return Measured(*(float((densities(hat) / true - 1).abs().mean() / 2) for hat in hats))


# as extracted from the text of the PDF, and not compared with its pages
TABLE_4 = {
    "K": (1, 3, 5, 7, 10),
    "single": (0.0763, 0.1212, 0.1519, 0.1787, 0.2127),
    "multi": (0.0763, 0.1145, 0.1318, 0.1364, 0.1369),
}
"""R_TV of autoregressive networks by sources, n = 30,000, D = 10, M = 2."""
TABLE_5 = {
    "n": (1000, 3000, 5000, 10_000, 30_000),
    "single": (0.5680, 0.3516, 0.2882, 0.2036, 0.1212),
    "multi": (0.5491, 0.3467, 0.2747, 0.1922, 0.1145),
}
"""By samples, K = 3, D = 10."""
TABLE_6 = {
    "D": (10, 12, 14, 16, 18),
    "single": (0.2036, 0.3785, 0.5932, 0.7242, 0.7505),
    "multi": (0.1922, 0.3530, 0.5068, 0.5747, 0.6289),
}
"""By tokens, K = 3, n = 10,000."""


def _estimates(setting: Setting, seed: int) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return test points, the source of each, true means, and both estimates of them."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.zeros(setting.K, setting.d)
    means[:, : setting.d1] = torch.arange(1.0, setting.K + 1)[:, None]
    x, y = _draw(means, setting.n, generator)
    sources_with_data(torch.bincount(y, minlength=setting.K))
    single = torch.stack([x[y == k].mean(0) for k in range(setting.K)])
    multi = single.clone()
    multi[:, setting.d1 :] = x.mean(0)[setting.d1 :]
    z, of = _draw(means, POINTS, generator)
    return z, of, means, (single, multi)


def _draw(means: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return n samples: labels first, then the samples of one source after the other."""
    K, d = means.shape
    y = torch.multinomial(torch.full((K,), 1 / K), n, replacement=True, generator=generator)
    x = torch.zeros(n, d)
    for k in range(K):
        of_k = y == k
        x[of_k] = torch.randn(int(of_k.sum()), d, generator=generator) + means[k]
    return x, y


def _mean_ratio(z: Tensor, mean: Tensor, hat: Tensor) -> float:
    """Return the mean of |p_hat / p - 1| / 2 over points."""
    z, mean, hat = z.double(), mean.double(), hat.double()
    log_ratio = ((z - mean).square() - (z - hat).square()).sum(1) / 2
    return float(torch.expm1(log_ratio).abs().mean() / 2)
