r"""Statistics of a sample of starts x_1: moments the theory names, and tests that some vanish.

All are means over the sample of a symmetric function of one start's coordinates,

    <n> (x) = mean over distinct i_1, ..., i_k of x_{i_1}^{n_1} ... x_{i_k}^{n_k},

which costs no sum over index tuples: power sums p_s = sum_j x_j^s and the recursion

    S(n_1, ..., n_k) = p_{n_k} S(n_1, ..., n_{k-1}) - sum_i S(n_1, ..., n_i + n_k, ..., n_{k-1}).

Source: arXiv:2405.16845v2, Assumption 4.1.
"""

from itertools import combinations, combinations_with_replacement, product
from math import perm, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


class MomentTest(NamedTuple):
    """Whether one expectation is zero."""

    name: str
    mean: float
    standard_error: float
    p: float
    """Two-sided, by Student's t; Holm-adjusted once in a report."""


def symmetric_mean(x: Array, n: tuple[int, ...]) -> Array:
    """Return <n> at each row of x `[N, d]`: `[N]`.

    Raises:
        ValueError: more exponents than coordinates, or another shape.
    """
    if x.ndim != 2:
        raise ValueError(f"want starts [N, d], got {list(x.shape)}")
    if len(n) > x.shape[1]:
        raise ValueError(f"want at most d = {x.shape[1]} exponents, got {n}")
    return _distinct_sum(x, n) / perm(x.shape[1], len(n))


def _distinct_sum(x: Array, n: tuple[int, ...]) -> Array:
    *head, last = n
    total = (x**last).sum(axis=1)
    if not head:
        return total
    total = total * _distinct_sum(x, tuple(head))
    for i, power in enumerate(head):
        total = total - _distinct_sum(x, (*head[:i], power + last, *head[i + 1 :]))
    return total


def first_power_tests(x: Array) -> list[MomentTest]:
    """Test each moment of Assumption 4.1: a first power, <= 4 distinct coordinates, order <= 6."""
    patterns = [
        n
        for k in range(1, min(4, x.shape[1]) + 1)
        for n in combinations_with_replacement(range(1, 7), k)
        if 1 in n and sum(n) <= 6
    ]
    return [_zero_test(f"E {_monomial(n)}", symmetric_mean(x, n)) for n in patterns]


def cube_tests(x: Array) -> list[MomentTest]:
    """Test E x_j^3 x_r^3, which Lemma 5.2 needs to vanish too (none if d = 1)."""
    if x.shape[1] < 2:
        return []
    return [_zero_test("E x_i^3 x_j^3", symmetric_mean(x, (3, 3)))]


def exchangeability_tests(x: Array) -> list[MomentTest]:
    """Test that all coordinates have the same moments: orders 1 to 6, and both parts in kappa3."""
    if x.shape[1] < 2:
        return []
    rest2, rest4 = ((x**s).sum(axis=1, keepdims=True) - x**s for s in (2, 4))
    functions = {f"E x_j^{s}": x**s for s in range(1, 7)}
    functions |= {"E x_j^2 sum x_r^4": x**2 * rest4, "E x_j^4 sum x_r^2": x**4 * rest2}
    return [
        _zero_test(f"{name} - mean, j = {j + 1}", value[:, j] - value.mean(axis=1))
        for name, value in functions.items()
        for j in range(x.shape[1])
    ]


def phase_tests(phase: NDArray[np.complex128]) -> list[MomentTest]:
    """Test that characters of the phases have mean zero, as uniform independent phases have.

    lambda_j^n for n <= 4 and lambda_j^n lambda_r^m for n + |m| <= 3: what the lattice counts of the
    loss rely on first. Signs W = +-1, say, have E lambda_j^2 = 1.

    Args:
        phase: `[N, d]` the lambda_j of each sequence, zero where a coordinate never moves.
    """
    d = phase.shape[1]
    characters = {_power(j, n): phase[:, j] ** n for n in range(1, 5) for j in range(d)}
    for (j, r), (n, m) in product(combinations(range(d), 2), ((1, 1), (2, 1), (1, 2))):
        above, below = phase[:, j] ** n, phase[:, r] ** m
        characters[f"{_power(j, n)} {_power(r, m)}"] = above * below
        characters[f"{_power(j, n)} / {_power(r, m)}"] = above * below.conj()
    return [
        _zero_test(f"E {part} {name}", getattr(value, attribute))
        for name, value in characters.items()
        for part, attribute in (("Re", "real"), ("Im", "imag"))
    ]


def _zero_test(name: str, values: Array) -> MomentTest:
    """Test whether the expectation of independent `values` `[N]` is zero.

    Raises:
        ValueError: there are not two of them, or one is not finite.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"want at least two finite values of {name}, got {len(values)}")
    mean, error = values.mean(), values.std(ddof=1) / sqrt(len(values))
    if error <= 1e-12 * abs(mean):  # a constant: no doubt about it
        return MomentTest(name, mean, 0.0, 1.0 if mean == 0 else 0.0)
    return MomentTest(name, mean, error, float(2 * stats.t.sf(abs(mean) / error, len(values) - 1)))


def holm(tests: list[MomentTest]) -> list[MomentTest]:
    """Return the tests with p-values adjusted so that all together err with probability alpha.

    Rejecting where the adjusted p < alpha, the chance of any false rejection is below alpha,
    however the tests depend on one another (Holm 1979).
    """
    order = np.argsort([test.p for test in tests])
    steps = [tests[i].p * (len(tests) - rank) for rank, i in enumerate(order)]
    adjusted = np.empty(len(tests))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if tests else []
    return [test._replace(p=float(p)) for test, p in zip(tests, adjusted, strict=True)]


def _power(j: int, n: int) -> str:
    return f"lambda_{j + 1}^{n}" if n > 1 else f"lambda_{j + 1}"


def _monomial(n: tuple[int, ...]) -> str:
    letters = zip("ijkl", n, strict=False)
    return " ".join(f"x_{i}^{power}" if power > 1 else f"x_{i}" for i, power in letters)
