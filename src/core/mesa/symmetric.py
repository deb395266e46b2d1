r"""Training from the all-ones start without a mask, where Theorem 4.3's structure is lost.

The loss does not change when the coordinates are permuted, so from a diagonal start gradient flow
keeps both blocks of the form alpha I + beta J, with J the all-ones matrix:

    W_12^{PV} = off J + (diag - off) I,   W_32^{KQ} likewise,   other blocks 0 (checked by tests)

Four numbers replace 6 d^2, and the flow's limit is found to any accuracy at any T. What the trained
layer then does is a preconditioned gradient step: W_32 shrinks the direction of the all-ones vector
more than the rest (arXiv:2405.16845v2, Proposition 4.2 and Appendix B.5).
"""

from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from core.checks import at_least
from core.mesa._checks import finite, training_length
from core.mesa.population import Population
from core.mesa.quadratic import Matrix, Weights, diagonal_weights


class Eigenvalues(NamedTuple):
    """Of alpha I + beta J."""

    bulk: float
    """On differences of coordinates: alpha, d - 1 times."""
    ones: float
    """On the all-ones vector: alpha + d beta, once."""


class Preconditioner(NamedTuple):
    """What the two blocks do to the gradient step: each scales two subspaces."""

    W12: Eigenvalues
    W32: Eigenvalues


class SymmetricWeights(NamedTuple):
    """The two blocks, each by its diagonal and off-diagonal entry."""

    W12_diag: float
    W12_off: float
    W32_diag: float
    W32_off: float

    def full(self, d: int) -> Weights:
        """Return all 6 d^2 weights.

        Raises:
            ValueError: d is not an integer >= 1, or an entry is not finite.
        """
        finite(weights=self)
        weights = diagonal_weights(d, self.W32_diag, self.W12_diag)
        off = 1 - np.eye(d)
        weights.W12[:] += self.W12_off * off
        weights.W32[:] += self.W32_off * off
        return weights

    def preconditioner(self, d: int) -> Preconditioner:
        """Return the eigenvalues of both blocks for d coordinates.

        Raises:
            ValueError: d is not an integer >= 1.
        """
        at_least(1, d=d)
        return Preconditioner(
            Eigenvalues(self.W12_diag - self.W12_off, self.W12_diag + (d - 1) * self.W12_off),
            Eigenvalues(self.W32_diag - self.W32_off, self.W32_diag + (d - 1) * self.W32_off),
        )


class SymmetricLoss:
    """The population loss on permutation-symmetric weights, as a polynomial in four numbers."""

    def __init__(self, population: Population) -> None:
        """Contract Q and C with the four products of I and J - I.

        Args:
            population: the loss; d >= 2, so that there is an off-diagonal entry.

        Raises:
            ValueError: d < 2.
        """
        at_least(2, because="for weights alpha I + beta J", d=population.d)
        d = self.d = population.d
        units = [np.eye(d), 1 - np.eye(d)]
        upper = [np.hstack([u, 0 * u]) for u in units]
        lower = [np.block([[0 * u, 0 * u], [u, 0 * u]]) for u in units]
        V = np.array([np.multiply.outer(p, k).reshape(d, -1) for p in upper for k in lower])
        moved = (population.Q @ V.reshape(4 * d, -1).T).T.reshape(V.shape)
        self.gram = np.einsum("ijk,ljk->il", V, moved)
        self.linear = np.einsum("ijk,jk->i", V, population.C)
        self.c0 = population.c0

    def loss(self, z: SymmetricWeights) -> float:
        """Return L of Eq. (2)."""
        finite(weights=z)
        V = np.multiply.outer(z[:2], z[2:]).ravel()
        return float(self.c0 - self.linear @ V + V @ self.gram @ V / 2)

    def gradient(self, z: SymmetricWeights) -> Matrix:
        """Return the gradient of each entry of the blocks, `[4]`: the flow's negative velocity."""
        finite(weights=z)
        V = np.multiply.outer(z[:2], z[2:]).ravel()
        slope = (self.gram @ V - self.linear).reshape(2, 2)
        entries = np.array([self.d, self.d * (self.d - 1)])  # how many share one number
        return np.concatenate([slope @ z[2:] / entries, z[:2] @ slope / entries])

    def flow_limit(self, a0: float, b0: float) -> SymmetricWeights:
        """Return where gradient flow from W_32 = a0 I, W_12 = b0 I ends.

        The flow is followed until the slow directions have had a hundred times the time that the
        fastest needs to settle (`LSODA`, relative error 1e-10).

        Raises:
            ValueError: a0 or b0 is not finite.
        """
        finite(a0=a0, b0=b0)
        tau = 1e4 * self.d / abs(self.linear[0])
        path = solve_ivp(
            lambda _, z: -self.gradient(SymmetricWeights(*z)),
            (0, tau),
            [b0, 0.0, a0, 0.0],
            method="LSODA",
            rtol=1e-10,
            atol=1e-13,
        )
        return SymmetricWeights(*(float(x) for x in path.y[:, -1]))


def off_diagonal_gradient(d: int, T: int, a: float, b: float) -> float:
    """Return dL/dW_32 off the diagonal at (a, b) for the all-ones start, by hand (App. A.8).

    sum_t [a b^2 (2(t-1) + d - 2) / (t-1)^2 - b / (t-1)]: not zero, so the diagonal is left.

    Raises:
        ValueError: d < 2, where nothing is off the diagonal, T < 3, or a or b is not finite.
    """
    at_least(2, because="one coordinate has no off-diagonal", d=d)
    training_length(T)
    finite(a=a, b=b)
    n = np.arange(1, T - 1)  # t - 1
    return float((a * b**2 * (2 * n + d - 2) / n**2 - b / n).sum())
