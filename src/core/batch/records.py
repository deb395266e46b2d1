"""The record beside a notebook: what ran, where it came from, what it found.

`record.schema.json` says what each field means; other tools may rely on it.
"""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

Record = dict[str, Any]

# fields that differ between two executions of equal result
CIRCUMSTANCES = ("provenance", "library", "started", "seconds", "cells", "seal")


@cache
def schema() -> dict[str, Any]:
    """Return the JSON Schema of a record."""
    return json.loads(Path(__file__).with_name("record.schema.json").read_text(encoding="utf-8"))


def faults(record: Any) -> list[str]:
    """Return where a record departs from the schema, one line each."""
    found = Draft202012Validator(schema()).iter_errors(record)
    return [f"{error.json_path}: {error.message}" for error in found]


def read_record(path: Path) -> Record | None:
    """Return the record, None where there is no such file or it is no JSON object."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def runs_in(folder: Path) -> list[Path]:
    """Return the records of runs that a folder of evidence has, broken ones too, in order."""
    return [path for path in _evidence_in(folder) if mark_of(read_record(path)) is None]


def measurements_in(folder: Path) -> list[Path]:
    """Return what benches left in a folder of evidence, in order; it is no record of a run."""
    return [path for path in _evidence_in(folder) if mark_of(read_record(path)) == "bench"]


def mark_of(found: Record | None) -> str | None:
    """Return the field that tells a bench's measurement or a study over seeds from a record."""
    return next((mark for mark in ("bench", "study") if mark in (found or {})), None)


def text_of(record: Record) -> str:
    """Return the record as it is written for a whole result.

    Raises:
        ValueError: it departs from the schema.
    """
    wrong = faults(record)
    if wrong:
        raise ValueError(f"the record of {record.get('chapter')} is not valid: {'; '.join(wrong)}")
    return dumped(record)


def dumped(record: Record) -> str:
    """Return the record as JSON, valid or not, its fields in the order of the schema, sealed."""
    sealed = record | {"seal": seal_of(record)}
    ordered = {key: sealed[key] for key in schema()["properties"] if key in sealed}
    return json.dumps(ordered, indent=1, ensure_ascii=False) + "\n"


def seal_of(found: Record) -> str:
    """Return the hash of a record or a study, but for the field that keeps it."""
    sealed = {key: value for key, value in found.items() if key != "seal"}
    text = json.dumps(sealed, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def broken_seal(found: Record) -> str | None:
    """Return what is wrong with the seal of a record or a study, None if nothing is."""
    if "seal" not in found:
        return "it has no seal, as older versions left it"
    return None if found["seal"] == seal_of(found) else "it was edited by hand: its seal is broken"


def result_of(record: Record) -> Record:
    """Return the record without the circumstances, to be compared with another one."""
    return {key: value for key, value in record.items() if key not in CIRCUMSTANCES}


def _evidence_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))
