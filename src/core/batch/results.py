"""A folder of results: the only memory of a grid, so that every process of it may be killed.

    format.json             which version of this layout
    plan.jsonl              the tasks that were asked for last, a line each
    done/KEY/               notebook, record, and a seal with the hash of each
    failed/KEY/             the same of a task that failed, whose notebook ends there
    work/KEY/, KEY.lock     what is being executed, out of sight

A result appears whole or not at all, and is never replaced. Who executes a task holds its lock,
which the system takes back when the process dies. `folder` keeps this on a disk; `bucket` keeps
it in a bucket of S3-compatible storage, where less can be promised of a lock.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.batch.grid import Task, key_of
from core.batch.records import Record
from core.command import Refused

FORMAT = 1
DONE, FAILED, SEAL = "done", "failed", "seal.json"


class Results(ABC):
    """What any place of results can do; a room is one of `done` and `failed`."""

    def __init__(self, place: str) -> None:
        """Name the place; nothing is read or written."""
        self.place = place

    @abstractmethod
    def names(self, room: str = "") -> set[str]:
        """Return what stands in a room; nothing where there is none."""

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """Return a file, None where there is none."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Write a file, whole or not at all."""

    @abstractmethod
    def put(self, scratch: Path, room: str, key: str) -> None:
        """Move a finished folder into a room; into `done`, the first one stays."""

    @abstractmethod
    def drop(self, room: str, key: str) -> None:
        """Remove what stands under the key, if anything does."""

    @abstractmethod
    def claim(self, key: str) -> AbstractContextManager[Path | None]:
        """Give an empty folder to execute the task in, None while another process does."""

    @abstractmethod
    def in_work(self) -> set[str]:
        """Return the keys that some living process has claimed."""

    def path_of(self, key: str, name: str, sealed: str) -> str:
        """Return where a file of a result stands; `sealed` is its hash."""
        return f"{DONE}/{key}/{name}"

    def open(self) -> None:
        """Begin the folder, or go on with it.

        Raises:
            Refused: it cannot be written, holds something else, or is of another version.
        """
        try:
            if self.read("format.json") is None and self.names():
                raise Refused(f"{self.place} holds something else: name a new folder")
            if self.read("format.json") is None:
                self.write("format.json", json.dumps({"format": FORMAT}).encode())
        except OSError as error:
            raise Refused(f"cannot write to {self.place}: {error.strerror or error}") from error
        self.check()

    def check(self) -> None:
        """Make sure that this is a folder of results, of this version.

        Raises:
            Refused: it is not.
        """
        found = _parsed(self.read("format.json"))
        if not isinstance(found, dict) or "format" not in found:
            raise Refused(f"{self.place} is no folder of results: it has no format.json")
        if found["format"] != FORMAT:
            version = f"has format {found['format']!r}, and this version of core.batch {FORMAT}"
            raise Refused(f"{self.place} {version}: name another folder")

    def save_plan(self, tasks: Iterable[Task]) -> None:
        """Remember what was asked for, for `status`."""
        lines = "".join(json.dumps(asdict(task)) + "\n" for task in tasks)
        try:
            self.write("plan.jsonl", lines.encode())
        except OSError as error:
            raise Refused(f"cannot write to {self.place}: {error.strerror or error}") from error

    def plan(self) -> list[Task]:
        """Return what was asked for last.

        Raises:
            Refused: the plan was changed since.
        """
        try:
            lines = (self.read("plan.jsonl") or b"").decode().splitlines()
            return [Task(**json.loads(line)) for line in lines]
        except (ValueError, TypeError) as error:
            what = "is not what a grid left: give the command of the grid again, to write it anew"
            raise Refused(f"{self.place}/plan.jsonl {what}") from error

    def done(self) -> set[str]:
        """Return the keys that have a result."""
        return self.names(DONE)

    def is_done(self, key: str) -> bool:
        """Return whether the task has a result."""
        return self.read(f"{DONE}/{key}/{SEAL}") is not None

    def publish(self, scratch: Path, key: str) -> None:
        """Seal what the folder holds, and make it the result of the task."""
        _write_seal(scratch, key)
        self.put(scratch, DONE, key)
        self.drop(FAILED, key)

    def keep_failure(self, scratch: Path, key: str) -> None:
        """Seal what the folder holds, and keep it as what a task that failed has left."""
        _write_seal(scratch, key)
        self.put(scratch, FAILED, key)

    def record(self, key: str) -> Record:
        """Return the record of a result.

        Raises:
            Refused: it is not what the task left.
        """
        seal = self._seal(key)
        name = next((name for name in seal if name.endswith(".json")), SEAL)
        record = _parsed(self._sealed(key, name, seal.get(name)))
        if not _is_of(record, key):
            raise self._edited(key, name)
        return record

    def records(self, keys: Iterable[str]) -> Iterator[tuple[str, Record]]:
        """Yield the record of each result, in order.

        Raises:
            Refused: one is not what the task left.
        """
        yield from ((key, self.record(key)) for key in keys)

    def verify(self, key: str) -> None:
        """Make sure that every file of a result is what the task left.

        Raises:
            Refused: one is not.
        """
        for name, sealed in self._seal(key).items():
            self._sealed(key, name, sealed)

    def failures(self) -> dict[str, Record]:
        """Return the records of tasks that failed, by key.

        Raises:
            Refused: one was changed since.
        """
        found = {}
        for key in sorted(self.names(FAILED) - self.done()):
            for name, sealed in _files(self.read(f"{FAILED}/{key}/{SEAL}")).items():
                data = self.read(f"{FAILED}/{key}/{name}") if name.endswith(".json") else None
                if data is None:  # no record, or it is on its way, or was dropped just now
                    continue
                found[key] = _parsed(data)
                if _hash(data) != sealed or not _is_of(found[key], key):
                    what = "is not what the task left: remove that folder"
                    raise Refused(f"{self.place}/{FAILED}/{key}/{name} {what}")
        return found

    def _seal(self, key: str) -> dict[str, str]:
        files = _files(self.read(f"{DONE}/{key}/{SEAL}"))
        if not files:
            raise self._edited(key, SEAL)
        return files

    def _sealed(self, key: str, name: str, sealed: str | None) -> bytes:
        data = self.read(self.path_of(key, name, sealed)) if isinstance(sealed, str) else None
        if data is None or _hash(data) != sealed:
            raise self._edited(key, name)
        return data

    def _edited(self, key: str, name: str) -> Refused:
        where = f"{self.place}/{DONE}/{key}"
        what = "is not what the task left (hash mismatch)"
        return Refused(
            f"{where}/{name} {what}: restore it, or move that folder away to run it again"
        )


def _write_seal(scratch: Path, key: str) -> None:
    hashes = {path.name: _hash(path.read_bytes()) for path in sorted(scratch.iterdir())}
    (scratch / SEAL).write_text(json.dumps({"key": key, "files": hashes}, indent=1))


def _files(seal: bytes | None) -> dict[str, str]:
    found = _parsed(seal)
    files = found.get("files") if isinstance(found, dict) else None
    return files if isinstance(files, dict) else {}


def _is_of(record: Any, key: str) -> bool:
    try:
        return key_of(record) == key
    except (KeyError, TypeError):
        return False


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _parsed(data: bytes | None) -> Any:
    try:
        return json.loads(data or b"")
    except ValueError:
        return None
