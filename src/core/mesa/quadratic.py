r"""A loss that is quadratic in W_PV (x) W_KQ: its gradient, Hessian and descent in all parameters.

With V[j, pqr] = W_PV[j, p] W_KQ[q, r] the prediction of the layer is linear in V, so that the loss
of Eq. (2), over a population or over a sample, is

    L = c0 - <C, V> + 1/2 sum_j V_j^T Q V_j
    Q = sum_t E Re[Phi_t Phi_t^*],   C_j = sum_t E Re[conj(x_{t+1,j}) Phi_t],
    Phi_t[pqr] = sum_i e_{i,p} conj(e_{i,q}) e_{t,r} / (t - 1)

`core.mesa.population` has Q, C and c0 for infinitely many sequences, `core.mesa.sampled` for N.

Symbols here = there (arXiv:2405.16845v2, Section 3): `W_PV` = (W_12^{PV} W_13^{PV}) `[d, 2d]`,
`W_KQ` = the four lower right blocks of W^{KQ} `[2d, 2d]`; p = coordinate, or d + coordinate for the
shifted half of the token e_t = (x_t, x_{t-1}).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from core.checks import at_least
from core.mesa._checks import finite, positive, training_length

Matrix = NDArray[np.float64]


class Weights(NamedTuple):
    """The trainable blocks of the layer."""

    W_PV: Matrix
    """`[d, 2d]`."""
    W_KQ: Matrix
    """`[2d, 2d]`."""

    @property
    def W12(self) -> Matrix:
        """`[d, d]` block W_12^{PV}: what the value says of x_t. Diagonal b I under Ass. 3.1."""
        return self.W_PV[:, : len(self.W_PV)]

    @property
    def W32(self) -> Matrix:
        """`[d, d]` block W_32^{KQ}: x_{t-1} against x_t. Diagonal a I under Assumption 3.1."""
        d = len(self.W_PV)
        return self.W_KQ[d:, :d]

    @property
    def off_diagonal(self) -> Matrix:
        """Entries of W12 and W32 off their diagonals, `[2, d, d-1]`: zero under Assumption 3.1."""
        d = len(self.W_PV)
        return np.stack(
            [block[~np.eye(d, dtype=bool)].reshape(d, -1) for block in (self.W12, self.W32)]
        )

    @property
    def ab(self) -> Matrix:
        """`[d]` products (W32)_jj (W12)_jj: the step of the gradient step, one a coordinate."""
        return np.diagonal(self.W32) * np.diagonal(self.W12)

    @property
    def others(self) -> Matrix:
        """All entries outside W12 and W32, flat: zero at the start under Assumption 3.1."""
        d = len(self.W_PV)
        blocks = (self.W_PV[:, d:], self.W_KQ[:d], self.W_KQ[d:, d:])
        return np.concatenate([block.ravel() for block in blocks])


def diagonal_weights(d: int, a: float, b: float) -> Weights:
    """Return W_32^{KQ} = a I, W_12^{PV} = b I, all else zero (Assumption 3.1).

    Raises:
        ValueError: d is not an integer >= 1, or a or b is not finite.
    """
    at_least(1, d=d)
    finite(a=a, b=b)
    weights = Weights(np.zeros((d, 2 * d)), np.zeros((2 * d, 2 * d)))
    weights.W12[:] = b * np.eye(d)
    weights.W32[:] = a * np.eye(d)
    return weights


def gaussian_weights(d: int, sigma_w: float, rng: np.random.Generator) -> Weights:
    """Return all 6 d^2 weights drawn from N(0, sigma_w^2), as in Figures 5 and 6.

    Raises:
        ValueError: d is not an integer >= 1, or sigma_w is not finite and above zero.
    """
    at_least(1, d=d)
    positive(sigma_w=sigma_w)
    return Weights(
        sigma_w * rng.standard_normal((d, 2 * d)), sigma_w * rng.standard_normal((2 * d, 2 * d))
    )


class QuadraticLoss:
    """The loss as a function of the weights, given its three coefficients."""

    def __init__(self, d: int, T: int, Q: Matrix | sp.csr_array, C: Matrix, c0: float) -> None:
        """Take the coefficients as they are.

        Args:
            d: coordinates of a token.
            T: length of the sequences.
            Q: `[(2d)^3, (2d)^3]`, symmetric, dense or sparse.
            C: `[d, (2d)^3]`.
            c0: the loss of zero weights.

        Raises:
            ValueError: the shapes do not fit d, or a coefficient is not finite.
        """
        at_least(1, d=d)
        training_length(T)
        n = (2 * d) ** 3
        if Q.shape != (n, n) or C.shape != (d, n):
            raise ValueError(
                f"want Q {(n, n)} and C {(d, n)} for d = {d}, got {Q.shape} and {C.shape}"
            )
        finite(Q=Q.data if isinstance(Q, sp.csr_array) else Q, C=C, c0=c0)
        self.d, self.T, self.Q, self.C, self.c0 = d, T, Q, C, c0

    def loss(self, weights: Weights) -> float:
        """Return L, summed over t = 2..T-1 as in Eq. (2)."""
        V = self._outer(weights)
        return float(self.c0 - (self.C * V).sum() + 0.5 * ((self.Q @ V.T).T * V).sum())

    def gradient(self, weights: Weights) -> Weights:
        """Return dL/dW_PV and dL/dW_KQ."""
        return self._contract(self._slope(self._outer(weights)), weights)

    def descend(
        self, weights: Weights, *, lr: float, steps: int, masked: bool = False
    ) -> Iterator[Weights]:
        """Yield the weights before each of `steps` steps of gradient descent, and after the last.

        Args:
            weights: where to start; not changed.
            lr: learning rate, > 0.
            steps: how many steps.
            masked: whether W_12 and W_32 are kept diagonal by masking their gradient (Thm. 4.3).

        Raises:
            ValueError: lr or steps is no step, or the weights have ceased to be finite.
        """
        positive(lr=lr)
        at_least(0, steps=steps)
        self._check(weights)
        yield weights
        for step in range(steps):
            with np.errstate(over="ignore", invalid="ignore"):  # a divergence is reported below
                weights = self._step(weights, lr, masked)
            if not all(np.isfinite(block).all() for block in weights):
                raise ValueError(
                    f"diverged at step {step + 1} with lr = {lr}: want lr below 2 / sharpness"
                )
            yield weights

    def _step(self, weights: Weights, lr: float, masked: bool) -> Weights:
        g = self.gradient(weights)
        if masked:
            off = ~np.eye(self.d, dtype=bool)
            g.W12[off] = g.W32[off] = 0
        return Weights(weights.W_PV - lr * g.W_PV, weights.W_KQ - lr * g.W_KQ)

    def hessian(self, weights: Weights) -> Matrix:
        """Return the `[6d^2, 6d^2]` matrix of second derivatives, W_PV's entries before W_KQ's."""
        self._check(weights)
        G = self._slope(self._outer(weights))
        size = 6 * self.d**2
        columns = [self._hessian_vector(weights, G, row) for row in np.eye(size)]
        return np.array(columns)

    def sharpness(self, weights: Weights) -> float:
        """Return the top eigenvalue of the Hessian; gradient descent is stable below 2 over it."""
        return float(np.linalg.eigvalsh(self.hessian(weights))[-1])

    def _hessian_vector(self, weights: Weights, G: Matrix, direction: Matrix) -> Matrix:
        cut = 2 * self.d**2
        step = Weights(
            direction[:cut].reshape(self.d, -1), direction[cut:].reshape(2 * self.d, 2 * self.d)
        )
        dV = _outer(step.W_PV, weights.W_KQ) + _outer(weights.W_PV, step.W_KQ)
        moved = self._contract((self.Q @ dV.T).T, weights)
        turned = self._contract(G, step)
        return np.concatenate([(m + s).ravel() for m, s in zip(moved, turned, strict=True)])

    def _outer(self, weights: Weights) -> Matrix:
        self._check(weights)
        return _outer(*weights)

    def _slope(self, V: Matrix) -> Matrix:
        return (self.Q @ V.T).T - self.C  # dL/dV, [d, (2d)^3]

    def _contract(self, G: Matrix, weights: Weights) -> Weights:
        d = self.d
        G = G.reshape(2 * d * d, 4 * d * d)  # (j, p), (q, r)
        return Weights(
            (G @ weights.W_KQ.ravel()).reshape(d, 2 * d),
            (weights.W_PV.ravel() @ G).reshape(2 * d, 2 * d),
        )

    def _check(self, weights: Weights) -> None:
        d = self.d
        shapes = tuple(np.shape(block) for block in weights)
        if shapes != ((d, 2 * d), (2 * d, 2 * d)):
            raise ValueError(
                f"want W_PV [d, 2d] = {(d, 2 * d)} and W_KQ [2d, 2d] = {(2 * d, 2 * d)} "
                f"for a start with d = {d}, got {shapes[0]} and {shapes[1]}"
            )
        if not all(np.isfinite(block).all() for block in weights):
            raise ValueError("want finite weights, got a NaN or an infinity")


def _outer(W_PV: Matrix, W_KQ: Matrix) -> Matrix:
    return np.multiply.outer(W_PV, W_KQ).reshape(len(W_PV), -1)
