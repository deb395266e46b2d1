"""Samples of several sources from a file of comma-separated values."""

import csv
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Samples(NamedTuple):
    """What a file holds."""

    x: NDArray[np.float64]
    """`[n, d]`."""
    source: NDArray[np.str_]
    """`[n]`."""
    columns: list[str]


def read_samples(path: Path, *, by: str, columns: list[str] | None, delimiter: str) -> Samples:
    """Return the samples of a file whose first line names its columns.

    Args:
        path: of the file, UTF-8.
        by: the column that says which source a line is from.
        columns: those of numbers to read; None for all others.
        delimiter: between two values.

    Raises:
        ValueError: there is no such column, or a value is missing or no number (with its line).
        OSError: the file cannot be read.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            return _samples(csv.reader(file, delimiter=delimiter), path, by, columns)
        except UnicodeDecodeError:
            raise ValueError(f"{path}: want text in UTF-8: save it as CSV UTF-8") from None
        except csv.Error as error:
            raise ValueError(f"{path}: want lines of values, got {error}") from None


def _samples(lines: Any, path: Path, by: str, columns: list[str] | None) -> Samples:
    header = [name.strip() for name in next(lines, [])]
    if not any(header):
        raise ValueError(f"{path}: want a first line with the columns' names, got none")
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise ValueError(f"{path}: want each column once, got {', '.join(sorted(twice))} twice")
    wanted = [name for name in header if name != by] if columns is None else columns
    missing = [name for name in [by, *wanted] if name not in header]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}; there are {', '.join(header)}")
    if not wanted or by in wanted:
        raise ValueError(f"{path}: want columns of numbers beside {by!r}")
    at, source, rows = [header.index(name) for name in wanted], [], []
    for line in lines:
        if not any(line):
            continue
        where = f"{path}, line {lines.line_num}"
        if len(line) != len(header):
            raise ValueError(f"{where}: want {len(header)} values, got {len(line)}")
        label = line[header.index(by)].strip()
        if not label:
            raise ValueError(f"{where}: want a source in column {by!r}, got none")
        source.append(label)
        rows.append([_number(line[j], header[j], where) for j in at])
    if not rows:
        raise ValueError(f"{path}: want samples, got a first line only")
    return Samples(np.array(rows), np.array(source), wanted)


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(
            f"{where}: want a number in column {column!r}, got {text.strip()!r}: leave the line "
            "out, or name the columns of numbers with --columns"
        )
    return value
