"""Processes of a grid are really killed, and the same command then finishes it."""

from collections import Counter
from pathlib import Path

import pytest
from tiny_book import add_cell, batch, everything_in
from tiny_cluster import PATIENCE, a_cluster, kernels_of, until

from core.batch.folder import Folder
from core.batch.grid import key_of, plan, tasks_of, typed_grid

LOG = "open('../log', 'a').write(f'{seed}\\n')"
GRID = ("tiny", "--seeds", "0..23")


def begun(root: Path) -> Counter[str]:
    """Return how often the chapter began with each seed."""
    log = root / "log"
    return Counter(log.read_text().split() if log.exists() else ())


def kill_worker(root: Path) -> None:
    """Kill the process that executes a chapter, not its kernel."""
    parents = [kernel.parent() for kernel in kernels_of(root)]
    next(p for p in parents if p and "spawn_main" in " ".join(p.cmdline())).kill()


@pytest.mark.grid
def test_whoever_is_killed_nothing_is_lost_and_nothing_is_done_twice(book, tmp_path):
    add_cell(book, LOG)
    results = Folder(str(book / "_build" / "grid"))
    seed_of = {
        task.key: str(task.given["seed"])
        for task in tasks_of(plan(book, typed_grid(("tiny",), ("cpu",), (), "0..23")))
    }
    kept: dict[str, bytes] = {}

    def more(number: int) -> None:
        """Wait for so many more results."""
        goal = len(results.done()) + number
        until(lambda: len(results.done()) >= goal)

    def nothing_was_lost() -> None:
        """Compare with the results there were; remember those there are."""
        now = everything_in(book / "_build" / "grid" / "done")
        assert kept.items() <= now.items()
        kept.update(now)

    with a_cluster(tmp_path / "cluster") as cluster:
        first = cluster.client(book, *GRID)
        more(3)
        first.kill()
        first.communicate()
        nothing_was_lost()

        second = cluster.client(book, *GRID)
        more(3)
        until(lambda: kernels_of(book))
        kill_worker(book)
        more(3)
        cluster.scheduler.kill()
        assert "the scheduler is gone" in second.communicate(timeout=PATIENCE)[0]
        assert second.returncode == 1
        until(lambda: not kernels_of(book))

        cluster.stop()  # a worker without its scheduler may still publish what it had executed
        nothing_was_lost()
        done, before = results.done(), begun(book)
        assert len(done) < 24
        cluster.start()
        third = cluster.client(book, *GRID)
        assert (
            third.communicate()[0].splitlines()[0] == f"24 tasks, {len(done)} of them done before"
        )
        assert third.returncode == 0

    nothing_was_lost()
    assert results.done() == set(seed_of)
    for key, seed in seed_of.items():
        results.verify(key)
        assert key_of(results.record(key)) == key
        assert results.record(key)["parameters"]["seed"] == int(seed)
        if key in done:
            assert begun(book)[seed] == before[seed]
    assert sum(begun(book).values()) <= 24 + 2 * 3  # two workers were at something, three times
    assert results.failures() == {}
    assert list((book / "_build" / "grid" / "work").iterdir()) == []
    until(lambda: not kernels_of(book))
    assert batch(book, "status").stdout == "24 tasks: 24 done, 0 running, 0 failed, 0 waiting\n"
