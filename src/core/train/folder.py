"""The folder of a run: what may be in it, whose that is, and what is written to it.

OUT/run.json           options, data, provenance, how it ended and why; written before all else
OUT/log.jsonl          a line for each step
OUT/skipped.jsonl      what of the data was left out, and why
OUT/checkpoints/       the last of them, to resume from
OUT/model/             the result, or another name that the command gives it

Nothing in it that is not of this run is written over or removed.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from core.files import sweep, write_json, write_text
from core.train.checkpoint import check_same, checkpoints

FILES = ("run.json", "log.jsonl", "skipped.jsonl")


class Diverged(Exception):
    """Training came to numbers that are none: the end of the run, and what it found."""


def check_out(out: Path | None, *, resume: bool, results: Iterable[str]) -> None:
    """Refuse a folder that cannot be made, or holds what a run would write over.

    Args:
        out: the folder; need not be there.
        resume: whether a run in it is to be gone on with.
        results: names that results of the command have.

    Raises:
        ValueError: no folder can be there, or it holds something, and that is not to be resumed or
            nothing to resume.
    """
    if out is None:
        raise ValueError("want --out, a folder for the result")
    there = next(p for p in (out, *out.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise ValueError(f"want --out to be a folder, got {out}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(
            f"want --out to be a folder to write in, got {out}: no right to, in {there}"
        )
    held = [name for name in (*FILES, *results) if os.path.lexists(out / name)]
    of_a_run = "run.json" in held or bool(checkpoints(out / "checkpoints"))
    if of_a_run and not resume:
        raise ValueError(
            f"{out} holds a run already: go on with it (--resume), or name another folder"
        )
    if held and not of_a_run:
        raise ValueError(
            f"{out} holds {', '.join(held)} and no run that this is of (no run.json, no "
            "checkpoint): move it away, or name another folder"
        )


class Folder:
    """OUT, with one result in it."""

    def __init__(self, out: Path, *, command: str, result: str) -> None:
        """Stand for a folder that need not be there yet.

        Args:
            out: the folder.
            command: the module that runs, `core.vrpo.train`.
            result: name of what it makes.
        """
        self.out, self.result, self.log = out, out / result, out / "log.jsonl"
        self.command = command

    def check(self, identity: Mapping[str, Any], *, done: int, steps: int) -> bool:
        """Refuse what is of another run, and tell whether this one is done.

        Args:
            identity: what the run is.
            done: steps that its last checkpoint has.
            steps: of all.

        Raises:
            ValueError: run.json or the log is of something else, or the result cannot be the run's.
        """
        told = self._told()
        if told is not None:
            check_same(identity, told["identity"], str(self.out / "run.json"))
            if told.get("status") == "diverged":
                raise Diverged(told["reason"])
            if told.get("status") == "done" and self.result.exists():
                return True
        self.lines()
        if os.path.lexists(self.result) and done < steps:
            raise ValueError(
                f"{self.result} is there, and the run has done {done} of {steps} steps: it is of "
                "something else; move it away, or name another folder"
            )
        return False

    def begin(
        self, done: int, skipped: Iterable[Mapping[str, Any]], record: Mapping[str, Any]
    ) -> None:
        """Write the record, and log and list as they were after so many steps.

        Raises:
            ValueError, OSError: see `lines`, or it could not be written.
        """
        kept = [line for line in self.lines() if line["step"] <= done]
        self.out.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            sweep(self.out, re.escape(name))
        self.tell(record)
        self._write("log.jsonl", kept)
        listed = list(skipped)
        if listed:
            self._write("skipped.jsonl", listed)

    @contextmanager
    def telling(self, record: Callable[..., Mapping[str, Any]], *, first: bool) -> Iterator[None]:
        """Write to run.json how what happens inside ends, and let its error pass.

        Args:
            record: from status, seconds and reason to what to write.
            first: whether this process writes.

        Raises:
            OSError: something could not be written; the message says how to go on.
        """
        began = time.monotonic()

        def tell(status: str, reason: str | None = None) -> None:
            if first:
                self.tell(record(status, time.monotonic() - began, reason))

        try:
            yield
            tell("done")
        except BaseException as error:
            with suppress(OSError):  # what went wrong may be the disk
                tell(_status(error), (str(error) or type(error).__name__).splitlines()[0])
            if isinstance(error, OSError):
                hint = "mend that, and --resume goes on from the last checkpoint"
                raise OSError(f"{error}: {hint}") from error
            raise

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of the log; a kill may have cut the last.

        Raises:
            ValueError: a whole line is not of a run's log.
        """
        raw = self.log.read_bytes().splitlines(keepends=True) if self.log.exists() else []
        return [self._line(i, x) for i, x in enumerate(raw, 1) if x.endswith(b"\n")]

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        with self.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def tell(self, record: Mapping[str, Any]) -> None:
        """Write run.json."""
        write_json(self.out / "run.json", {"command": self.command, **record})

    def _told(self) -> dict[str, Any] | None:
        path = self.out / "run.json"
        try:
            told = json.loads(path.read_bytes()) if path.exists() else None
        except ValueError:  # no JSON, or no UTF-8
            told = {}
        if told is None:
            return None
        ours = isinstance(told, dict) and told.get("command") == self.command
        if not ours or not isinstance(told.get("identity"), dict):
            raise ValueError(
                f"{path} is not what this command writes: move it away, or name another folder"
            )
        return told

    def _line(self, number: int, raw: bytes) -> dict[str, Any]:
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise ValueError(
                f"{self.log}:{number} is no line of a run's log: mend or remove the line, or move "
                "the file away"
            )
        return line

    def _write(self, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
        # in ASCII: a name of a file may hold what no UTF-8 has
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_text(self.out / name, text)


def _status(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "diverged" if isinstance(error, Diverged) else "failed"
