"""Sets of records, by where they are: a file, a folder, a folder of results, a revision of git."""

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from core.batch.records import Record, faults, mark_of
from core.batch.storage import is_address, results_at
from core.command import Refused

FIELDS = {"chapter", "claims"}  # what has these is meant as a record


def records_at(place: str, root: Path) -> list[Record]:
    """Return the records at a place, each valid, whatever else lies there left out.

    Where a failed run and a whole one stand side by side, the later one counts.

    Args:
        place: a record, a folder with records in it and below, a folder of results of `grid`, or a
            revision of git, whose `book` is meant.
        root: the folder with the book.

    Raises:
        Refused: there is no such place or no record there, or one is torn or not valid.
    """
    path = Path(place)
    if is_address(place) or (path / "format.json").is_file():
        results = results_at(place)
        results.check()
        whole = [record for _, record in results.records(sorted(results.done()))]
        found = [*whole, *results.failures().values()]
    else:
        texts = _files(path) if path.exists() else _committed(place, root)
        found = list(_records(texts))
    if not found:
        raise Refused(f"{place}: no record there")
    return found


def _files(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and text of each JSON file, in order."""
    try:
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            if not any(part.startswith(".") for part in file.relative_to(path).parts):
                yield str(file), file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"cannot read {path}: {error}") from error


def _committed(revision: str, root: Path) -> Iterator[tuple[str, str]]:
    """Yield the same of the book at a revision."""
    known = _git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if known is None:
        raise Refused(f"{revision}: no such file or folder, and no revision of git")
    names = _git(root, "ls-tree", "-r", "-z", "--name-only", known.strip(), "book") or ""
    for name in names.split("\0"):
        if name.endswith(".json"):
            yield f"{revision}:{name}", _git(root, "show", f"{known.strip()}:./{name}") or ""


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def _records(texts: Iterable[tuple[str, str]]) -> Iterator[Record]:
    latest: dict[str, Record] = {}
    for name, text in texts:
        try:
            found = json.loads(text)
        except ValueError as error:
            raise Refused(f"{name} is no JSON: {error}") from error
        if not isinstance(found, dict) or mark_of(found) or not found.keys() >= FIELDS:
            continue
        wrong = faults(found)
        if wrong:
            raise Refused(f"{name} is no valid record, {wrong[0]}")
        stem = name.removesuffix(".json").removesuffix(".failed")
        latest[stem] = max(latest.get(stem, found), found, key=lambda record: record["started"])
    yield from latest.values()
