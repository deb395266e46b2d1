r"""The exact population loss of the layer: no sequence is sampled, no integral approximated.

Every entry of Q and C (`core.mesa.quadratic`) is an expectation over x_1 and the phases of W, that
is a lattice count (`core.mesa.counts`) times a moment of the start (`core.mesa.moments`). What
should vanish is 0.0.

Source: arXiv:2405.16845v2, Eq. (2); the engine is ours.
"""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from core.mesa.counts import lattice_counts, partitions
from core.mesa.moments import Start
from core.mesa.quadratic import Matrix, QuadraticLoss


class Population(QuadraticLoss):
    """The loss of Eq. (2) for one start law and one length, as a function of the weights."""

    def __init__(self, start: Start, T: int) -> None:
        """Tabulate Q and C (a second for T = 100, then milliseconds from the disk).

        Args:
            start: law of x_1; its coordinates must be exchangeable.
            T: length of the training sequences, >= 3.

        Raises:
            ValueError: T < 3, or a moment of the start is not finite.
        """
        self.start = start
        counts, d = lattice_counts(T), start.d
        n = (2 * d) ** 3
        slots, shifts, value = _entries(start, counts.quadratic)
        p = slots + d * shifts  # [entries, 6] token indices
        row, column = _flat(p[:, :3], d), _flat(p[:, 3:], d)
        Q = sp.csr_array((value, (row, column)), shape=(n, n))
        slots, shifts, value = _entries(start, counts.linear)
        C = np.zeros((d, n))
        C[slots[:, 0], _flat(slots[:, 1:] + d * shifts, d)] = value
        super().__init__(d, T, Q, C, d * (T - 2) * start.moment((2,)) / 2)


def _flat(p: NDArray[np.int64], d: int) -> NDArray[np.int64]:
    return (p[:, 0] * 2 * d + p[:, 1]) * 2 * d + p[:, 2]


def _entries(start: Start, counts: Matrix) -> tuple[NDArray, NDArray, Matrix]:
    """Return the entries that are not zero: coordinates `[n, slots]`, shifts `[n, .]`, values."""
    slots = 6 if len(counts) == 203 else 4
    labels = partitions(slots)
    moment = np.array([_moment(start, label) for label in labels])
    # a tuple of coordinates -> the first slot that each one equals -> which partition that is
    k = np.indices((start.d,) * slots).reshape(slots, -1).T
    first = (k[:, :, None] == k[:, None, :]).argmax(axis=2)
    place = np.full(slots**slots, -1)
    radix = slots ** np.arange(slots)[::-1]
    place[np.array(labels) @ radix] = np.arange(len(labels))
    which = place[first @ radix]
    alive = moment[which] != 0
    k, which = k[alive], which[alive]
    value = counts.reshape(len(labels), -1)[which] * moment[which, None]
    entry, shift = np.nonzero(value)
    shifts = np.stack(np.unravel_index(shift, counts.shape[1:]), axis=1)
    return k[entry], shifts, value[entry, shift]


def _moment(start: Start, label: tuple[int, ...]) -> float:
    blocks = tuple(label.count(first) for first in sorted(set(label)))
    return start.finite_moment(blocks) if len(blocks) <= start.d else 0.0
