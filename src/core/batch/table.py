"""One tidy table of many runs: a row for each claim of each run, parameters as columns."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from core.batch.records import Record
from core.command import Refused
from core.files import replace, write_text

Row = dict[str, Any]
FIRST = ("chapter", "scale", "seed")
LAST = (
    *("status", "claim", "statement", "verdict", "expected", "value", "here", "paper", "source"),
    *("seconds", "started", "commit", "device", "key"),
)
NUMBER = re.compile(r"(?<![\w.])[-+]?[0-9][0-9,]*(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?")


def rows_of(records: Iterable[tuple[str, Record]]) -> Iterator[Row]:
    """Yield the rows of records, each with its key; a run without claims has one row."""
    for key, record in records:
        run = {
            name: record[name]
            for name in ("chapter", "scale", "seed", "status", "seconds", "started")
        }
        run |= {name: record["provenance"][name] for name in ("commit", "device")}
        given = {n: value for n, value in record["parameters"].items() if n != "seed"}
        run |= {"key": key, **{f"parameter.{name}": value for name, value in given.items()}}
        for claim in record["claims"] or [{}]:
            names = ("statement", "verdict", "expected", "here", "paper", "source")
            said = {name: claim.get(name) for name in names}
            numbers = numbers_in(claim.get("here"))
            value = numbers[0] if len(numbers) == 1 else None
            yield {**run, **said, "claim": claim.get("id"), "value": value}


def numbers_in(here: str | None) -> list[float]:
    """Return the numbers in the text of what came out, in its order."""
    return [float(found.replace(",", "")) for found in NUMBER.findall(here or "")]


def columns_of(rows: list[Row]) -> list[str]:
    """Return the names of the columns, in order."""
    parameters = {name for row in rows for name in row if name.startswith("parameter.")}
    return [*FIRST, *sorted(parameters), *LAST]


def as_csv(rows: list[Row], columns: list[str] | None = None) -> str:
    """Return the table as CSV; a list or a mapping is JSON in its cell.

    Args:
        rows: of claims, or of anything whose columns are named.
        columns: names of the columns, those of claims if left out.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = columns or columns_of(rows)
    table.writerow(columns)
    for row in rows:
        table.writerow([_plain(row.get(name)) for name in columns])
    return text.getvalue()


def write_table(rows: list[Row], path: Path, columns: list[str] | None = None) -> None:
    """Write the table as what the name ends in, `.csv` or `.parquet`; its columns as in `as_csv`.

    Raises:
        Refused: it ends in something else, or Parquet cannot be written here.
    """
    columns = columns or columns_of(rows)
    try:
        if path.suffix == ".csv":
            write_text(path, as_csv(rows, columns))
        elif path.suffix == ".parquet":
            replace(path, lambda part: _write_parquet(rows, part, columns))
        else:
            raise Refused(f"{path}: a table is .csv or .parquet")
    except OSError as error:
        raise Refused(f"cannot write {path}: {error.strerror or error}") from error


def _write_parquet(rows: list[Row], path: Path, names: list[str]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise Refused("Parquet needs pyarrow: pip install 'papers-executed[cluster]'") from error
    columns = {name: _one_type([row.get(name) for row in rows]) for name in names}
    pyarrow.parquet.write_table(pa.table(columns), path)


def _one_type(values: list[Any]) -> list[Any]:
    """Return the values as they are if they are of one simple type, else as text."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds <= {int, float} or (len(kinds) == 1 and kinds <= {str, bool}):
        return [float(v) if len(kinds) > 1 and v is not None else v for v in values]
    return [None if value is None else str(_plain(value)) for value in values]


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
