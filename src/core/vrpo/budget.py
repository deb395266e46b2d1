r"""How to spend a sampling budget: from a small pilot to the variance, bias and cost of any design.

The four terms of a pair at one mask, a = (policy chosen, policy rejected, reference chosen,
reference rejected), have a covariance over counts, S_t, and one over masks at a count, S_y. A score
estimate is linear in them, with signs c = beta (1, -1, -1, 1), so that for independent counts

    V[s_hat] = sum over i, j that see the same masks of c_i c_j (S_t / n_t + S_y / n)_ij

A pilot that shares all masks estimates both matrices without bias, by an analysis of variance, and
with them the variance of every design: shared or not, across the pair or not, any (n_t, n_y).

Systematic counts, in k sets, change the first part by what a pilot of few counts cannot tell:

    V_y / n <= V[s_hat] <= V_t / k + V_y / n

Usually it is below that of independent counts; a term that alternates with the count is above.

Sources: arXiv:2505.19223v2, Eq. (9), Lemma 5, Propositions 1 and 2; the pilot is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from textwrap import fill
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from core.vrpo.cost import Cost
from core.vrpo.draws import Design, draw_pair
from core.vrpo.preferences import Preference
from core.vrpo.scoring import Chunks, Model, score

Array = NDArray[np.floating]
SIGNS = np.array([1.0, -1.0, -1.0, 1.0])
"""Of policy chosen, policy rejected, reference chosen, reference rejected in a score."""
GUARD = 2.0
"""Standard errors by which a covariance has to be positive before it is relied on."""


class Estimate(NamedTuple):
    """A mean over pairs, with its standard error; unbiased, so a variance near 0 may be below."""

    value: float
    error: float

    def __str__(self) -> str:
        """Return "3.2 ± 0.1"."""
        return f"{self.value:.3g} ± {self.error:.1g}"


class Split(NamedTuple):
    """Both parts of V[s_hat] at n = 1, masks shared: it is V_t / n_t + V_y / n."""

    V_t: Estimate
    V_y: Estimate


class Prediction(NamedTuple):
    """Estimates of what a design will do, as means over pairs."""

    design: Design
    variance: Estimate
    """V[s_hat] with independent counts; systematic ones usually, not always, do better."""
    least: Estimate
    """What systematic counts could lower V[s_hat] to: what masks contribute."""
    most: Estimate
    """What they could raise it to: as if each set had one count in all its places."""
    bias: float
    """Second-order estimate of the loss's bias, E loss_hat - loss, at `variance`."""
    bias_bound: float
    """`most` / 8: above the bias, as far as the pilot knows `most`."""
    passes: int
    """Forward passes of the policy a pair; as many of the reference, unless precomputed."""
    cost: Cost | None = None
    """Operations and bytes of a step with this design, where a cost was given."""


