"""Random numbers that belong to a thing, not to a process: the same on any rank, in any order.

A generator is named by integers such as (seed, epoch, example). Whoever asks for the same name gets
the same numbers: the policy and its reference, one process or eight, before a crash or after it.
"""

import numpy as np


def generator(*key: int) -> np.random.Generator:
    """Return the generator that this key names.

    Args:
        *key: integers from 0, such as seed, epoch, example. (1, 2) and (1, 2, 0) are two names.

    Raises:
        ValueError: there is no key, or a part of it is no integer from 0.
    """
    parts = [_natural(part, key) for part in key]
    if not parts:
        raise ValueError("want integers that name the generator, such as (seed, example), got none")
    # the length goes first: a SeedSequence takes (1, 2) and (1, 2, 0) for the same
    return np.random.default_rng([len(parts), *parts])


def _natural(part: int, key: tuple[int, ...]) -> int:
    if isinstance(part, bool) or not isinstance(part, int | np.integer) or part < 0:
        raise ValueError(f"want a key of integers from 0, got {part!r} in {key}")
    return int(part)
