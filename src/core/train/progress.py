"""Show how far a training is: a bar in a terminal, a line now and then anywhere else; with ETA."""

import time
from itertools import pairwise
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PAUSE = 10.0  # seconds between two plain lines


class Show:
    """Call it with the steps done and what to tell of the last; enter it to show a bar."""

    def __init__(
        self,
        what: str,
        total: int,
        *,
        done: int = 0,
        quiet: bool = False,
        console: Console | None = None,
    ) -> None:
        """Show progress on `console`, standard error if it is not given.

        Args:
            what: the unit, in one word: step, batch.
            total: how many there are.
            done: how many were done before.
            quiet: show nothing, as on all ranks but one.
            console: where to show.
        """
        self.what, self.total, self.done, self.quiet = what, total, done, quiet
        self.start = done
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task(what, total=total, completed=done, told="")
        self.began = self.last = time.monotonic()

    def __enter__(self) -> Self:
        """Start the bar."""
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the bar."""
        self.bar.stop()

    def __call__(self, done: int, told: str = "") -> None:
        """Show that so many are done in all; `told` is of the last, such as its loss."""
        self.done = done
        self.bar.update(self.task, completed=done, told=told)
        now = time.monotonic()
        if self.quiet or self.console.is_terminal:
            return
        if now - self.last < PAUSE and done < self.total:
            return
        self.last = now
        each = (now - self.began) / max(1, done - self.start)
        line = [f"{self.what} {done} of {self.total}", told, f"{each:.3g} s each"]
        left = f"{spoken((self.total - done) * each)} left" if done < self.total else ""
        self.say(", ".join(part for part in (*line, left) if part))

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if not self.quiet:
            self.console.print(line, markup=False)


def spoken(seconds: float) -> str:
    """Return a time as a person says it, to two units: 41 s, 4 min 40 s, 3 h 5 min, 2 d 4 h."""
    left = round(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (name, size), (below, part) in pairwise(units):
        if left >= size:
            rest = left % size // part
            return f"{left // size} {name}" + (f" {rest} {below}" if rest else "")
    return f"{left} s"