@dataclass(frozen=True)
class Pilot:
    """Terms of B pairs whose masks all four shared: n_t counts, n_y masks at each."""

    terms: Array
    """`[B, 4, n_t, n_y]`: policy chosen, policy rejected, reference chosen, rejected; nats."""
    counts: Array
    """`[B, 2, n_t]`: relative counts l / L of the two responses."""
    beta: float

    def __post_init__(self) -> None:
        """Refuse what no variance can be estimated from."""
        shape = self.terms.shape
        if len(shape) != 4 or shape[1] != 4 or min(shape[2:]) < 2 or shape[0] < 2:
            raise ValueError(
                "want terms [B, 4, n_t, n_y] of two pairs, two counts and two masks at least, got "
                f"{shape}: a smaller pilot cannot tell counts from masks"
            )
        if not 0 < self.beta < np.inf:
            raise ValueError(f"want beta > 0, got {self.beta}")
        if not np.isfinite(self.terms).all():
            bad = sorted({int(b) for b in np.argwhere(~np.isfinite(self.terms))[:, 0]})
            raise ValueError(f"want finite terms, got nan or infinity in pair(s) {bad[:5]}")

    @cached_property
    def over_masks(self) -> Array:
        """S_y, `[B, 4, 4]`: covariance over the masks at one count, unbiased for each pair."""
        within = self.terms - self.terms.mean(axis=3, keepdims=True)
        n_t, n_y = self.terms.shape[2:]
        return np.einsum("bity,bjty->bij", within, within) / (n_t * (n_y - 1))

    @cached_property
    def over_counts(self) -> Array:
        """S_t, `[B, 4, 4]`: covariance over counts of the mean at a count, unbiased likewise."""
        means = self.terms.mean(axis=3)
        between = means - means.mean(axis=2, keepdims=True)
        n_t, n_y = self.terms.shape[2:]
        return np.einsum("bit,bjt->bij", between, between) / (n_t - 1) - self.over_masks / n_y

    def score_variance(self, design: Design) -> tuple[Array, Array]:
        """Return what counts and what masks contribute to V[s_hat] of each pair, `[B]` both."""
        kept = _seen_together(design) * np.outer(SIGNS, SIGNS) * self.beta**2
        counts = (self.over_counts * kept).sum(axis=(1, 2)) / design.n_t
        return counts, (self.over_masks * kept).sum(axis=(1, 2)) / design.n

    def predict(self, design: Design, cost: Cost | None = None) -> Prediction:
        """Return variance, bias and cost of a design.

        Args:
            design: with independent or systematic counts, uniform.
            cost: of a step with any design, for the model and lengths that are meant.

        Raises:
            ValueError: the design is of the time form, or has a proposal: see `importance`.
        """
        if design.form == "time" or design.proposal is not None:
            raise ValueError(
                f"want a design of the count form with uniform counts, got {design}: the pilot's "
                "`importance` predicts a proposal"
            )
        counts, masks = self.score_variance(design)
        V = counts + masks
        steps = design.n_t // design.sets if design.counts == "systematic" else 1
        most = masks + counts * steps
        score = self.beta * np.einsum("i,bity->b", SIGNS, self.terms) / self.terms[0, 0].size
        return Prediction(
            design,
            _mean(V),
            _mean(masks if steps > 1 else V),
            _mean(most),
            float(np.mean(expit(score) * expit(-score) * V) / 2),
            float(most.mean() / 8),
            2 * design.n,
            cost and replace(cost, design=design),
        )

    @property
    def sharing(self) -> Estimate:
        """Covariance of policy and reference that sharing masks takes out of V[s_hat], n = 1."""
        return self._gain(Design(1, shared=False), Design(1))

    @property
    def across(self) -> Estimate:
        """What sharing masks across the pair takes out as well; negative where it hurts."""
        return self._gain(Design(1), Design(1, across_pair=True))

    @property
    def split(self) -> Split:
        """What counts and what masks contribute to V[s_hat] at n = 1, masks shared."""
        counts, masks = self.score_variance(Design(1))
        return Split(_mean(counts), _mean(masks))

    @property
    def correlation(self) -> Estimate:
        """Correlation of a term of the policy and the reference's at the same mask.

        Pooled over pairs and both responses; nan where a model's terms do not vary.
        """
        S = self.over_counts + self.over_masks  # of one term
        p, r, both = (S[:, i, j] + S[:, i + 1, j + 1] for i, j in ((0, 0), (2, 2), (0, 2)))
        P, R = p.mean(), r.mean()
        if min(P, R) <= 0:
            return Estimate(np.nan, np.nan)
        both = both / np.sqrt(P * R)
        rho = float(both.mean())
        return Estimate(rho, _mean(both - rho * (p / P + r / R) / 2).error)

    @property
    def agree(self) -> bool:
        """Whether policy and reference have the same terms, so that every margin is zero."""
        margins = np.abs(self.terms[:, :2] - self.terms[:, 2:]).max()
        return bool(margins <= 1e-6 * np.abs(self.terms).max())  # rounding of float32

    def importance(self, bins: int = 8) -> tuple[tuple[float, ...], Estimate]:
        """Return a proposal over relative counts, and its variance over the uniform one's, n = 1.

        The proposal is proportional to the root of the mean squared margin in each bin, pooled over
        pairs and both responses, and floored at a tenth of its mean; empty bins take the mean of
        the others. It is for draws to come: using it on the pilot's own would bias them.

        The ratio is of pairs a proposal was not fitted to: that of every other pair is judged on
        the rest, and the reverse. It is rough where responses have few tokens a bin.

        Args:
            bins: of the relative count; take few where the pilot is small.

        Returns:
            Both; uniform and 1 where policy and reference agree, or (± inf) no variance is seen.

        Raises:
            ValueError: bins is below 1.
        """
        if bins < 1:
            raise ValueError(f"want bins >= 1, got {bins}")
        margins = self.terms[:, :2] - self.terms[:, 2:]  # [B, 2, n_t, n_y]
        second, means = (margins**2).mean(axis=3), margins.mean(axis=3)
        # (k / bins, (k + 1) / bins] is bin k; a little below, for l / L is rounded
        at = np.ceil(self.counts * bins - 1e-9).astype(int) - 1
        # the squared mean, without bias: products of means at two different counts
        n_t = means.shape[2]
        squared = (means.sum(axis=2) ** 2 - (means**2).sum(axis=2)) / (n_t * (n_t - 1))
        uniform = (second.mean(axis=2) - squared).mean(axis=1)
        if self.agree or uniform.mean() <= 0:
            return (1 / bins,) * bins, Estimate(1.0, 0.0 if self.agree else np.inf)
        weighted = np.empty_like(second)
        for half in (0, 1):
            q = _proposal(second[1 - half :: 2], at[1 - half :: 2], bins)
            weighted[half::2] = second[half::2] / (bins * q[at[half::2]])
        V = (weighted.mean(axis=2) - squared).mean(axis=1)
        ratio = float(V.mean() / uniform.mean())
        error = _mean(V - ratio * uniform).error / float(uniform.mean())
        return tuple(_proposal(second, at, bins).tolist()), Estimate(ratio, error)

    def _gain(self, before: Design, after: Design) -> Estimate:
        return _mean(np.add(*self.score_variance(before)) - np.add(*self.score_variance(after)))


