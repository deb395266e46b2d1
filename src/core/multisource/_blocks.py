"""How much is worked on at a time, and what does not fit."""

from math import ceil

MEMORY = 2**28
"""Bytes that are worked on at a time unless one says otherwise: a quarter of a GiB."""


def shown(size: float) -> str:
    """Return a number of bytes as people write it."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} PiB"


def rows_at_a_time(row: int, memory: int, *, what: str) -> int:
    """Return how many rows fit into the memory.

    Args:
        row: bytes that one takes.
        memory: bytes there are.
        what: is a row, for the message.

    Raises:
        ValueError: not even one fits, with the size that it needs.
    """
    if row > memory:
        raise ValueError(
            f"{what} needs {shown(row)}, which is more than memory = {shown(memory)}: "
            f"give memory >= {ceil(row)}, or take a smaller case"
        )
    return memory // row
