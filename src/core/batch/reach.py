"""Which files a chapter can reach, found without running anything.

The imports are read off the syntax tree, function bodies and strings that name a module included,
and followed through every package of ours: those in `src/` beside the book, and `core` itself.
Whatever lies beside a reached module (a style sheet, a table) counts as reached too, and so do
the measurements among the chapter's evidence. When one of these files changes, the chapter's last
execution is stale.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from core.batch.chapters import Chapter
from core.batch.records import measurements_in
from core.command import Refused

CORE = Path(__file__).resolve().parents[1]


def library_hashes(chapter: Chapter) -> dict[str, str]:
    """Return `file -> sha256` of all the chapter can reach.

    Files of the library are relative to the source folder, measurements to the book's root.

    Raises:
        Refused: a file on the way is no valid Python.
    """
    packages = _packages(chapter.root)
    modules = _follow(chapter.script, packages)
    files = modules | {data for module in modules for data in _data_in(module.parent)}
    names = {_shown(path, packages): path for path in files}
    for path in measurements_in(chapter.root / "book" / "evidence" / chapter.name):
        names[path.relative_to(chapter.root).as_posix()] = path
    return {name: hashlib.sha256(names[name].read_bytes()).hexdigest() for name in sorted(names)}


def _packages(root: Path) -> dict[str, Path]:
    """Return our packages by name: `core`, as the copy beside the book if it has one."""
    beside = {init.parent.name: init.parent for init in (root / "src").glob("*/__init__.py")}
    return {"core": CORE, **beside}


def _shown(path: Path, packages: dict[str, Path]) -> str:
    folder = next(package.parent for package in packages.values() if path.is_relative_to(package))
    return path.relative_to(folder).as_posix()


def _follow(script: Path, packages: dict[str, Path]) -> set[Path]:
    seen: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        found = {f for name in _names(path, packages) for f in _files(name, packages)}
        waiting += found - seen
        seen |= found
    return seen


def _names(path: Path, packages: dict[str, Path]) -> Iterator[str]:
    """Yield every dotted name that the file imports, or that a string in it may name."""
    stat = path.stat()
    for level, name in _mentioned(path, stat.st_mtime_ns, stat.st_size):
        above = _dotted(path, packages).split(".")[:-level] if level else []
        yield ".".join([*above, name])


@cache
def _mentioned(path: Path, mtime_ns: int, size: int) -> tuple[tuple[int, str], ...]:
    """Return the names as they stand there, each with the dots before it; read once a version."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(_tree(path)):
        match node:
            case ast.Import():
                found += ((0, alias.name) for alias in node.names)
            case ast.ImportFrom():
                origin = f"{node.module}." if node.module else ""
                found += ((node.level, f"{origin}{alias.name}") for alias in node.names)
            case ast.Constant(str() as text) if text.replace(".", "").isidentifier():
                found.append((0, text))
    return tuple(found)


def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise Refused(f"{path.name}, line {error.lineno}: {error.msg}") from error


def _dotted(path: Path, packages: dict[str, Path]) -> str:
    """Return the module's dotted name; a package's own file counts as `package.__init__`."""
    return _shown(path.with_suffix(""), packages).replace("/", ".")


def _files(name: str, packages: dict[str, Path]) -> Iterator[Path]:
    """Yield the files that importing `name` runs: each package on the way, then the module."""
    top, *rest = name.split(".")
    folder = packages.get(top)
    if folder is None:
        return
    yield folder / "__init__.py"
    for part in rest:
        if (folder / f"{part}.py").is_file():
            yield folder / f"{part}.py"
            return
        folder = folder / part
        if not (folder / "__init__.py").is_file():
            return
        yield folder / "__init__.py"


def _data_in(folder: Path) -> Iterator[Path]:
    """Yield what is no Python in the folder, and below it up to the next package."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != "__pycache__" and not (path / "__init__.py").is_file():
            yield from _data_in(path)
        elif path.is_file() and path.suffix not in (".py", ".pyc"):
            yield path
