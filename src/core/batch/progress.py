"""Show what runs: bars in a terminal, a line now and then anywhere else."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
)
from rich.progress import TimeElapsedColumn as Elapsed
from rich.progress import TimeRemainingColumn as Remaining

PAUSE = 5.0  # seconds between two plain lines of one chapter


class Bars:
    """A display of bars; enter it to show them. Without a terminal there are none."""

    def __init__(self, console: Console | None, *columns: ProgressColumn) -> None:
        """Show on `console`, standard error if it is not given."""
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        terminal = self.console.is_terminal
        self.bars = Progress(*columns, console=self.console, disable=not terminal)

    def __enter__(self) -> Self:
        """Start the bars."""
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the bars."""
        self.bars.stop()

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self.console.print(line, markup=False)


class Show(Bars):
    """Call it with a chapter, the cells done and the cells in all; enter it to show bars."""

    def __init__(self, console: Console | None = None) -> None:
        """Show on `console`, standard error if it is not given."""
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("cell"))
        super().__init__(console, *columns, MofNCompleteColumn(), Elapsed())
        self.tasks: dict[str, TaskID] = {}
        self.began: dict[str, float] = {}
        self.told: dict[str, float] = {}

    def __call__(self, chapter: str, done: int, total: int) -> None:
        """Show that `done` of `total` cells have run."""
        if chapter not in self.tasks:
            self.tasks[chapter] = self.bars.add_task(chapter, total=total)
            self.began[chapter] = time.monotonic()
        self.bars.update(self.tasks[chapter], completed=done)
        if self.console.is_terminal or time.monotonic() - self.told.get(chapter, 0.0) < PAUSE:
            return
        self.told[chapter] = time.monotonic()
        elapsed = time.monotonic() - self.began[chapter]
        self.say(f"{chapter}: cell {min(done + 1, total)} of {total}, {elapsed:.0f} s")


class ShowTasks(Bars):
    """Call it with the tasks done, those that failed, and those in all; enter it to show a bar."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        """Show on `console`, standard error if it is not given."""
        columns = (TextColumn("tasks"), BarColumn(), MofNCompleteColumn(), Elapsed(), Remaining())
        super().__init__(console, *columns, TextColumn("{task.description}"))
        self.total = total
        self.task = self.bars.add_task("", total=total)
        self.began = self.told = time.monotonic()

    def __call__(self, done: int, failed: int) -> None:
        """Show that so many have ended; the time left is at the speed so far."""
        ended, now = done + failed, time.monotonic()
        failures = f"{failed} failed" if failed else ""
        self.bars.update(self.task, completed=ended, description=failures)
        if self.console.is_terminal or (now - self.told < PAUSE and ended < self.total):
            return
        self.told = now
        left = (now - self.began) / ended * (self.total - ended) if ended else 0.0
        told = [
            f"{ended} of {self.total} tasks",
            failures,
            f"about {left:.0f} s left" if left else "",
        ]
        self.say(", ".join(filter(None, told)))
