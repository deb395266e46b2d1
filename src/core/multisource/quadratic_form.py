r"""The law of a quadratic form of normals, by inverting its characteristic function.

    Q = c + sum_i (a_i z_i^2 + b_i z_i),    z_i ~ N(0, 1) independent
    phi(u) = E exp(iuQ) = exp(iuc) prod_i (1 - 2iu a_i)^(-1/2) exp(-u^2 b_i^2 / (2 (1 - 2iu a_i)))

    P(Q > 0) = 1/2 + sum_{k >= 0} Im phi(step (k + 1/2)) / (pi (k + 1/2)) + aliasing

The error has two parts, both bounded here. Aliasing is at most the larger of P(Q < -T), P(Q > T)
with T = 2 pi / step (Davies, Biometrika 60, 1973), which Chernoff's bound limits; what is cut off
after K terms is an integral of |phi(u)| / u, and |phi| falls (Davies, Applied Statistics 29, 1980).
"""

import math

import torch
from torch import Tensor

from core.multisource.certified import EPS, Certified

MOST = 2**20
"""Terms of the sum, unless one says otherwise."""
BLOCK = 2**14


def positive_probability(
    c: Tensor, a: Tensor, b: Tensor, *, tolerance: float = 1e-8, most: int = MOST
) -> Certified:
    """Return P(Q > 0) with a certified error.

    Args:
        c: a number, the constant.
        a: `[d]` coefficients of the squares, not all zero.
        b: `[d]` linear coefficients.
        tolerance: the error to aim at, half of it in each part.
        most: terms at most; with few of them the error is larger than the tolerance, and says so.
    """
    step, aliasing = _step(c, a, b, tolerance / 2)
    terms, cut_off = _terms(step, a, b, tolerance / 2, most)
    total, rounding = c.new_zeros(()), c.new_zeros(())
    for start in range(0, terms, BLOCK):
        k = torch.arange(start, min(start + BLOCK, terms), device=c.device, dtype=c.dtype) + 0.5
        u = step * k
        size, phase = _polar(u, c, a, b)
        total += (size * phase.sin() / (math.pi * k)).sum()
        # u c is rounded, and the sum of d angles
        rounding += (size * (1 + u * c.abs() + len(a)) / (math.pi * k)).sum() * 4 * EPS
    return Certified(0.5 + total, aliasing + cut_off + rounding)


def _polar(u: Tensor, c: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return |phi(u)| and its angle, `[U]` both."""
    t = 2 * u[:, None] * a  # [U, d]
    damping = (u[:, None] * b) ** 2 / (2 * (1 + t**2))
    size = -(t**2).log1p() / 4 - damping
    angle = t.atan() / 2 - damping * t
    return size.sum(1).exp(), u * c + angle.sum(1)


def _step(c: Tensor, a: Tensor, b: Tensor, tolerance: float) -> tuple[float, float]:
    """Return the largest step of a grid whose aliasing is within the tolerance, and it."""
    spread = float((2 * a**2 + b**2).sum().sqrt() + (c + a.sum()).abs())
    T = spread * torch.logspace(0, 4, 81, dtype=c.dtype, device=c.device, base=2.0)
    tail = torch.maximum(_chernoff(T, c, a, b), _chernoff(T, -c, -a, -b))
    within = (tail <= tolerance).nonzero()
    first = int(within[0]) if len(within) else len(T) - 1
    return 2 * math.pi / float(T[first]), float(tail[first])


def _chernoff(T: Tensor, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return a bound on P(Q > T) for each T: the least of E exp(s (Q - T)) over some s."""
    pole = float(a.max().clamp(min=0)) * 2  # E exp(sQ) is finite for s < 1 / pole
    widest = 1 / pole if pole > 0 else math.inf
    scale = min(widest, 40 / float((2 * a**2 + b**2).sum().sqrt()))
    s = scale * torch.linspace(0, 1, 203, dtype=a.dtype, device=a.device)[1:-1, None]
    left = 1 - 2 * s * a
    log_mgf = (s * c).squeeze(1) + (-left.log() / 2 + (s * b) ** 2 / (2 * left)).sum(1)
    return (log_mgf[:, None] - s * T).amin(0).clamp(max=0).exp()


def _terms(step: float, a: Tensor, b: Tensor, tolerance: float, most: int) -> tuple[int, float]:
    """Return how many terms to sum, and a bound on the rest of them."""
    K = torch.logspace(3, math.log2(most), 120, base=2.0, dtype=a.dtype, device=a.device).ceil()
    # a sum of a falling function over k > K - 1/2 is at most its integral from K - 1/2 on
    U = step * (K - 0.5)
    # up to V the function is at most |phi(U)|; from there on |phi(V)| (V / u)^(m / 2) times a
    # factor near one for each of the m coordinates with 2 |a_i| V >= 1
    furthest = max(float(U[-1]), 100 / float(a.abs().max()))
    V = torch.logspace(math.log2(step), math.log2(furthest), 240, base=2.0, dtype=a.dtype)
    V = torch.cat([U, V.to(a.device)])
    large = 4 * V[:, None] ** 2 * a**2  # [V, d]
    m = (large >= 1).sum(1)
    size, _ = _polar(V, a.new_zeros(()), a, b)
    factor = torch.where(large >= 1, (1 / large).log1p() / 4, 0.0).sum(1).exp()
    beyond = torch.where(m > 0, 2 * size * factor / m, math.inf)
    between = size[: len(U), None] * (V[None] / U[:, None]).log()
    rest = torch.where(V[None] >= U[:, None], between + beyond[None], math.inf)
    rest = rest.amin(1) / math.pi
    within = (rest <= tolerance).nonzero()
    first = int(within[0]) if len(within) else len(K) - 1
    return int(K[first]), float(rest[first])
