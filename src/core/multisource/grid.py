r"""Total variation of energy-based models on [0, 1]^D, by the midpoint rule, with an error bound.

    p(x) = exp(-u(x)) / Z_p,    q(x) = exp(-v(x)) / Z_q

A grid of cells of width h gives the cells' masses P, Q. What is lost has two parts:

    masses      u differs by at most r = lipschitz h / 2 within a cell; odd terms cancel in its
                mean, so that a mass is within a factor exp(w), w = log cosh r + curvature h^2 / 4
    signs       1/2 int |p - q| over a cell exceeds |P - Q| / 2 only where p - q changes sign, which
                takes |log p / q| <= R, the most it can change within a cell

so that the error falls as h^2: the masses' is of that order, and so is the mass of the cells in
question (of order h) times what can be lost there (of order h). Without a bound on the second
derivatives, as for ReLU networks, w = 2 r and the error falls as h.

Symbols here (arXiv:2502.14583, Section 4.3): `u`, `v` $u_\theta$; `D` coordinates; `K` sources.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from core.checks import at_least
from core.multisource._blocks import MEMORY, rows_at_a_time, shown
from core.multisource.certified import EPS, Certified

MOST_CELLS = 2**32
"""More would take days."""


class Energy(NamedTuple):
    """K energies on [0, 1]^D, and how fast they change."""

    of: Callable[[Tensor], Tensor]
    """From points `[N, D]` to `[K, N]`; p is proportional to exp(-u)."""
    lipschitz: float | Tensor
    """At least sum_i |du/dx_i| anywhere; a number or `[K]`."""
    curvature: float | Tensor | None = None
    """At least sum_ij |d2u/dx_i dx_j| anywhere, a number or `[K]`; None where there are kinks."""

    def changes(self, h: float) -> tuple[Tensor, Tensor]:
        """Return r, of the energy within a cell of width h, and w, of the log of its mass."""
        r = torch.as_tensor(self.lipschitz, dtype=torch.float64) * h / 2
        if self.curvature is None:
            return r, 2 * r
        s = torch.as_tensor(self.curvature, dtype=torch.float64) * h**2 / 8
        return r, torch.minimum(2 * s + r.cosh().log(), 2 * r)


def grid_tv(
    u: Energy,
    v: Energy,
    *,
    D: int,
    points: int,
    memory: int = MEMORY,
    device: torch.device | str = "cpu",
) -> Certified:
    """Return the total variation of K pairs of energy-based models.

    Args:
        u: the first K.
        v: the others.
        D: coordinates.
        points: cells along each coordinate.
        memory: bytes of energies and masses that are held at once.
        device: where the points are, and the result.

    Returns:
        `[K]`, the middle of the interval that is certain.

    Raises:
        ValueError: the grid has too many cells (with the size it needs), or the memory does not
            hold one of them.
    """
    at_least(1, D=D, points=points)
    K, cells = _K(u, D, device), points**D
    if cells > MOST_CELLS:
        raise ValueError(
            f"a grid of {points}^{D} cells needs {shown(16 * K * cells)} of energies; want at most "
            f"{MOST_CELLS:,} cells: take fewer points, or samples (sampled_tv)"
        )
    at_once = rows_at_a_time(8 * (6 * K + D), memory, what="a cell")

    def energies() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, cells, at_once):
            x = midpoints(start, min(start + at_once, cells), D, points, device)
            yield u.of(x).double(), v.of(x).double()

    blocks = list(energies()) if at_once >= cells else None  # asked for twice
    log_Z = [torch.full((K,), -math.inf, dtype=torch.float64, device=device) for _ in "pq"]
    for both in blocks or energies():
        log_Z = [torch.logaddexp(z, (-e).logsumexp(1)) for z, e in zip(log_Z, both, strict=True)]
    (r_p, w_p), (r_q, w_q) = ([x.to(device) for x in e.changes(1 / points)] for e in (u, v))
    R, w = r_p + r_q + w_p + w_q, torch.maximum(w_p, w_q)
    value, lost = torch.zeros_like(log_Z[0]), torch.zeros_like(log_Z[0])
    for both in blocks or energies():
        log_P, log_Q = (-e - z[:, None] for e, z in zip(both, log_Z, strict=True))
        P, Q = log_P.exp(), log_Q.exp()
        value += (P - Q).abs().sum(1) / 2
        reach = (R.reshape(-1, 1) - (log_P - log_Q).abs()).clamp(min=0)
        lost += (torch.minimum(P, Q) * -torch.expm1(-reach)).sum(1) * w.exp()
    # a ratio of masses within exp(-w) .. exp(w) moves TV by tanh(w / 2) at most
    error = lost / 2 + (w_p / 2).tanh() + (w_q / 2).tanh() + (cells + 8) * EPS
    return Certified(value + lost / 2, error)


def midpoints(
    start: int, stop: int, D: int, points: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the midpoints of cells start..stop-1 of a grid on [0, 1]^D, the last axis fastest.

    `[stop - start, D]` float64.
    """
    number = torch.arange(start, stop, device=device)[:, None]
    axes = points ** torch.arange(D - 1, -1, -1, device=device)
    return (number // axes % points + 0.5).double() / points


def _K(u: Energy, D: int, device: torch.device | str) -> int:
    found = u.of(midpoints(0, 1, D, 1, device))
    if found.ndim != 2 or found.shape[1] != 1:
        raise ValueError(
            f"want energies [K, N] of points [N, D], got {list(found.shape)} for N = 1"
        )
    return len(found)
