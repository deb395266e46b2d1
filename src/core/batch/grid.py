"""What a grid asks for: chapters x scales x parameters x seeds, as tasks keyed by their content.

A grid is a YAML file with one block, or a list of blocks::

    chapters: [mesa, vrpo]
    scales: [smoke]                 # cpu, the defaults of the chapter, if left out
    parameters: {rate: [0.1, 0.3]}  # every combination; or a list of rows: [{rate: 0.1, T: 8}, ...]
    seeds: 0..9                     # or a list

The key of a task hashes all that its result depends on: the chapter's source, the library files it
can reach, its scale and every parameter. What has a result under its key need not run again.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from core.batch.chapters import Chapter, find_chapters
from core.batch.parameters import (
    DEFAULT_SCALE,
    Parameter,
    defaults_of,
    named_parameter,
    parameters_of,
    scale_values,
)
from core.batch.reach import library_hashes
from core.command import Refused

MOST_SEEDS = 100_000
"""More in one range is a slip of the hand, and would fill the memory."""
FIELDS = ("chapters", "scales", "parameters", "seeds")
Axis = list[dict[str, Any]]
"""The rows of which a task takes one, each some values by name."""


@dataclass(frozen=True)
class Task:
    """One execution that a grid asks for."""

    key: str
    chapter: str
    scale: str
    given: dict[str, Any]
    """What differs by request from the chapter's defaults, the scale's values included."""

    def __str__(self) -> str:
        """Return it as a person would ask for it."""
        values = [f"{name}={value!r}" for name, value in self.given.items()]
        return " ".join([self.chapter, self.scale, *values])


@dataclass(frozen=True)
class Block:
    """Chapters x scales x axes, as read, the values unchecked."""

    where: str
    """File or command line, for messages."""
    chapters: list[str]
    scales: list[str]
    axes: dict[str, Axis]
    """By the name of the field or parameter that they stand under."""
    typed: bool = True
    """False where the values are text from a command line."""


@dataclass(frozen=True)
class Part:
    """The tasks of one chapter at one scale, all values checked."""

    chapter: Chapter
    code: str
    scale: str
    values: dict[str, Any]
    """Defaults, and over them those of the scale."""
    given: dict[str, Any]
    axes: list[Axis]

    def tasks(self) -> Iterator[Task]:
        """Yield them one at a time."""
        for rows in product(*self.axes):
            chosen = {name: value for row in rows for name, value in row.items()}
            key = _key(self.code, self.scale, self.values | chosen)
            yield Task(key, self.chapter.name, self.scale, self.given | chosen)


class _Once(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would drop the first unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise yaml.YAMLError(f"{twice} is given twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def read_grid(path: Path) -> list[Block]:
    """Return the blocks of a grid file.

    Raises:
        Refused: it cannot be read, or is no grid.
    """
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Once)
    except OSError as error:
        raise Refused(f"cannot read the grid {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    blocks = found if isinstance(found, list) and found else [found]
    several = len(blocks) > 1
    names = [f"{path.name}, block {i}" if several else path.name for i in range(1, len(blocks) + 1)]
    return [_block(block, where) for block, where in zip(blocks, names, strict=True)]


def typed_grid(
    chapters: tuple[str, ...],
    scales: tuple[str, ...],
    pairs: tuple[tuple[str, str], ...],
    seeds: str | None,
) -> list[Block]:
    """Return what a command line asks for; a parameter given twice has two values."""
    axes: dict[str, Axis] = {}
    for name, text in pairs:
        axes.setdefault(name, []).append({name: text})
    if seeds is not None:
        axes["seeds"] = [{"seed": str(seed)} for seed in _seeds(seeds.split(","), "--seeds")]
    return [Block("command line", list(chapters), list(scales), axes, typed=False)]


def plan(root: Path, blocks: list[Block]) -> list[Part]:
    """Check every chapter, scale, name and value before anything runs.

    Raises:
        Refused: one of them does not fit; the line says which, and in which row.
    """
    return [part for block in blocks for part in _parts(root, block)]


def tasks_of(parts: list[Part]) -> Iterator[Task]:
    """Yield the tasks one at a time, equal ones once."""
    seen: set[str] = set()
    for part in parts:
        for task in part.tasks():
            if task.key not in seen:
                seen.add(task.key)
                yield task


def key_of(record: Mapping[str, Any]) -> str:
    """Return the key of the task that left the record."""
    code = _code(record["chapter"], record["source"], record["library"])
    return _key(code, record["scale"], record["parameters"])


def key_of_now(task: Task, chapter: Chapter) -> str:
    """Return the key that the task has with the chapter and the library as they stand now."""
    code = _code(chapter.name, chapter.sha256, library_hashes(chapter))
    return _key(code, task.scale, defaults_of(chapter) | task.given)


def _block(found: Any, where: str) -> Block:
    if not isinstance(found, dict):
        raise Refused(f"{where}: want {', '.join(FIELDS)}, got {found!r}")
    for name in found:
        if name not in FIELDS:
            raise Refused(f"{where}: unknown field {name!r}: a grid has {', '.join(FIELDS)}")
    axes = _axes(found.get("parameters", {}), where)
    if "seeds" in found:
        axes["seeds"] = [{"seed": seed} for seed in _seeds(found["seeds"], where)]
    chapters = _names(found.get("chapters"), f"{where}: chapters")
    scales = _names(found.get("scales", [DEFAULT_SCALE]), f"{where}: scales")
    return Block(where, chapters, scales, axes)


def _axes(found: Any, where: str) -> dict[str, Axis]:
    if isinstance(found, list) and found and all(isinstance(row, dict) for row in found):
        return {"parameters": found}
    if not isinstance(found, dict):
        raise Refused(
            f"{where}: parameters: want name: [values], or a list of rows {{name: value}}"
        )
    for name, values in found.items():
        if not isinstance(values, list) or not values:
            raise Refused(f"{where}: parameter {name}: want a list of values, got {values!r}")
    return {name: [{name: value} for value in values] for name, values in found.items()}


def _names(found: Any, where: str) -> list[str]:
    names = [found] if isinstance(found, str) else found
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise Refused(f"{where}: want a list of names, got {found!r}")
    return names


def _seeds(found: Any, where: str) -> list[Any]:
    """Return the seeds of a list, or of a range such as `0..9`, its last one included."""
    seeds = found if isinstance(found, list) else [found]
    if len(seeds) == 1 and isinstance(seeds[0], str):
        first, dots, last = seeds[0].partition("..")
        if dots and first.strip().isdecimal() and last.strip().isdecimal():
            wanted = range(int(first), int(last) + 1)
            if wanted[MOST_SEEDS:]:
                raise Refused(f"{where}: seeds: want {MOST_SEEDS:,} at most, got {seeds[0]!r}")
            seeds = list(wanted)
    if not isinstance(found, list | str) or not seeds:
        raise Refused(f"{where}: seeds: want a list or a range such as 0..9, got {found!r}")
    return seeds


def _parts(root: Path, block: Block) -> Iterator[Part]:
    for name in block.chapters:
        try:
            (chapter,) = find_chapters(root, (name,))
            axes = _checked(chapter, block)
            code = _code(chapter.name, chapter.sha256, library_hashes(chapter))
            for scale in block.scales:
                given = scale_values(chapter, scale)
                yield Part(chapter, code, scale, defaults_of(chapter) | given, given, axes)
        except Refused as why:
            raise Refused(f"{block.where}: {why}") from why


def _checked(chapter: Chapter, block: Block) -> list[Axis]:
    """Return the axes with every value in the type of its parameter."""
    known = parameters_of(chapter)
    read = Parameter.accept if block.typed else Parameter.parse
    owner: dict[str, str] = {}
    axes = []
    for label, axis in block.axes.items():
        rows: Axis = []
        for number, row in enumerate(axis, start=1):
            for name in row:
                if owner.setdefault(name, label) != label:
                    raise Refused(f"{name} is given twice, under {owner[name]} and under {label}")
            try:
                kinds = {name: named_parameter(known, name, chapter.name) for name in row}
                rows.append({name: read(kinds[name], value) for name, value in row.items()})
            except Refused as why:
                raise Refused(f"{label}, row {number}: {why}") from why
        axes.append(rows)
    return axes


def _code(chapter: str, source: str, library: Mapping[str, str]) -> str:
    return _digest([chapter, source, dict(library)])


def _key(code: str, scale: str, values: Mapping[str, Any]) -> str:
    return _digest([code, scale, dict(values)])[:20]


def _digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
