r"""Should I pool my sources? An answer from the data, column by column.

Each column of each source has a mean. Estimated alone, a source pays for having few samples; with
all sources averaged, it pays for how they differ. Squared errors in units of sd^2 / n, weighted by
the sources' shares as in the paper's R_TV, are

    alone     U = sum_k v_k / v
    averaged  1 + bias,    bias = sum_k n_k (mu_k - mu)^2 / v

The spread S = sum_k n_k (mean_k - mean)^2 / v has the expectation bias + T with

    T = sum_k (1 - n_k / n) v_k / v          K - 1 where variances are alike

so that S < 2 T is where averaging is estimated to err less: Takeuchi's criterion, and Akaike's for
variances alike. Where both err alike, it averages somewhat more often than not, and in half of all
cases for many sources. Near there nothing is certain, and the safe choice is to move means only
part of the way to the average, by what James and Stein's rule says: for normal data with variances
alike and three means or more to compare, that errs less than means alone, whatever the truth.

Symbols: `K` sources, `n_k` samples of each, `v_k` variance of a column within a source, `v` their
mean. Shared columns are the coordinates psi of arXiv:2502.14583, Section 4.1, and their part of all
is its beta_sim. The rules are no part of the paper, which takes for granted what is shared.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.multisource.bounds import Array, effective_similarity

THRESHOLD = 2.0
"""Of spread over chance: above it means are better kept apart."""


@dataclass(frozen=True)
class Advice:
    """What the data say, for each of d columns and K sources."""

    columns: list[str]
    sources: list[str]
    n_k: NDArray[np.int64]
    """`[K]` samples."""
    spread: Array
    """`[d]` S."""
    chance: Array
    """`[d]` T, what the spread would be if the column's means were equal."""
    alone: Array
    """`[d]` U."""
    single: Array
    """`[K, d]` means of each source."""
    pooled: Array
    """`[d]` means over all samples."""
    kept: Array
    """`[d]` part of a source's difference from the average that the safe estimate keeps."""

    @property
    def K(self) -> int:
        """Sources."""
        return len(self.sources)

    @property
    def share(self) -> NDArray[np.bool_]:
        """`[d]` whether the column is better averaged."""
        return self.spread < THRESHOLD * self.chance

    @property
    def beta_sim(self) -> float:
        """Part of the columns that are better averaged."""
        return float(self.share.mean())

    @property
    def chosen(self) -> Array:
        """`[K, d]` means, averaged in the columns where that is advised."""
        return np.where(self.share, self.pooled, self.single)

    @property
    def partial(self) -> Array:
        """`[K, d]` means moved part of the way to the average: the safe estimate."""
        return self.pooled + self.kept * (self.single - self.pooled)

    @property
    def errors(self) -> dict[str, float]:
        """Total variation to expect, about: single, pooled, and chosen.

        sqrt(sum of squared errors / (2 pi)), columns taken for independent; as far as the data
        tell the bias, which a choice made by the same data makes look a little small.
        """
        bias = np.maximum(self.spread - self.chance, 0)
        averaged = 1 + bias
        squares = {
            "single": self.alone,
            "pooled": averaged,
            "chosen": np.where(self.share, averaged, self.alone),
        }
        n = int(self.n_k.sum())
        return {k: float(math.sqrt(s.sum() / (2 * math.pi * n))) for k, s in squares.items()}

    @property
    def effective_similarity(self) -> float:
        """The beta_sim that the errors of `chosen` and `single` imply."""
        return effective_similarity(self.errors["chosen"], self.errors["single"], self.K)

    @property
    def verdict(self) -> str:
        """`pool`, `keep apart`, or `pool in part`."""
        return {1.0: "pool", 0.0: "keep apart"}.get(self.beta_sim, "pool in part")

    def as_dict(self) -> dict[str, Any]:
        """Return all of it in Python's own types."""
        per_column = {
            name: {
                "spread": float(self.spread[j]),
                "chance": float(self.chance[j]),
                "share": bool(self.share[j]),
                "kept": float(self.kept[j]),
                "pooled": float(self.pooled[j]),
                "single": dict(zip(self.sources, self.single[:, j].tolist(), strict=True)),
                "partial": dict(zip(self.sources, self.partial[:, j].tolist(), strict=True)),
            }
            for j, name in enumerate(self.columns)
        }
        return {
            "verdict": self.verdict,
            "sources": dict(zip(self.sources, self.n_k.tolist(), strict=True)),
            "beta_sim": self.beta_sim,
            "effective_similarity": self.effective_similarity,
            "errors": self.errors,
            "columns": per_column,
        }


