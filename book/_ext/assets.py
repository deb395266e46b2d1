"""Sphinx extension: a page is shown before its scripts are there, and says what it is about.

Sphinx and the theme name their scripts so that a browser waits for each; none is needed before the
text is read. MathJax is left out where no equation is, and Thebe, which Jupyter Book brings, is
left out: it would fetch a kernel from the network. Entries of the bibliography are items of a list,
as ARIA 1.2 has it, where docutils still writes the role that it took out.
"""

import html
import textwrap
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

AT_ONCE = "documentation_options.js"
"""What a line in the page needs at once."""
LONG = 160
"""Characters of a description that search engines show."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register, after those (priority 500) who add scripts to a page."""
    app.connect("html-page-context", lighten, priority=900)
    app.connect("html-page-context", describe, priority=900)
    app.connect("html-page-context", list_entries, priority=900)
    return {"parallel_read_safe": True}


def lighten(
    app: Sphinx,
    page: str,
    _template: str,
    context: dict[str, Any],
    _doctree: nodes.document | None,
) -> None:
    """Defer the scripts of a page; deferred ones keep their order.

    Not those of the search, whose template calls them while the page is read.
    """
    equations = app.env.get_domain("math").has_equations(page)  # type: ignore[attr-defined]
    kept = []
    for script in context["script_files"]:
        name, given = str(script.filename or ""), script.attributes
        if "thebe" in name or "THEBE" in given.get("body", ""):
            continue
        if "mathjax" in name and not equations:
            continue
        at_once = page == "search" or not name or name.endswith(AT_ONCE)
        if not at_once and not {"async", "defer"} & {*given}:
            # a new one: pages share them
            script = type(script)(
                script.filename, priority=script.priority, **given, defer="defer"
            )
        kept.append(script)
    context["script_files"] = kept


def describe(
    _app: Sphinx,
    _page: str,
    _template: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Describe a page by its first paragraph."""
    if doctree is None:
        return
    told = (
        p for p in doctree.findall(nodes.paragraph) if "executed" not in p["classes"]
    )
    if (first := next(told, None)) is None:
        return
    text = html.escape(textwrap.shorten(first.astext(), LONG, placeholder=" …"))
    context["metatags"] += f'\n<meta name="description" content="{text}" />'


def list_entries(
    _app: Sphinx,
    _page: str,
    _template: str,
    context: dict[str, Any],
    _doctree: nodes.document | None,
) -> None:
    """Make the entries of a bibliography items of the list that docutils puts them into."""
    if "body" in context:
        context["body"] = context["body"].replace("doc-biblioentry", "listitem")
