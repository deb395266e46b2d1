"""Sphinx extension: an indented block in a docstring is a formula, shown as it is typed.

Docstrings here write formulas in ASCII, indented. To reStructuredText that is a quotation in
which `x*y*z` becomes italics; this turns the block into a literal one.
"""

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Register, before napoleon (priority 500) rewrites the sections."""
    app.connect("autodoc-process-docstring", keep_formulas, priority=400)
    return {"parallel_read_safe": True}


def keep_formulas(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Put `::` before each indented block that follows a blank line and plain prose."""
    for at in range(len(lines) - 1, 1, -1):
        opens = lines[at].startswith("    ") and not lines[at - 1].strip()
        prose = lines[at - 2].strip() and not lines[at - 2].startswith(" ")
        if opens and prose and not lines[at - 2].endswith("::"):
            lines[at - 1 : at] = ["", "::", ""]
