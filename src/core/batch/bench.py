"""What a grid costs beside its chapters: overhead of a task, two workers, planning many tasks.

The chapter is a small one of its own, so that the kernel's start is nearly all it does.
"""

import copy
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import papermill
from traitlets.config import Config

from core.batch.chapters import find_chapters
from core.batch.cluster import workers_here
from core.batch.drive import Drive
from core.batch.grid import Part, Task, plan, tasks_of, typed_grid
from core.batch.grid_cli import done_before
from core.batch.storage import results_at
from core.batch.task import Orders

Comparison = dict[str, float | str]
TASKS = 8
REPEATS = 5
MANY = 10_000
TOC = "format: jb-book\nroot: intro\nchapters:\n  - file: small\n"
SMALL = """\
# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% tags=["parameters"]
seed: int = 0
wait: float = 0.0

# %%
import time

time.sleep(wait)
"""


def main() -> dict[str, Comparison]:
    """Measure; two or three minutes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "book").mkdir()
        (root / "book" / "_toc.yml").write_text(TOC)
        (root / "book" / "small.py").write_text(SMALL)
        return {
            f"one task, median of {REPEATS}": one_task(root),
            f"{TASKS} tasks that wait three seconds": scaling(root),
            f"planning {MANY:,} tasks": planning(root),
        }


def one_task(root: Path) -> Comparison:
    """Compare a task, handed to a worker, recorded and sealed, with papermill on the same cells."""
    (chapter,) = find_chapters(root, ())
    orders, out = _orders(root, "one"), str(root / "plain.ipynb")
    private = Config(KernelManager={"transport": "ipc"})  # as ours; TCP would warn

    def alone() -> None:
        quiet = {"progress_bar": False, "config": private}
        papermill.execute_notebook(copy.deepcopy(chapter.source), out, cwd=root, **quiet)

    plain, ours = [], []
    with workers_here(1) as client:
        for task in _tasks(root, REPEATS + 1):
            plain.append(_seconds(alone))
            ours.append(_seconds(Drive(client, orders).run, iter([task])))
    papermills, task = statistics.median(plain[1:]), statistics.median(ours[1:])  # 0: imports
    return {"papermill (s)": papermills, "a task (s)": task, "overhead (s)": task - papermills}


def scaling(root: Path) -> Comparison:
    """Compare one worker with two, their start not counted."""
    spent = []
    for count in (1, 2):
        orders = _orders(root, f"with {count}")
        with workers_here(count) as client:
            client.wait_for_workers(count)
            Drive(client, orders).run(iter(_tasks(root, count)))  # imports
            todo = iter(_tasks(root, TASKS, wait="3.0"))
            spent.append(_seconds(Drive(client, orders).run, todo))
    one, two = spent
    return {"one worker (s)": one, "two workers (s)": two, "ratio": one / two}


def planning(root: Path) -> Comparison:
    """Time the plan of many tasks, saved and compared with a folder; and weigh it."""
    results = results_at(str(root / "many"))
    results.open()

    def prepare(number: int) -> None:
        parts = _parts(root, number)
        results.save_plan(tasks_of(parts))
        done_before(parts, results)

    few = _megabytes(prepare, MANY // 10)
    seconds, many = _seconds(prepare, MANY), _megabytes(prepare, MANY)
    return {"seconds": seconds, f"memory at {MANY // 10:,} (MB)": few, "memory (MB)": many}


def _parts(root: Path, number: int, wait: str = "0.0") -> list[Part]:
    seeds = f"0..{number - 1}"
    return plan(root, typed_grid(("small",), ("cpu",), (("wait", wait),), seeds))


def _tasks(root: Path, number: int, wait: str = "0.0") -> list[Task]:
    return list(tasks_of(_parts(root, number, wait)))


def _orders(root: Path, name: str) -> Orders:
    results = results_at(str(root / name))
    results.open()
    return Orders(str(root), results.place)


def _seconds(do: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    do(*arguments)
    return time.perf_counter() - start


def _megabytes(do: Callable[..., object], *arguments: object) -> float:
    """Return the most memory that Python held at a time."""
    tracemalloc.start()
    do(*arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6
