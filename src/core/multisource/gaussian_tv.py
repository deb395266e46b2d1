r"""Total variation of two Gaussians, by the simplest way that is exact.

    equal covariances   TV = erf(r / (2 sqrt 2)),  r the distance of the means in units of sd
    one coordinate      two densities of one variable cross at the roots of a quadratic
    else                TV = P_p(l > 0) - P_q(l > 0),  l = log p / q a quadratic form of normals

After whitening, p = N(0, I) and q = N(mu, diag(lam)): coordinates with mu = 0, lam = 1 do not
count, and what is dropped with them is in the error. The last line needs the law of one number
only, which `quadratic_form` has with a bound on its error. `sampled_gaussian_tv` knows nothing of
all this. Rounding is estimated from condition numbers; all other errors are bounds.

Source of the first line: arXiv:2502.14583, Section 5.1 measures it by sampling.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.multisource._tensor_checks import factor
from core.multisource.certified import EPS, Certified
from core.multisource.monte_carlo import sampled_tv
from core.multisource.quadratic_form import positive_probability

SCORE = 2 / math.sqrt(2 * math.pi * math.e)
"""E|z^2 - 1| / 2: along log sigma, TV grows at most so fast; along the mean, 1 / sqrt(2 pi)."""
SAME = 1e-10
"""A variance ratio as near to one counts as one; the error has what that may be."""


class Whitened(NamedTuple):
    """A pair of Gaussians in the coordinates where the first is standard normal."""

    mu: Tensor
    """`[B, d]` mean of the second."""
    lam: Tensor
    """`[B, d]` its variances, independent."""
    rounding: Tensor
    """`[B]` what rounding of both may add to the total variation."""


def equal_covariance_tv(distance: Tensor) -> Tensor:
    """Return TV(N(a, S), N(b, S)), exact to rounding.

    Args:
        distance: sqrt((a - b)' S^-1 (a - b)), of any shape.
    """
    return torch.erf(distance.double() / (2 * math.sqrt(2)))


def gaussian_tv(
    m0: Tensor, S0: Tensor, m1: Tensor, S1: Tensor, *, tolerance: float = 1e-8
) -> Certified:
    """Return TV(N(m0, S0), N(m1, S1)) with a certified error, on the device of the means.

    Args:
        m0: `[..., d]` means; leading axes of all four are broadcast.
        S0: `[..., d, d]` covariances.
        m1: `[..., d]`.
        S1: `[..., d, d]`.
        tolerance: error to aim at where a law is inverted; with two to four coordinates in which
            the covariances differ, the error may be up to 1e-6 all the same.

    Returns:
        `[...]`.

    Raises:
        ValueError: shapes do not fit, or a covariance is not positive definite.
    """
    batch, _ = _shape(m0, S0, m1, S1)
    pair = _whiten(m0, S0, m1, S1)
    scaled = (pair.lam - 1).abs() > SAME
    value, error = pair.mu.new_zeros(len(pair.mu)), pair.rounding.clone()
    same = ~scaled.any(1)
    value[same] = equal_covariance_tv(pair.mu[same].norm(dim=1))
    error[same] += EPS
    for i in (~same).nonzero().flatten().tolist():
        active = scaled[i] | (pair.mu[i].abs() > SAME)
        mu, lam = pair.mu[i, active], pair.lam[i, active]
        one = _one_coordinate(mu, lam) if len(mu) == 1 else _inverted(mu, lam, tolerance)
        value[i] = one.value
        error[i] += one.error + pair.mu[i, ~active].abs().sum() / math.sqrt(2 * math.pi)
    # coordinates whose variances are taken for equal
    error += SCORE / 2 * torch.where(scaled, 0.0, pair.lam.log().abs()).sum(1)
    return Certified(value.clamp(0, 1).reshape(batch), error.reshape(batch))


def sampled_gaussian_tv(
    m0: Tensor,
    S0: Tensor,
    m1: Tensor,
    S1: Tensor,
    *,
    rng: np.random.Generator,
    samples: int = 100_000,
    delta: float = 1e-3,
) -> Certified:
    """Return the same by sampling, with an empirical Bernstein interval.

    Args:
        m0: `[..., d]`, and the others as in `gaussian_tv`.
        S0: `[..., d, d]`.
        m1: `[..., d]`.
        S1: `[..., d, d]`.
        rng: what is drawn from, on the CPU.
        samples: draws from each of the two.
        delta: probability that an interval misses.

    Raises:
        ValueError: as in `gaussian_tv`, or fewer than two samples.
    """
    batch, d = _shape(m0, S0, m1, S1)
    mu, lam, _ = _whiten(m0, S0, m1, S1)
    x, z = torch.from_numpy(rng.standard_normal((2, samples, d))).to(mu.device)
    mu, lam = mu[:, None], lam[:, None]
    log_ratio = lambda x: ((x - mu) ** 2 / lam + lam.log() - x**2).sum(2) / 2  # noqa: E731
    found = sampled_tv(log_ratio(x[None]), log_ratio(mu + lam.sqrt() * z), delta=delta)
    return Certified(found.value.reshape(batch), found.error.reshape(batch), delta)


def _shape(m0: Tensor, S0: Tensor, m1: Tensor, S1: Tensor) -> tuple[torch.Size, int]:
    shapes = f"got {[list(x.shape) for x in (m0, S0, m1, S1)]}"
    d = m0.shape[-1] if m0.ndim else 0
    if d < 1 or any(x.shape[-1:] != (d,) for x in (S0, m1, S1)):
        raise ValueError(f"want means [..., d] and covariances [..., d, d], {shapes}")
    try:
        batch = torch.broadcast_shapes(m0.shape[:-1], S0.shape[:-2], m1.shape[:-1], S1.shape[:-2])
    except RuntimeError:
        raise ValueError(f"want leading axes that broadcast, {shapes}") from None
    return batch, d


def _whiten(m0: Tensor, S0: Tensor, m1: Tensor, S1: Tensor) -> Whitened:
    batch, d = _shape(m0, S0, m1, S1)
    L = factor("S0", S0)
    factor("S1", S1)
    apart = torch.linalg.solve_triangular(L, (m1 - m0).double()[..., None], upper=False)
    A = torch.linalg.solve_triangular(L, S1.double(), upper=False)
    A = torch.linalg.solve_triangular(L, A.mT, upper=False)
    lam, U = torch.linalg.eigh((A + A.mT) / 2)
    mu = (U.mT @ apart).squeeze(-1).expand(*batch, d).reshape(-1, d)
    lam = lam.expand(*batch, d).reshape(-1, d)
    # eigenvalues of L^-1 S1 L^-T move by about d eps cond(S0) times the largest
    cond = torch.linalg.cond(S0.double()).expand(batch).reshape(-1)
    relative = d * EPS * cond
    rounding = relative * (lam.amax(1) / lam.amin(1) * d * SCORE + mu.norm(dim=1) + 1)
    return Whitened(mu, lam, rounding)


def _one_coordinate(mu: Tensor, lam: Tensor) -> Certified:
    """Return TV(N(0, 1), N(mu, lam)), `[1]` both: p > q between two roots, or outside of them."""
    s = lam.sqrt()
    # the sign of p - q is that of a x^2 + b x + c
    a, b, c = 1 / lam - 1, -2 * mu / lam, mu**2 / lam + lam.log()
    root = (b**2 - 4 * a * c).clamp(min=0).sqrt()
    far = -(b + torch.where(b < 0, -root, root)) / 2  # no difference of equal numbers
    roots = torch.stack([far / a, torch.where(far == 0, -far / a, c / far)]).squeeze(1)
    inside = lambda x: _between(x.amin(), x.amax())  # noqa: E731
    value = (inside(roots) - inside((roots - mu) / s)).abs()
    # the derivative by a root is zero there, so that its rounding is of second order
    return Certified(value, 8 * EPS * torch.ones_like(value))


def _between(low: Tensor, high: Tensor) -> Tensor:
    """Return P(low < z < high), by the tails on the side where both are small."""
    return torch.where(
        low > 0,
        torch.special.ndtr(-low) - torch.special.ndtr(-high),
        torch.special.ndtr(high) - torch.special.ndtr(low),
    )


def _inverted(mu: Tensor, lam: Tensor, tolerance: float) -> Certified:
    """Return TV from the laws of l = log p / q under p and under q."""
    s = lam.sqrt()
    const = (mu**2 / lam + lam.log()).sum() / 2
    under_p = positive_probability(const, (1 / lam - 1) / 2, -mu / lam, tolerance=tolerance / 2)
    const = (lam.log() - mu**2).sum() / 2
    under_q = positive_probability(const, (1 - lam) / 2, -mu * s, tolerance=tolerance / 2)
    return Certified(under_p.value - under_q.value, under_p.error + under_q.error)