def advise(
    x: ArrayLike,
    source: ArrayLike,
    *,
    columns: list[str] | None = None,
    sources: list[Any] | None = None,
) -> Advice:
    """Return what the data say about averaging the means of several sources.

    Args:
        x: `[n, d]` samples, or `[n]` of one column.
        source: `[n]` which source each is from: numbers or text.
        columns: their names; else their numbers from 0.
        sources: those to compare, in this order; else all there are, sorted.

    Raises:
        ValueError: fewer than two sources, one that does not occur or has a single sample, a value
            that is not finite, or a column that does not vary within any source.
    """
    x, source = _arrays(x, source)
    n, d = x.shape
    columns = [str(j) for j in range(d)] if columns is None else list(columns)
    if len(columns) != d:
        raise ValueError(f"want a name for each of {d} columns, got {len(columns)}")
    kinds = _kinds(source, sources)
    parts = [x[source == kind] for kind in kinds]
    names = [str(kind) for kind in kinds]
    few = [
        f"{name} ({len(part)})" for name, part in zip(names, parts, strict=True) if len(part) < 2
    ]
    if few:
        raise ValueError(
            f"want two samples of each source, to tell how much it varies, got {', '.join(few)}: "
            "leave them out, or take more"
        )
    n_k = np.array([len(part) for part in parts])
    n, share = n_k.sum(), n_k[:, None] / n_k.sum()
    single = np.stack([part.mean(0) for part in parts])
    v_k = np.stack([part.var(0, ddof=1) for part in parts])
    v = (share * v_k).sum(0)
    if not (v > 0).all():
        constant = ", ".join(name for name, value in zip(columns, v, strict=True) if not value > 0)
        raise ValueError(
            f"want columns that vary within the sources, got constant ones: {constant}: leave them "
            "out"
        )
    pooled = (share * single).sum(0)
    spread = (n_k[:, None] * (single - pooled) ** 2).sum(0) / v
    chance = ((1 - share) * v_k).sum(0) / v
    kept = kept_part(spread, chance, K=len(kinds), df=int(n) - len(kinds))
    alone = v_k.sum(0) / v
    return Advice(columns, names, n_k, spread, chance, alone, single, pooled, kept)


def kept_part(spread: Array, chance: Array, *, K: int, df: float = math.inf) -> Array:
    """Return how much of the differences between means to keep, `[..., d]`, each in [0, 1].

    James and Stein's rule, positive part, towards the average: for each column where K >= 4; for
    all columns together where K is 2 or 3, which takes (K - 1) d >= 3; else everything is kept.

    Args:
        spread: `[..., d]` S.
        chance: `[..., d]` T.
        K: sources.
        df: n - K, with which the variances were estimated; infinite where they are known.
    """
    d, free = spread.shape[-1], K - 1
    if K < 4:
        free *= d
        spread, chance = (
            np.broadcast_to(x.sum(-1, keepdims=True), x.shape) for x in (spread, chance)
        )
    if free <= 2:
        return np.ones(spread.shape)
    taken = (free - 2) / free * chance / (1 + 2 / df)
    return 1 - np.minimum(1, taken / np.maximum(spread, 1e-300))


def gain_of_pooling(
    log_lik_single: float, log_lik_multi: float, dim_single: float, dim_multi: float
) -> float:
    """Return what any model gains by pooling, in Akaike's units; pool where it is above zero.

    Args:
        log_lik_single: log-likelihood of all data, sources fitted one by one; nats.
        log_lik_multi: with what is shared fitted once.
        dim_single: parameters of the first; or `effective_dim`, for Takeuchi's criterion.
        dim_multi: of the second.
    """
    return 2 * (log_lik_multi - log_lik_single) + 2 * (dim_single - dim_multi)


def effective_dim(scores: Array, information: Array) -> float:
    """Return Takeuchi's count of parameters, tr(J^-1 V).

    Args:
        scores: `[n, P]` derivatives of each sample's log-likelihood at the estimate.
        information: `[P, P]` J, minus the mean second derivative; where the model holds, the mean
            of squared scores is the same, and the count is P.
    """
    V = scores.T @ scores / len(scores)
    return float(np.trace(np.linalg.solve(information, V)))


def _arrays(x: ArrayLike, source: ArrayLike) -> tuple[Array, NDArray[Any]]:
    values = np.asarray(x, dtype=float)
    values = values[:, None] if values.ndim == 1 else values
    labels = np.asarray(source)
    if values.ndim != 2 or labels.shape != values.shape[:1] or not values.size:
        raise ValueError(
            f"want samples [n, d] and the source of each, [n], got {list(values.shape)} and "
            f"{list(labels.shape)}"
        )
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"want finite samples, got {values[row, column]} in row {row}, {column}")
    return values, labels


def _kinds(source: NDArray[Any], wanted: list[Any] | None) -> list[Any]:
    there = np.unique(source).tolist()
    if wanted is None:
        kinds = there
    else:
        kinds = list(dict.fromkeys(wanted))
        never = [str(kind) for kind in kinds if kind not in there]
        if never:
            shown = ", ".join(map(str, there[:10])) + (", .." if len(there) > 10 else "")
            raise ValueError(f"no sample is of source {', '.join(never)}; there are {shown}")
    if len(kinds) < 2:
        found = f"one source, {kinds[0]}" if kinds else "none"
        raise ValueError(f"want two sources or more to compare, got {found}")
    return kinds
