"""Records one by one out of JSON Lines, Parquet, or a folder of either; each with its place."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Record(NamedTuple):
    """One record, or why there is none."""

    where: str
    """File and line, or row, from 1."""
    row: dict[str, Any] | None
    reason: str = ""
    """What is wrong with a record that is None."""


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a file, or of a folder's files by name. Blank lines are no records.

    Raises:
        ValueError: there is nothing to read, or the package that reads it is missing.
    """
    for file in _files(path):
        try:
            yield from _READERS[file.suffix](file)
        except ImportError as missing:
            raise ValueError(f"{file}: to read this, install {missing.name}") from missing
        except OSError as error:
            raise ValueError(f"{file}: cannot be read: {error.strerror or error}") from error


def _files(path: Path) -> list[Path]:
    known = ", ".join(sorted(_READERS))
    if not path.exists():
        raise ValueError(f"want preferences, a file or a folder, found nothing at {path}")
    if not path.is_dir():
        if path.suffix not in _READERS:
            raise ValueError(f"want preferences as one of {known}, got {path}")
        return [path]
    # `datasets` keeps caches beside the data
    files = sorted(p for p in path.iterdir() if _readable(p) and not p.name.startswith("cache-"))
    kinds = {file.suffix for file in files}
    if len(kinds) > 1:
        raise ValueError(
            f"{path}: got files of several kinds, {', '.join(sorted(kinds))}: name one"
        )
    if not files:
        below = sorted(
            p.name for p in path.iterdir() if p.is_dir() and any(map(_readable, p.iterdir()))
        )
        hint = f": name one of its folders, {', '.join(below)}" if below else ""
        raise ValueError(f"{path}: want one of {known} in it, found none{hint}")
    return files


def _readable(path: Path) -> bool:
    return path.suffix in _READERS and path.is_file()


def _lines(file: Path) -> Iterator[Record]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield _parsed(f"{file.name}:{number}", text)


def _parsed(where: str, text: bytes) -> Record:
    try:
        row = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Record(where, None, f"broken line: want UTF-8, got byte {error.start} that is none")
    except (json.JSONDecodeError, RecursionError) as error:
        return Record(where, None, f"broken line: want one JSON object, got {error}")
    except ValueError:  # thousands of digits, which Python refuses to read
        return Record(where, None, "broken line: want token ids, got a number of too many digits")
    if not isinstance(row, dict):
        return Record(where, None, f"want one JSON object, got {type(row).__name__}")
    if b"\\ud" in text.lower() and not _is_unicode(row):
        return Record(where, None, "broken line: want Unicode text, got half of a surrogate pair")
    return Record(where, row)


def _is_unicode(row: dict[str, Any]) -> bool:
    """Tell whether UTF-8 can hold all that JSON's escapes have spelt."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet(file: Path) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: not a Parquet file: {error}") from error
    yield from _rows(file, table)


def _arrow(file: Path) -> Iterator[Record]:
    """Read what `datasets` saves to disk."""
    import pyarrow as pa

    try:
        table = pa.ipc.open_stream(file).read_all()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: not an Arrow stream: {error}") from error
    yield from _rows(file, table)


def _rows(file: Path, table: Any) -> Iterator[Record]:
    number = 0
    for part in table.to_batches(max_chunksize=1000):
        for row in part.to_pylist():
            number += 1
            yield Record(f"{file.name}:{number}", {k: v for k, v in row.items() if v is not None})


_READERS = {".jsonl": _lines, ".ndjson": _lines, ".parquet": _parquet, ".arrow": _arrow}
