"""What the doors of `core.multisource` refuse: one error type, and what is wanted beside it."""

from core.checks import at_least


def fraction(**values: float) -> None:
    """Raise a ValueError unless all `values` are in (0, 1)."""
    for name, value in values.items():
        if not 0 < value < 1:
            raise ValueError(f"want {name} in (0, 1), got {name} = {value}")


def comparison(K: int) -> None:
    """Raise a ValueError unless there are sources to compare."""
    at_least(
        2, because="several sources are compared with one by one; of one both are the same", K=K
    )
