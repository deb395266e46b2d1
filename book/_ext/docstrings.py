"""Sphinx extension: show docstrings and annotations as they stand in the code.

Docstrings here are plain text for people who read the file: formulas in ASCII, indented; code in
single backticks; a symbol of the paper as `$...$`. None of it is meant as reStructuredText, in
which `|x|` is a substitution and `a*b*c` becomes italics.
"""

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.autodoc.mock import _make_subclass, _MockObject
from sphinx.util.typing import stringify_annotation


def setup(app: Sphinx) -> dict[str, bool]:
    """Register, before napoleon (priority 500) rewrites the sections."""
    app.connect("autodoc-process-docstring", as_plain_text, priority=400)
    for method, shown in {
        "__or__": either,
        "__ror__": either,
        "__getitem__": of,
    }.items():
        setattr(_MockObject, method, shown)
    return {"parallel_read_safe": True}


def as_plain_text(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Rewrite the docstring in place: formulas to literal blocks, prose without markup."""
    shown: list[str] = []
    formula = False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not formula and follows_prose(shown):
            shown += [] if shown[-2].endswith("::") else ["::", ""]
            formula = True
        formula = formula and (indented or not line.strip())
        shown.append(line if formula else without_markup(line))
    # napoleon takes what stands before a colon in an attribute's first line for its type:
    # an empty comment is a first line without one
    lines[:] = (
        ["..", "", *shown] if what in ("attribute", "data", "property") else shown
    )


def follows_prose(above: list[str]) -> bool:
    """Return whether a blank line stands above, and over it plain text, no body of a section."""
    if len(above) < 2 or above[-1].strip():
        return False
    return bool(above[-2].strip()) and not above[-2].startswith(" ")


def without_markup(line: str) -> str:
    """Escape what reStructuredText would obey, outside of code and formulas."""
    parts = re.split(r"(`[^`]*`|\$[^$]+\$)", line)
    parts[::2] = [
        re.sub(r"([\\|]|\*(?! )|_(?!\w))", r"\\\1", part) for part in parts[::2]
    ]
    parts[1::2] = [f":math:`{p[1:-1]}`" if p[0] == "$" else p for p in parts[1::2]]
    return "".join(parts)


def either(mock: Any, other: Any) -> Any:
    """Let the type of a package that is not installed stand in a union: `Tensor | None`."""
    name = f"{mock.__name__} | {stringify_annotation(other, 'smart')}"
    return _make_subclass(name, mock.__module__)()


def of(mock: Any, key: Any) -> Any:
    """Let such a type have parameters: `NDArray[float64]`."""
    keys = key if isinstance(key, tuple) else (key,)
    inside = ", ".join(getattr(k, "__name__", str(k)) for k in keys)
    return _make_subclass(f"{mock.__name__}[{inside}]", mock.__module__)()
