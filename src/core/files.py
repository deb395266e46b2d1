"""Files and folders that are whole or not there.

What is written stands under a temporary name beside its place, is flushed to the disk, and renamed:
a kill or a full disk at any moment leaves what was there before. The temporary name of `tiny.json`
is `tiny.json.part.PID`: who looks for `*.json` does not find it, and `sweep` knows what a process
left that was killed. A name without `.part.` is always a whole file.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# writers that go by a suffix have one behind
PART = re.compile(r"(?P<name>.+)\.part\.(?P<pid>\d{1,9})(\.\w+)?")


def part_of(path: Path) -> Path:
    """Return the temporary name under which this process writes `path`."""
    return path.with_name(f"{path.name}.part.{os.getpid()}")


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file as a whole or not at all.

    Args:
        path: the file, in a folder that exists.
        write: writes what the file shall hold to the temporary path that it is given.

    Raises:
        OSError: it could not be written; what was there before still is.
    """
    _replace({path: write})


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all; see `replace`."""
    replace(path, lambda part: part.write_bytes(data))


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all, in UTF-8; see `replace`."""
    write_all({path: text})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object as a whole or not at all; see `replace`."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_all(texts: Mapping[Path, str]) -> None:
    """Write files that belong together: none is renamed before all of them are written.

    Args:
        texts: path -> what it shall hold.

    Raises:
        OSError: a file could not be written; none of them was replaced then.
    """
    _replace({path: _writer(text) for path, text in texts.items()})


@contextmanager
def whole_folder(path: Path, *, over: bool = False) -> Iterator[Path]:
    """Give a new folder to write to; it becomes `path` in one step, or not at all.

    What a killed process left of it is removed first.

    Args:
        path: the folder, in one that exists.
        over: whether it replaces what stands there; else nothing may, but an empty folder.

    Raises:
        OSError: it could not be written, or something stands there; what was there still is.
    """
    sweep(path.parent, re.escape(path.name))
    part = part_of(path)
    shutil.rmtree(part, ignore_errors=True)  # of a killed process that had the same number
    part.mkdir()
    try:
        yield part
        for written in (*part.rglob("*"), part):
            flush(written)
        if over and path.exists():
            _exchange(part, path)
        else:
            os.replace(part, path)
        flush(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk before anything else happens."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path, names: str) -> None:
    """Remove what processes that are no more left half-written, and nothing else.

    Args:
        folder: where it is.
        names: a regular expression of the names that were to be written.
    """
    for path in list(folder.iterdir()):
        part = PART.fullmatch(path.name)
        if part and re.fullmatch(names, part["name"]) and not _lives(int(part["pid"])):
            _remove(path)


def _replace(writers: Mapping[Path, Callable[[Path], object]]) -> None:
    try:
        for path, write in writers.items():
            write(part_of(path))
            flush(part_of(path))
        for path in writers:
            os.replace(part_of(path), path)
        for folder in {path.parent for path in writers}:
            flush(folder)
    finally:
        for path in writers:
            part_of(path).unlink(missing_ok=True)


def _writer(text: str) -> Callable[[Path], object]:
    return lambda part: part.write_text(text, encoding="utf-8")


def _exchange(part: Path, path: Path) -> None:
    """Put a folder where another one stands, which comes back if that fails."""
    old = path.with_name(f"{path.name}.old.{os.getpid()}")
    try:
        os.replace(path, old)
        os.replace(part, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(old, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True
