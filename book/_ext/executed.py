"""Sphinx extension: below the title of an executed page, how long it takes, on what, and the files.

The numbers come from the record beside the notebook, so that they are those of the run that is
shown. Where `_config.yml` names a repository, the page also says what Colab has to install.
"""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import download_reference
from sphinx.application import Sphinx
from sphinx.config import Config

from core.batch.circumstances import date, duration, machine

BOOTSTRAP = (
    "!git clone --depth 1 {} papers && pip install './papers[all]'",
    "%cd papers/src",
)
"""In a clone: some pages show measurements that stand beside the book."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register, before Sphinx (priority 500) looks for what can be downloaded."""
    app.connect("config-inited", launch_from_repository_alone)
    app.connect("doctree-read", tell, priority=400)
    return {"parallel_read_safe": True}


def launch_from_repository_alone(app: Sphinx, config: Config) -> None:
    """Drop the buttons of Colab and Binder where no repository is named: the theme breaks on them."""
    if not config.html_theme_options.get("repository_url"):
        config.html_theme_options.pop("launch_buttons", None)


def tell(app: Sphinx, doctree: nodes.document) -> None:
    """Put the line below the first title, where a record stands beside the page."""
    page = Path(app.env.doc2path(app.env.docname))
    record = page.with_suffix(".json")
    title = next(doctree.findall(nodes.title), None)
    if title is None or not record.is_file():
        return
    app.env.note_dependency(str(record))
    told = json.loads(record.read_text(encoding="utf-8"))
    files = [
        nodes.Text(" Download: "),
        download(page.with_suffix(".py"), "script"),
        nodes.Text(", "),
        download(page.with_suffix(".ipynb"), "notebook"),
        nodes.Text("."),
        *bootstrap(app.config.html_theme_options),
    ]
    line = nodes.paragraph(
        "",
        f"About {duration(told)} on {machine(told)}; executed on {date(told)}.",
        nodes.inline("", "", *files, classes=["downloads"]),
        classes=["executed"],
    )
    title.parent.insert(title.parent.index(title) + 1, line)


def download(path: Path, text: str) -> nodes.Node:
    """Return a link that downloads a file beside the page."""
    return download_reference("", text, reftarget=path.name)


def bootstrap(theme: dict[str, Any]) -> list[nodes.Node]:
    """Return what to run first on Colab, nothing where the page has no button for it."""
    if not theme.get("launch_buttons", {}).get("colab_url"):
        return []
    return [
        nodes.Text(" On Colab, first run "),
        nodes.literal("", BOOTSTRAP[0].format(theme["repository_url"])),
        nodes.Text(" and "),
        nodes.literal("", BOOTSTRAP[1]),
        nodes.Text("."),
    ]
