"""Hand tasks to a cluster, a window at a time, and keep count of what comes back.

The tasks are never all in memory, and nothing of them outlives this process but the results: a
grid is resumed by running it again.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from core.batch.cluster import GPU
from core.batch.grid import Task
from core.batch.task import Orders, Outcome, perform
from core.command import Refused

if TYPE_CHECKING:
    from distributed import Client, Future

WINDOW = 500  # tasks handed over at a time: many workers may join, and the memory stays the same
PATIENCE = 15.0  # seconds, for the first worker to come
PAUSE = 1.0  # seconds before asking again for what another process is at


class SchedulerLost(Exception):
    """The scheduler, or the way to it, is gone; results are where they were."""


@dataclass
class Tally:
    """What has become of the tasks so far."""

    done: int = 0
    failed: list[tuple[Task, str]] = field(default_factory=list)
    """Those that failed as often as they were tried, each with why."""


@dataclass
class Drive:
    """One grid on its way through a cluster."""

    client: "Client"
    orders: Orders
    retries: int = 0
    gpu: bool = False
    tell: Callable[[Tally], None] = lambda tally: None
    """Told each time that a task has ended."""
    say: Callable[[str], None] = print
    """Told what the reader should know meanwhile."""
    tally: Tally = field(default_factory=Tally)
    _running: dict["Future", Task] = field(default_factory=dict)
    _parked: list[Task] = field(default_factory=list)
    _failures: dict[str, int] = field(default_factory=dict)

    def run(self, tasks: Iterator[Task]) -> Tally:
        """Have all tasks executed.

        Raises:
            Refused: a worker cannot go on: see `task.perform`.
            SchedulerLost: the scheduler has gone.
        """
        from distributed import as_completed

        if self.gpu:
            self._expect_gpus()
        ended = as_completed(loop=self.client.loop)
        for task in islice(tasks, WINDOW):
            ended.add(self._submit(task))
        self._expect_workers()
        while self._running or self._parked:
            if not self._running:
                time.sleep(PAUSE)
                self._unpark(ended)
            future = next(ended)
            if self._settle(self._running.pop(future), future):
                for task in islice(tasks, 1):
                    ended.add(self._submit(task))
                self._unpark(ended)
        return self.tally

    def _expect_workers(self) -> None:
        """Say that nobody works, where no worker has come; one may yet."""
        try:
            self.client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            what = "tasks wait, and none is lost; start workers, or look at the cluster's queue"
            self.say(f"no worker has come within {PATIENCE:g} seconds: {what}")

    def _expect_gpus(self) -> None:
        """Refuse to wait for a GPU among workers that have none; where none is yet, some may."""
        there = self.client.scheduler_info(n_workers=-1)["workers"].values()
        if there and not any(worker["resources"].get(GPU) for worker in there):
            raise Refused(f"no worker has a GPU: start them with --resources {GPU}=1")

    def _submit(self, task: Task) -> "Future":
        resources = {GPU: 1} if self.gpu else None
        future = self.client.submit(perform, task, self.orders, pure=False, resources=resources)
        self._running[future] = task
        return future

    def _unpark(self, ended: Any) -> None:
        parked, self._parked = self._parked, []
        for task in parked:
            ended.add(self._submit(task))

    def _settle(self, task: Task, future: "Future") -> bool:
        """Note what came of a task; return whether anything did."""
        outcome = _outcome(future)
        if outcome.state == "failed":
            failures = self._failures[task.key] = self._failures.get(task.key, 0) + 1
            if failures > self.retries:
                self.tally.failed.append((task, outcome.said))
            else:
                self._parked.append(task)
        elif outcome.state == "busy":
            self._parked.append(task)
        else:
            self.tally.done += 1
        self.tell(self.tally)
        return outcome.state != "busy"


def _outcome(future: "Future") -> Outcome:
    from distributed import CancelledError, KilledWorker

    try:
        return future.result()
    except Refused:
        raise
    except CancelledError as error:
        raise SchedulerLost("the scheduler is gone") from error
    except KilledWorker:
        return Outcome("failed", "its worker died each time, as when memory runs out")
    except Exception as error:  # of the worker itself: the rest goes on
        return Outcome("failed", f"{type(error).__name__}: {' '.join(str(error).split())}")
