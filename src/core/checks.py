"""What doors of several rooms refuse: one error type, and what is wanted beside what came."""

from numbers import Integral

import numpy as np


def at_least(least: int, *, because: str = "", **counts: object) -> None:
    """Raise a ValueError unless all `counts` are integers >= `least`; True is none."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or count < least:
            reason = f" ({because})" if because else ""
            raise ValueError(
                f"want {name} >= {least}, an integer{reason}, got {name} = {shown(count)}"
            )


def shown(value: object) -> str:
    """Return what came, an array by its shape alone."""
    shape = np.shape(np.asarray(value))
    if shape:
        return f"an array {list(shape)} that is not"
    return repr(value) if isinstance(value, str) else str(value)