class Advice(NamedTuple):
    """What to do."""

    chosen: Prediction
    others: list[Prediction]
    """The plain design of the same budget, and what else was looked at."""
    reasons: list[str]

    def __str__(self) -> str:
        """Return a table and the reasons."""
        head = f"{'design':<37}{'V[score]':>16}{'bias':>7}{'bound':>7}{'passes':>7}"
        if self.chosen.cost:
            head += f"{'FLOP':>9}{'GB':>5}"
        rows = [_row(p, "→" if p is self.chosen else " ") for p in [self.chosen, *self.others]]
        reasons = [
            fill(reason, 86, initial_indent="- ", subsequent_indent="  ") for reason in self.reasons
        ]
        return "\n".join([head, *rows, *reasons])


def run_pilot(
    policy: Model,
    reference: Model,
    pairs: Sequence[Preference],
    chunks: Chunks,
    *,
    beta: float,
    n_t: int = 4,
    n_y: int = 2,
    seed: int = 0,
) -> Pilot:
    """Score some pairs with all masks shared, without gradient.

    Args:
        policy: from a pack to S.
        reference: likewise.
        pairs: two at least; a few dozen tell a lot.
        chunks: how sequences go through the models.
        beta: strength of the reference.
        n_t: mask counts, two at least.
        n_y: masks at each, two at least.
        seed: names the masks.

    Raises:
        ValueError: fewer than two pairs, counts or masks; beta <= 0; a score that is not finite.
    """
    # refuses what it would refuse at the end, before hours of scoring
    Pilot(np.zeros((len(pairs), 4, n_t, n_y)), np.zeros(0), beta)
    design = Design(n_t, n_y, across_pair=True)
    draws = [
        draw_pair(design, (len(p.chosen), len(p.rejected)), seed, p.example).policy for p in pairs
    ]
    weights = torch.stack([torch.stack([w.weights, l.weights]) for w, l in draws])
    S = [score(m, chunks(pairs, draws), len(pairs)).double().cpu() for m in (policy, reference)]
    terms = torch.cat([weights * part for part in S], dim=1)  # [B, 4, n]
    counts = [[d.masks.double().mean(1).view(n_t, n_y)[:, 0] for d in both] for both in draws]
    return Pilot(
        terms.view(len(pairs), 4, n_t, n_y).numpy(),
        torch.stack([torch.stack(both) for both in counts]).numpy(),
        beta,
    )


