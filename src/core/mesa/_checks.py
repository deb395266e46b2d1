"""What the doors of `core.mesa` refuse: one error type, and what is wanted beside what came."""

import numpy as np

from core.checks import at_least, shown

T_REASON = "the loss sums t = 2..T-1"


def finite(**values: object) -> None:
    """Raise a ValueError unless all `values`, numbers or arrays of them, are real and finite."""
    for name, value in values.items():
        if not _is_finite(value):
            raise ValueError(f"want finite {name}, got {name} = {shown(value)}")


def positive(**values: object) -> None:
    """Raise a ValueError unless all `values` are single numbers, finite and above zero."""
    for name, value in values.items():
        if not (_is_finite(value) and np.ndim(np.asarray(value)) == 0 and np.asarray(value) > 0):
            raise ValueError(f"want {name} > 0 and finite, got {name} = {shown(value)}")


def training_length(T: object) -> None:
    """Raise a ValueError unless sequences of T tokens have a loss."""
    at_least(3, because=T_REASON, T=T)


def _is_finite(value: object) -> bool:
    numbers = np.asarray(value)
    return numbers.dtype.kind in "biuf" and bool(np.isfinite(numbers).all())
