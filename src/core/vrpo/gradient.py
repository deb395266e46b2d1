r"""Bias and variance of the gradient of the DPO-ELBO loss, without sampling.

    grad loss_hat = -sigma(-s_hat) grad s_hat,      grad s_hat = 1/n sum_j (g_w(m_j) - g_l(m'_j))

The gradients g of the terms at every mask span a space of at most 2 (2^L - 1) dimensions; their
inner products (`gram`) hold all that norms and variances need. Given one draw, or two, the others
are independent of it: the mean weight is then a function of one number, and `core.vrpo.law` gives
it. So mean and total variance of the gradient are finite sums for every n.

Source: arXiv:2505.19223v2, Theorem 4, Proposition 5, Eq. (20); the method and the cross-fitted
gradient are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from core.vrpo.draws import Design
from core.vrpo.exact import VarianceSplit, all_masks, counts, probabilities, tokens
from core.vrpo.law import Function, Part, law_of, weight_mean
from core.vrpo.model import MaskedDiffusionLM
from core.vrpo.packing import pack
from core.vrpo.pairs import PairTerms

Array = NDArray[np.floating]


class GradientMoments(NamedTuple):
    """The gradient estimate of one pair, in the norm of all parameters."""

    true: float
    """Norm of the exact gradient of the loss."""
    mean: float
    """Norm of the estimate's mean."""
    bias: float
    """Norm of the difference of the two."""
    cosine: float
    """Between the two."""
    variance: float
    """Trace of the estimate's covariance."""


@dataclass(frozen=True)
class PairGradients:
    """One pair at every mask: its terms, and the inner products of its gradients."""

    gram: Array
    """`[2 M, 2 M]`: inner products of the policy's term gradients, chosen then rejected."""
    terms: PairTerms
    """Of this pair alone, `[1, M]` each."""
    beta: float

    def exact(self) -> Array:
        """Return the exact gradient of the loss as coefficients of the `2 M` term gradients."""
        return -expit(-self.terms.score(self.beta)) * self._of_score()

    def split(self) -> VarianceSplit:
        """Return both parts of the trace of the covariance of a term's gradient, `[2]` each.

        Of the policy's ELBO gradient, chosen and rejected (Lemma 5 (ii)).
        """
        L, M = tokens(self.terms.policy_w), self.masks
        of_count, parts = [counts(L) == l for l in range(1, L + 1)], []
        for k in (slice(0, M), slice(M, 2 * M)):
            K, p = self.gram[k, k], probabilities(L)
            mean = [K[np.ix_(at, at)].mean() for at in of_count]  # |mean gradient at a count|^2
            square = [np.diag(K)[at].mean() for at in of_count]
            parts.append((np.mean(mean) - p @ K @ p, np.mean(square) - np.mean(mean)))
        return VarianceSplit(*np.transpose(parts))

    def score_variance(self) -> float:
        """Return the trace of the covariance of grad s_hat from one draw."""
        c, M = self._of_score(), self.masks
        w, l = slice(0, M), slice(M, 2 * M)
        second = float(self.beta * (abs(c) @ np.diag(self.gram)))
        return second - sum(float(c[k] @ self.gram[k, k] @ c[k]) for k in (w, l))

    def plain(self, n: int, *, shared: bool = True) -> GradientMoments:
        """Return the moments of the plain estimate from n independent draws."""
        whole = self.terms.parts(0, Design(1, shared=shared), self.beta)
        parts = [Part(x.values / n, x.probabilities) for x in whole]
        M, p = self.masks, parts[0].probabilities
        coefficients, second = np.zeros(2 * M), np.float64(0)
        for k in (0, 1):
            at = slice(k * M, (k + 1) * M)
            weight = self._given(parts, n, (k,), expit)
            coefficients[at] = -(1, -1)[k] * self.beta * p * weight
            squared = self._given(parts, n, (k,), _squared)
            second += (p * squared) @ np.diag(self.gram)[at] / n
            if n > 1:
                squared = self._given(parts, n, (k, k), _squared)
                second += np.sum(np.outer(p, p) * squared * self.gram[at, at]) * (n - 1) / n
        squared = self._given(parts, n, (0, 1), _squared)
        second -= 2 * np.sum(np.outer(p, p) * squared * self.gram[:M, M:])
        return self._moments(coefficients, float(self.beta**2 * second))

    def cross_fitted(self, n: int, *, shared: bool = True) -> GradientMoments:
        """Return the moments of the cross-fitted estimate from n draws, n even.

        Raises:
            ValueError: n is odd.
        """
        if n % 2:
            raise ValueError(f"want an even number of draws for two halves, got {n}")
        half = self.plain(n // 2, shared=shared)
        parts = self.terms.parts(0, Design(1, shared=shared), self.beta)
        weight, square = weight_mean(parts, n // 2)
        c = self._of_score()
        of_score = float(c @ self.gram @ c)
        second = (square * (of_score + self.score_variance() / (n // 2)) + half.mean**2) / 2
        return self._moments(-weight * c, second)

    @property
    def masks(self) -> int:
        """M."""
        return self.terms.policy_w.shape[1]

    def _of_score(self) -> Array:
        p = probabilities(tokens(self.terms.policy_w))
        return self.beta * np.concatenate([p, -p])

    def _given(
        self, parts: list[Part], n: int, drawn: tuple[int, ...], function: Function
    ) -> Array:
        """Return E[function(-s_hat)] given one draw of each part named, `[M]` or `[M, M]`."""
        left = [n - drawn.count(k) for k in range(len(parts))]
        rest = law_of(parts, left)
        shifts = parts[drawn[0]].values
        for k in drawn[1:]:
            shifts = shifts[:, None] + parts[k].values
        return rest.shifted_mean(lambda s: function(-s), shifts)

    def _moments(self, mean: Array, second: float) -> GradientMoments:
        true = self.exact()
        norm2, true2 = float(mean @ self.gram @ mean), float(true @ self.gram @ true)
        inner = float(mean @ self.gram @ true)
        gap = mean - true
        return GradientMoments(
            np.sqrt(true2),
            np.sqrt(norm2),
            np.sqrt(max(0.0, float(gap @ self.gram @ gap))),
            inner / np.sqrt(norm2 * true2),
            second - norm2,
        )


def gram(model: MaskedDiffusionLM, prompt: Tensor, responses: tuple[Tensor, Tensor]) -> Array:
    """Return the inner products of the gradients of L / l S(m), in all parameters of the model.

    Args:
        model: as for `exact.masked_sums`.
        prompt: one-dimensional.
        responses: chosen and rejected, of one length L.

    Returns:
        `[2 M, 2 M]` with M = 2^L - 1 masks, chosen first.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = [
        _gradient(model, parameters, prompt, response, mask)
        for response in responses
        for mask in all_masks(len(response))
    ]
    scale = np.concatenate([len(y) / counts(len(y)) for y in responses])
    G = torch.stack(rows).double()
    return (G @ G.T).cpu().numpy() * np.outer(scale, scale)


def _gradient(
    model: MaskedDiffusionLM, parameters: Sequence[Tensor], x: Tensor, y: Tensor, mask: Tensor
) -> Tensor:
    packed = pack([x], [y], [mask], mask_id=model.config.mask_id)
    value = model(packed.to(parameters[0].device)).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])


def _squared(x: Array) -> Array:
    return expit(x) ** 2
