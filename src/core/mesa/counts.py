r"""How often a monomial of the loss survives the average over the phases: lattice-point counts.

With W = diag(lambda) uniform on the torus, a product of entries x_{t,k} = lambda_k^{t-1} x_{1,k}
has mean zero unless the exponents of every lambda_k cancel. The squared prediction sums products of
six entries, over the pair of context positions (i, i'), for each t:

    Phi_t[p, q, r] conj(Phi_t[p', q', r']) = (t-1)^{-2} sum_{i, i'}
        e_{i,p} conj(e_{i,q}) e_{t,r} conj(e_{i',p'}) e_{i',q'} conj(e_{t,r'})

An index p is a coordinate and a shift (0: x_i, 1: x_{i-1}). Which coordinates coincide is a set
partition of the six slots (203 of them); each of its blocks then asks for one linear equation
alpha i + beta i' + gamma t + delta = 0, and what is left is to count points (t, i, i'). The term
linear in the prediction has four slots, and i alone. No integral is ever approximated.

Source: the loss is Eq. (2) of arXiv:2405.16845v2; the counting is ours.
"""

import hashlib
import io
from contextlib import suppress
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from core.files import write_bytes
from core.mesa._checks import training_length

Equation = tuple[int, int, int, int]
"""(alpha, beta, gamma, delta): alpha i + beta i' + gamma t + delta = 0."""

# What a slot adds to the exponent of its lambda: the multiples of (i, i', t), and of (1 + shift).
QUADRATIC = [(1, 0, 0), (-1, 0, 0), (0, 0, 1), (0, -1, 0), (0, 1, 0), (0, 0, -1)]
# conj(x_{t+1,j}) is one step ahead of e_t: its exponent is -t, "shift" -1
LINEAR = [(0, 0, -1), (1, 0, 0), (-1, 0, 0), (0, 0, 1)]


class LatticeCounts(NamedTuple):
    """Weighted counts, by set partition (in the order of `partitions`) and shifts of the slots."""

    quadratic: NDArray[np.float64]
    """`[203, 2, 2, 2, 2, 2, 2]`: sum over t of the number of (i, i') over (t-1)^2."""
    linear: NDArray[np.float64]
    """`[15, 2, 2, 2]`: sum over t of the number of i over t-1; the target has no shift."""


def partitions(slots: int) -> list[tuple[int, ...]]:
    """Return the set partitions of `slots` slots: each slot's label is the first slot it equals."""
    grown: list[tuple[int, ...]] = [()]
    for slot in range(slots):
        grown = [(*p, label) for p in grown for label in (*sorted(set(p)), slot)]
    return grown


def lattice_counts(T: int) -> LatticeCounts:
    """Return the counts for sequences of length T, from the disk where they are known and sound.

    The file lies in the user's cache folder and starts with its SHA-256; one that is damaged is
    counted anew. A folder that cannot be written costs time, never a result.

    Raises:
        ValueError: T is no integer, or < 3, for which the loss has no term.
    """
    training_length(T)
    path = cache_file(T)
    stored = _read(path)
    if stored is None:
        stored = np.concatenate([_count(T, QUADRATIC).ravel(), _count(T, LINEAR).ravel()])
        _write(path, stored)
    split = 203 * 64
    return LatticeCounts(
        stored[:split].reshape(203, *(2,) * 6), stored[split:].reshape(15, *(2,) * 3)
    )


def cache_file(T: int) -> Path:
    """Return where the counts of one T are kept."""
    return user_cache_path("papers-executed") / "mesa" / f"lattice-counts-1-T{T}.bin"


def _read(path: Path) -> NDArray[np.float64] | None:
    """Return the stored counts, or None where there are none or the checksum disagrees."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, data = stored[:32], stored[32:]
    return np.load(io.BytesIO(data)) if hashlib.sha256(data).digest() == digest else None


def _write(path: Path, counts: NDArray[np.float64]) -> None:
    """Store the counts behind their checksum, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, counts)
    data = buffer.getvalue()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, hashlib.sha256(data).digest() + data)


def _count(T: int, slots: list[tuple[int, int, int]]) -> NDArray[np.float64]:
    """Count for every partition of the slots and every shift; `[partitions, 2, 2, ...]`.

    Args:
        T: sequence length.
        slots: `QUADRATIC`, or `LINEAR`, whose first slot is the target and has no shift.
    """
    points = cache(lambda equations, low, low_2: _points(T, equations, low, low_2, len(slots) == 6))
    free = slots[1:] if len(slots) == 4 else slots
    table = [
        [
            points(*_conditions(labels, shifts, slots))
            for shifts in product((0, 1), repeat=len(free))
        ]
        for labels in partitions(len(slots))
    ]
    return np.array(table).reshape(-1, *(2,) * len(free))


def _conditions(
    labels: tuple[int, ...], shifts: tuple[int, ...], slots: list[tuple[int, int, int]]
) -> tuple[frozenset[Equation] | None, int, int]:
    """Return the equations of the blocks (None: unsolvable), and the least i and i'."""
    steps = shifts if len(slots) == 6 else (-1, *shifts)
    equations = set()
    for block in set(labels):
        total = np.zeros(4, dtype=int)
        for label, (i, i_2, t), step in zip(labels, slots, steps, strict=True):
            if label == block:
                total += (i, i_2, t, -(i + i_2 + t) * (1 + step))
        if any(total[:3]):
            lead = next(n for n in total if n)  # an equation and its negative are one
            equations.add(tuple(int(n) for n in total * np.sign(lead)))
        elif total[3]:
            return None, 1, 1
    reads = [[s for s, slot in zip(steps, slots, strict=True) if slot[axis]] for axis in (0, 1)]
    return frozenset(equations), 1 + max(reads[0]), 1 + max(reads[1], default=0)


def _points(
    T: int, equations: frozenset[Equation] | None, low: int, low_2: int, quadratic: bool
) -> float:
    """Return the weighted number of points: all (t, i) on a grid, i' solved for or free."""
    if equations is None:
        return 0.0
    t, i = np.meshgrid(np.arange(2, T), np.arange(1, T), indexing="ij")
    inside = (i >= low) & (i <= t)
    with_i_2 = [e for e in equations if e[1]]
    for alpha, _, gamma, delta in equations - set(with_i_2):
        inside &= alpha * i + gamma * t + delta == 0
    if not quadratic:
        return float((inside / (t - 1.0)).sum())
    if not with_i_2:
        return float((inside * np.maximum(t - low_2 + 1, 0) / (t - 1.0) ** 2).sum())
    alpha, beta, gamma, delta = with_i_2[0]
    i_2, rest = np.divmod(-(alpha * i + gamma * t + delta), beta)
    inside &= (rest == 0) & (i_2 >= low_2) & (i_2 <= t)
    for alpha, beta, gamma, delta in with_i_2[1:]:
        inside &= alpha * i + beta * i_2 + gamma * t + delta == 0
    return float((inside / (t - 1.0) ** 2).sum())
