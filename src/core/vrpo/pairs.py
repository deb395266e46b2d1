r"""Pairs of short responses, known at every mask: the laws of their scores, without sampling.

The four tables of a pair, policy and reference on the chosen and on the rejected response, hold all
there is to know of its score and of its loss under any design.

Source: arXiv:2505.19223v2, Eqs. (7)-(9), Lemma 5; systematic counts, importance and sharing across
the pair are ours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.vrpo import exact
from core.vrpo.draws import Design, Draws, draw_pair
from core.vrpo.law import LossMoments, Part, loss_moments
from core.vrpo.model import MaskedDiffusionLM
from core.vrpo.preferences import Preference

Array = NDArray[np.floating]


class PairTerms(NamedTuple):
    """Terms L / l S(m) of B pairs at every mask, `[B, 2^L - 1]` each, nats."""

    policy_w: Array
    policy_l: Array
    reference_w: Array
    reference_l: Array

    @property
    def margins(self) -> tuple[Array, Array]:
        """Policy minus reference, chosen and rejected: what a score sees under shared masks."""
        return self.policy_w - self.reference_w, self.policy_l - self.reference_l

    def score(self, beta: float) -> Array:
        """Return the exact score of each pair, `[B]`."""
        w, l = self.margins
        return beta * (exact.mean(w) - exact.mean(l))

    def score_variance(self, design: Design, beta: float) -> Array:
        """Return V[s_hat] of each pair under a design, `[B]`, exactly.

        Raises:
            ValueError: the design is of the time form, or has several masks at a count together
                with systematic counts or a proposal, which is not enumerated here.
        """
        return beta**2 * np.sum([_variance(f, design) for f in self._seen_together(design)], axis=0)

    def estimate(self, design: Design, beta: float, *key: int) -> Array:
        """Draw masks for each pair and return the score estimates, `[B]`.

        Args:
            design: what to draw.
            beta: strength of the reference.
            *key: with the pair's number, names the random numbers.
        """
        L = exact.tokens(self.policy_w)
        scores = []
        for b in range(len(self.policy_w)):
            drawn = draw_pair(design, (L, L), *key, b)
            w, l, rw, rl = (
                _mean_term(d, f[b])
                for d, f in zip((*drawn.policy, *drawn.reference), self, strict=True)
            )
            scores.append(beta * (w - l - rw + rl))
        return np.array(scores)

    def estimates(self, design: Design, beta: float, runs: int, *key: int) -> Array:
        """Return so many rows of `estimate`, `[runs, B]`."""
        return np.array([self.estimate(design, beta, *key, run) for run in range(runs)])

    def parts(self, pair: int, design: Design, beta: float) -> list[Part]:
        """Return the independent parts of a pair's score, those with a gradient first.

        Raises:
            ValueError: the draws of the design are not independent and uniform.
        """
        if design.n_y > 1 or design.form == "time" or design.proposal:
            raise ValueError(f"want one mask a count, uniform counts, got {design}")
        if design.counts == "systematic" and design.n > design.sets:
            raise ValueError(f"want independent counts, got {design}")
        p = exact.probabilities(exact.tokens(self.policy_w))
        return [Part(beta * f[pair], p) for f in self._seen_together(design)]

    def loss_moments(self, design: Design, beta: float) -> list[LossMoments]:
        """Return what the loss estimate does on each pair, exactly, for independent draws.

        Raises:
            ValueError: as `parts`.
        """
        pairs = range(len(self.policy_w))
        return [loss_moments(self.parts(b, design, beta), design.n) for b in pairs]

    def _seen_together(self, design: Design) -> list[Array]:
        """Return the sums, beta left out, of what sees the same masks."""
        pw, pl, rw, rl = self
        if design.shared:
            return [pw - rw - pl + rl] if design.across_pair else [pw - rw, rl - pl]
        return [pw - pl, rl - rw] if design.across_pair else [pw, -pl, -rw, rl]


def pair_terms(
    policy: MaskedDiffusionLM, reference: MaskedDiffusionLM, pairs: Sequence[Preference]
) -> PairTerms:
    """Return the terms of pairs whose responses all have one length, short enough to enumerate.

    Args:
        policy: in float64 for exact work.
        reference: likewise.
        pairs: B of them.

    Raises:
        ValueError: several lengths, or too long.
    """
    x = [p.prompt for p in pairs]
    sides = [p.chosen for p in pairs], [p.rejected for p in pairs]
    tables = [
        exact.terms(exact.masked_sums(model, x, responses))
        for model in (policy, reference)
        for responses in sides
    ]
    return PairTerms(*tables)


def _mean_term(drawn: Draws, f: Array) -> float:
    """Return the estimate of an ELBO from its terms at every mask, `[2^L - 1]`."""
    masks = drawn.masks.numpy()
    L = masks.shape[1]
    at = masks @ (1 << np.arange(L - 1, -1, -1)) - 1
    # the time form may mask nothing: the term is 0
    terms = np.where(at < 0, 0.0, f[at]) * masks.sum(axis=1) / L
    return float((drawn.weights.numpy() * terms).mean())


def _variance(f: Array, design: Design) -> Array:
    if design.form == "time":
        raise ValueError("want the count form: the variance of the time form is infinite")
    if design.n_y == 1 and design.counts == "systematic":
        per_set = design.n_t // design.sets
        return exact.systematic_variance(f, per_set, design.proposal) / design.sets
    if design.n_y == 1:
        return exact.iid_variance(f, design.n, design.proposal)
    if design.counts == "systematic" or design.proposal:
        raise ValueError(f"want n_y = 1 with systematic counts or a proposal, got {design}")
    return exact.split(f).estimate(design.n_t, design.n_y)
