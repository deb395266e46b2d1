"""Numbers that prose may cite, so that none is typed by hand."""

import re
from math import isfinite
from numbers import Integral
from typing import SupportsFloat


def quote(name: str, value: SupportsFloat | str) -> None:
    """Let the prose cite a value that this run computed, by the role `glue:text`, in any format.

    It also prints `name = value`, for readers in Jupyter or on a git host, where the role is raw
    text; the book hides that line by the cell's tag `remove-output`.

    Args:
        name: lower-case letters, digits and hyphens, unique in the chapter.
        value: a number, or text that is already formatted (`"3.2 ± 0.1"`). NumPy scalars and
            one-element tensors become Python numbers, which take a format in the page.

    Raises:
        ValueError: a name that a role cannot hold, or a value that is not finite.
    """
    from myst_nb import glue  # the book's dependency, not the library's

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError(f"want a name of lower-case letters, digits and hyphens, got {name!r}")
    if not isinstance(value, str):
        value = int(value) if isinstance(value, Integral) else float(value)
        if not isfinite(value):
            raise ValueError(f"{name}: want a finite number to quote, got {value}")
    glue(name, value, display=False)
    print(f"{name} = {value:.6g}" if isinstance(value, float) else f"{name} = {value}")
