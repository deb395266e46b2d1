"""Find the book, and the chapters in it: `book/_toc.yml` is the only list.

A chapter is an entry of the table of contents that has a `.py` beside it, a jupytext percent
script; `paper chapters` are those of the part with the caption "Papers".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jupytext
import yaml
from nbformat import NotebookNode

from core.batch.notebook import code_hash
from core.command import Refused

PAPERS = "Papers"


@dataclass(frozen=True)
class Chapter:
    """One executed page of the book, and the files that belong to it."""

    root: Path
    """The repository: the folder that holds `book/`."""
    name: str
    """The entry in `_toc.yml`, such as `mesa`."""
    is_paper: bool
    """Stands in the part "Papers", and so has a ledger of claims."""

    @property
    def script(self) -> Path:
        """The source, a percent script."""
        return self.root / "book" / f"{self.name}.py"

    @property
    def notebook(self) -> Path:
        """The committed execution."""
        return self.script.with_suffix(".ipynb")

    @property
    def record(self) -> Path:
        """The committed record of that execution."""
        return self.script.with_suffix(".json")

    @cached_property
    def text(self) -> str:
        """The script, read once: what is hashed is what is run."""
        return self.script.read_bytes().decode()

    @cached_property
    def source(self) -> NotebookNode:
        """The script as a notebook that never ran."""
        return jupytext.reads(self.text, fmt="py:percent")

    @property
    def sha256(self) -> str:
        """The hash of its code, by which a record says what it is a record of.

        Prose is none of it: a sentence that is mended makes no number older.
        """
        return code_hash(self.source)

    @property
    def title(self) -> str:
        """The first heading, which states the finding; the name where there is none."""
        prose = (cell.source for cell in self.source.cells if cell.cell_type == "markdown")
        lines = (line for text in prose for line in text.splitlines())
        return next((line[2:].strip() for line in lines if line.startswith("# ")), self.name)


def find_root(start: Path) -> Path:
    """Return the nearest folder from `start` upward that holds `book/_toc.yml`.

    Raises:
        Refused: there is none.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / "book" / "_toc.yml").is_file():
            return folder
    raise Refused(f"no book/_toc.yml in {start} or above: go to the folder of the book")


def all_chapters(root: Path) -> list[Chapter]:
    """Return the chapters in the order of the book.

    Raises:
        Refused: the table of contents is no YAML.
    """
    entries = _entries(_toc(root), part="")
    found = [Chapter(root, name, part == PAPERS) for name, part in entries]
    return [chapter for chapter in found if chapter.script.is_file()]


def find_chapters(root: Path, names: tuple[str, ...]) -> list[Chapter]:
    """Return the chapters with these names, or all when none is named.

    Raises:
        Refused: a name is not in the table of contents, or has no script.
    """
    known = {chapter.name: chapter for chapter in all_chapters(root)}
    for name in names:
        if name not in known:
            raise Refused(f"unknown chapter {name!r}: the book has {', '.join(known) or 'none'}")
    return [known[name] for name in dict.fromkeys(names)] or list(known.values())


def _toc(root: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load((root / "book" / "_toc.yml").read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise Refused(f"book/_toc.yml is no YAML: {' '.join(str(error).split())}") from error


def _entries(node: Any, part: str) -> Iterator[tuple[str, str]]:
    """Walk the table of contents: yield each file with the caption of the part it stands in."""
    if isinstance(node, list):
        for item in node:
            yield from _entries(item, part)
    elif isinstance(node, dict):
        part = node.get("caption", part)
        for key in ("root", "file"):
            if key in node:
                yield node[key], part
        for key in ("parts", "chapters", "sections"):
            yield from _entries(node.get(key, []), part)
