"""Sphinx extension: show docstrings and annotations as they stand in the code."""

from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.autodoc.mock import _make_subclass, _MockObject
from sphinx.util.typing import stringify_annotation


def setup(app: Sphinx) -> dict[str, bool]:
    """Register, before napoleon (priority 500) rewrites the sections."""
    app.connect("autodoc-process-docstring", keep_formulas, priority=400)
    _MockObject.__or__ = _MockObject.__ror__ = either
    return {"parallel_read_safe": True}


def keep_formulas(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Make a literal block of each indented one: a formula in ASCII, not a quotation.

    Such a block follows a blank line and prose that is not indented. An attribute's docstring
    gets a blank first line, or napoleon takes what stands before a colon for its type.
    """
    for at in range(len(lines) - 1, 1, -1):
        opens = lines[at].startswith("    ") and not lines[at - 1].strip()
        prose = lines[at - 2].strip() and not lines[at - 2].startswith(" ")
        if opens and prose and not lines[at - 2].endswith("::"):
            lines[at - 1 : at] = ["", "::", ""]
    if what in ("attribute", "data", "property"):
        lines.insert(0, "")


def either(mock: Any, other: Any) -> Any:
    """Let the type of a package that is not installed stand in a union: `Tensor | None`."""
    name = f"{mock.__name__} | {stringify_annotation(other, 'smart')}"
    return _make_subclass(name, mock.__module__)()
