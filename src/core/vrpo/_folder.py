"""The folder of a run: what may be in it, whose that is, and what is written to it.

OUT/run.json           options, data, provenance, how it ended and why; written before all else
OUT/log.jsonl          a line for each step
OUT/skipped.jsonl      lines of the data that were left out, and why
OUT/checkpoints/       the last of them, to resume from
OUT/model/             the trained model in LLaDA's layout, or OUT/adapters/ with --lora

Nothing in it that is not of this run is written over or removed.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.train.checkpoint import check_same, checkpoints, replace, sweep, write_json
from core.vrpo.preferences import Bad

COMMAND = "core.vrpo.train"
FILES = ("run.json", "log.jsonl", "skipped.jsonl")
RESULTS = ("model", "adapters")


def check_out(out: Path | None, *, resume: bool) -> None:
    """Refuse a folder that cannot be made, or holds what a run would write over.

    Args:
        out: the folder; need not be there.
        resume: whether a run in it is to be gone on with.

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
    held = [name for name in (*FILES, *RESULTS) if os.path.lexists(out / name)]
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

    def __init__(self, out: Path, *, result: str) -> None:
        """Stand for a folder that need not be there yet.

        Args:
            out: the folder.
            result: one of `RESULTS`.
        """
        self.out, self.result, self.log = out, out / result, out / "log.jsonl"

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
            if told.get("status") == "done" and self.result.exists():
                return True
        self.lines()
        if os.path.lexists(self.result) and done < steps:
            raise ValueError(
                f"{self.result} is there, and the run has done {done} of {steps} steps: it is of "
                "something else; move it away, or name another folder"
            )
        return False

    def begin(self, done: int, skipped: Iterable[Bad], record: Mapping[str, Any]) -> None:
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
        listed = [bad._asdict() for bad in skipped]
        if listed:
            self._write("skipped.jsonl", listed)

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
        write_json(self.out / "run.json", {"command": COMMAND, **record})

    def sweep_results(self) -> None:
        """Remove what processes that were killed as they wrote a result left."""
        for left in self.out.iterdir():
            if re.fullmatch(rf"\.{self.result.name}\.\d+\.partial", left.name):
                shutil.rmtree(left, ignore_errors=True)

    def _told(self) -> dict[str, Any] | None:
        path = self.out / "run.json"
        try:
            told = json.loads(path.read_bytes()) if path.exists() else None
        except ValueError:  # no JSON, or no UTF-8
            told = {}
        if told is None:
            return None
        ours = isinstance(told, dict) and told.get("command") == COMMAND
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
        replace(self.out / name, lambda part: _put(part, text))


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
