"""The file of a plan: JSON, beside a checkpoint."""

import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

from core.files import write_text
from core.mup.rules import Entry
from core.mup.source import source_of

FILE = "mup_plan.json"
FORMAT = "core.mup plan 1"


def write(plan: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write what `Plan.as_dict` gives, whole or not at all; return the file.

    Raises:
        ValueError: the configuration holds what JSON cannot.
    """
    file = _file(path)
    try:
        text = json.dumps(plan, indent=1)
    except TypeError as error:
        raise ValueError(f"the configuration cannot be saved as JSON: {error}") from error
    write_text(file, text + "\n")
    return file


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the fields of the plan in a file.

    Raises:
        ValueError: it is no such file.
    """
    file = _file(path)
    try:
        found = json.loads(file.read_text())
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']!r}")
        return {
            "model_class": source_of(found["model"], missing_ok=True),
            "config": found["config"],
            "ratios": {key: Fraction(ratio) for key, ratio in found["ratios"].items()},
            "follows": {key: tuple(by) for key, by in found["follows"].items()},
            "mup": {name: _entry(entry) for name, entry in found["entries"].items()},
            "axes": {name: (pair[0], pair[1]) for name, pair in found["axes"].items()},
            "parametrization": found["parametrization"],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no plan of this version ({FORMAT}): {error}") from error


def _file(path: str | os.PathLike[str]) -> Path:
    return Path(path) / FILE if Path(path).is_dir() else Path(path)


def _entry(entry: dict[str, Any]) -> Entry:
    return Entry(**{**entry, "shape": tuple(entry["shape"]), "fans": tuple(entry["fans"])})