def advise(
    pilot: Pilot, *, n: int | None = None, bias: float | None = None, cost: Cost | None = None
) -> Advice:
    """Return the design to take for a budget, or the cheapest whose bias is below a bound.

    For a budget, counts are systematic: usually better, not for certain. For a bound: independent.

    Args:
        pilot: its terms.
        n: masks a response that can be afforded.
        bias: bound on the loss's bias in nats, which V[s_hat] / 8, as estimated, must not exceed.
        cost: of any design: the table has operations a pair, and bytes with one sequence at once.

    Raises:
        ValueError: neither n nor bias is given, or both, or one is not positive.
    """
    if (n is None) == (bias is None):
        raise ValueError("want either n (masks a response) or bias (nats), got both or neither")
    if not (n if bias is None else bias) > 0:  # type: ignore[operator]
        raise ValueError(f"want a positive budget, got {n if bias is None else bias}")
    sharing, across = pilot.sharing, pilot.across
    relied_on = across.value > GUARD * across.error
    base = Design(1, shared=sharing.value > 0, across_pair=relied_on)
    reasons = [
        "one mask at each count: with independent counts nothing is better (Proposition 1)",
        f"policy and reference {'share' if base.shared else 'do not share'} masks: that takes "
        f"{sharing} out of V at n = 1",
        f"chosen and rejected {'share' if base.across_pair else 'do not share'} masks: that would "
        f"take {across} out of V at n = 1 (guard: {GUARD:g} standard errors)",
    ]
    if n is None:
        one = pilot.predict(base).variance.value
        n = max(1, int(np.ceil(one / (8 * bias))))  # type: ignore[operator]
        reasons.append(
            f"n = {n} is the least with V / 8 below {bias:g} nats for independent counts; "
            "systematic ones usually do better, which is not guaranteed"
        )
        best = replace(base, n_t=n)
    else:
        sets = 2 if n % 2 == 0 and n > 2 else 1
        best = replace(base, n_t=n, counts="systematic" if n > 1 else "iid", sets=sets)
    if best.counts == "systematic":
        reasons.append(
            "systematic counts are unbiased and cost nothing; V is usually between what masks "
            "contribute (≥) and what independent counts give (~), not guaranteed: terms that "
            "alternate with the count give more, up to 8 times `bound`"
            + ("; two sets, so that halves stay independent" if best.sets == 2 else "")
        )
    if pilot.agree:
        reasons.append(
            "policy and reference agree at every mask, as before training: that says nothing of "
            "later; run the pilot again after some training"
        )
    q, ratio = pilot.importance(min(8, pilot.terms.shape[2] * 2))
    reasons.append(
        f"importance over counts would multiply V by {ratio}, on pairs it was not fitted to: "
        "proposal " + ", ".join(f"{x:.2f}" for x in q)
    )
    others = dict.fromkeys([Design(n), Design(n, shared=False), Design(1, n)])
    return Advice(
        pilot.predict(best, cost), [pilot.predict(d, cost) for d in others if d != best], reasons
    )


def _seen_together(design: Design) -> Array:
    """Return 1 where two of the four terms see the same masks, `[4, 4]`."""
    model, side = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    same_model, same_side = (np.equal.outer(x, x) for x in (model, side))
    return ((same_model | design.shared) & (same_side | design.across_pair)).astype(float)


def _proposal(second: Array, at: NDArray[np.integer], bins: int) -> Array:
    """Return what `Pilot.importance` fits: shares of the bins, `[bins]`, that sum to one."""
    at = at.ravel()
    size = np.bincount(at, minlength=bins)
    root = np.sqrt(np.bincount(at, second.ravel(), bins) / np.maximum(size, 1))
    root = np.where(size > 0, root, root[size > 0].mean())
    if not root.any():
        return np.full(bins, 1 / bins)
    q = np.maximum(root, 0.1 * root.mean())
    return q / q.sum()


def _mean(values: Array) -> Estimate:
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def _row(p: Prediction, mark: str) -> str:
    d = p.design
    name = f"{mark} ({d.n_t}, {d.n_y}) {d.counts}"
    name += ", shared" if d.shared else ", apart"
    name += ", across" if d.across_pair else ""
    V = f"{p.variance.value:.3g}"
    if p.least != p.variance:
        V = f"≥{p.least.value:.3g}, ~{V}"
    row = f"{name:<37}{V:>16}{p.bias:>7.3f}{p.bias_bound:>7.3f}{p.passes:>7}"
    return row + (f"{p.cost.pair:>9.2g}{p.cost.memory() / 1e9:>5.0f}" if p.cost else "")
