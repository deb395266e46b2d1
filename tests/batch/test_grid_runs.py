"""Grids that run on workers here, alone or side by side, and what stops or spoils them."""

import errno
import hashlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
from tiny_book import add_cell, batch, batch_process, edit
from tiny_cluster import PATIENCE, kernels_of, until

from core.batch.folder import Folder
from core.batch.grid import plan, tasks_of, typed_grid
from core.batch.task import Orders, Outcome, perform
from core.command import Refused

LOG = (
    "import os\nopen('../log', 'a').write(f'{seed} {os.environ.get(\"CUDA_VISIBLE_DEVICES\")}\\n')"
)
FRAGILE = f"{LOG}\nassert seed != 1 or os.path.exists('../ok'), 'not yet'"


def run(root: Path, *arguments: str, **options):
    return batch_process(root, "grid", "tiny", *arguments, timeout=PATIENCE, **options)


def begun(root: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in (root / "log").read_text().splitlines())


def test_a_folder_that_a_worker_may_not_write_ends_the_grid_in_one_line(book, monkeypatch):
    def forbidden(self, key):
        raise PermissionError(errno.EACCES, "Permission denied", "results/work")

    monkeypatch.setattr(Folder, "claim", forbidden)
    with pytest.raises(Refused, match=r"^cannot write to results/work: Permission denied$"):
        perform(the_task(book), Orders(str(book), str(book / "results")))


def the_task(root: Path):
    (task,) = tasks_of(plan(root, typed_grid(("tiny",), ("cpu",), (), None)))
    return task


@pytest.fixture
def ran(once, refreshed) -> Path:
    """A book with one result in `_build/grid`, as a grid would have left it."""
    results = Folder(str(refreshed / "_build" / "grid"))
    results.open()
    task = the_task(refreshed)
    results.save_plan([task])
    with results.claim(task.key) as scratch:
        assert scratch
        for suffix in (".ipynb", ".json"):
            (refreshed / "_build" / "run" / f"tiny{suffix}").rename(scratch / f"tiny{suffix}")
        results.publish(scratch, task.key)
    return refreshed


@pytest.mark.grid
def test_a_failure_is_retried_and_kept_while_the_rest_goes_on(book):
    add_cell(book, FRAGILE)
    first = run(book, "--seeds", "0..2", "--retries", "1", "-j", "1")
    assert first.returncode == 1, first.stderr
    failed, counted = first.stdout.splitlines()[1:]
    assert failed.startswith("tiny cpu seed=1: failed at line ")
    assert "AssertionError: not yet; kept in " in failed
    assert counted == "2 of 3 tasks done, the rest failed"
    assert begun(book) == {"0": 1, "1": 2, "2": 1}
    kept = Path(failed.rpartition("kept in ")[2])
    left = {path.name for path in kept.iterdir()}
    assert left == {"seal.json", "tiny.failed.ipynb", "tiny.failed.json"}
    told = batch(book, "status").stdout.splitlines()
    assert told[0] == "3 tasks: 2 done, 0 running, 1 failed, 0 waiting"
    assert told[1].startswith("tiny cpu seed=1: failed at line ")

    (book / "ok").touch()
    again = run(book, "--seeds", "0..2", "--gpu", env={"CUDA_VISIBLE_DEVICES": "7"})
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout == "3 tasks, 2 of them done before\n1 of 1 tasks done\n"
    assert begun(book) == {"0": 1, "1": 3, "2": 1}
    assert (book / "log").read_text().splitlines()[-1] == "1 7"  # the worker's own GPU
    assert not kept.exists()
    assert batch(book, "results").stdout.count("\ntiny,cpu,") == 3


@pytest.mark.grid
def test_two_clients_on_one_folder_share_the_work(book):
    add_cell(book, LOG)
    command = [sys.executable, "-m", "core.batch", "grid", "tiny", "--seeds", "0..5", "-j", "1"]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    clients = [subprocess.Popen(command, cwd=book, **both) for _ in range(2)]
    said = [client.communicate(timeout=PATIENCE) for client in clients]
    assert [client.returncode for client in clients] == [0, 0], said
    assert begun(book) == dict.fromkeys("012345", 1)
    assert batch(book, "status", "--verify").stdout.startswith("6 tasks: 6 done")


@pytest.mark.grid
def test_ctrl_c_stops_the_workers_and_their_kernels(book):
    add_cell(book, "import time; time.sleep(300)")
    command = [sys.executable, "-m", "core.batch", "grid", "tiny", "-j", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    client = subprocess.Popen(command, cwd=book, start_new_session=True, **quiet)
    until(lambda: kernels_of(book))
    below = psutil.Process(client.pid).children(recursive=True)
    os.killpg(client.pid, signal.SIGINT)  # as a terminal does: to all of them
    assert client.communicate(timeout=PATIENCE)[1].strip() == "interrupted"
    assert client.returncode == 130
    until(lambda: not any(process.is_running() for process in below))
    until(lambda: not kernels_of(book))
    assert batch(book, "status").stdout == "1 tasks: 0 done, 0 running, 0 failed, 1 waiting\n"


@pytest.mark.grid
def test_a_full_disk_ends_the_grid_in_one_line(book):
    add_cell(book, "print('x\\n' * 20_000)")

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    ended = run(book, "--seeds", "0..3", "-j", "1", preexec_fn=small_files)
    assert ended.returncode == 2, ended.stdout
    (line,) = [line for line in ended.stderr.splitlines() if not line.endswith(" left")]
    assert line.startswith("refused: the disk is full ([Errno 27] File too large")
    assert not Folder(str(book / "_build" / "grid")).done()


@pytest.mark.parametrize("method", ["claim", "publish"])
def test_a_disk_that_is_full_when_a_result_is_kept_is_refused(book, monkeypatch, method):
    results = Folder(str(book / "out"))
    results.open()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Folder, method, full)
    with pytest.raises(Refused, match=r"the disk is full .*No space left on device.*make room"):
        perform(the_task(book), Orders(str(book), results.place))


def test_the_folder_of_results_is_that_of_the_book_wherever_one_stands(ran, monkeypatch):
    from_root = batch(ran, "status").stdout
    assert from_root == "1 tasks: 1 done, 0 running, 0 failed, 0 waiting\n"
    assert batch(ran / "book", "status").stdout == from_root
    assert batch(ran / "book", "grid", "tiny").stdout == "1 tasks, 1 of them done before\n"
    assert not (ran / "book" / "_build").exists()


@pytest.mark.parametrize("command", ["status", "results", "plot", "study", "grid tiny --out"])
def test_a_file_is_no_folder_of_results(ran, command):
    ended = batch(ran, *command.split(), "book/intro.md")
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert "book/intro.md" in ended.stderr


def test_what_another_process_executes_is_left_to_it(book):
    results = Folder(str(book / "out"))
    results.open()
    task, orders = the_task(book), Orders(str(book), str(book / "out"))
    with results.claim(task.key):
        assert perform(task, orders) == Outcome("busy")
        assert results.in_work() == {task.key}
    assert results.in_work() == set()
    assert list(results.work.iterdir()) == []


def test_the_first_result_stays(ran, monkeypatch):
    task, orders = the_task(ran), Orders(str(ran), str(ran / "_build" / "grid"))
    monkeypatch.setattr("core.batch.task.execute", None)  # nothing may be executed
    assert perform(task, orders) == Outcome("done")


def test_a_chapter_that_changed_since_is_not_executed(book):
    task, orders = the_task(book), Orders(str(book), str(book / "out"))
    edit(book / "book" / "tiny.py", "Sec. 1", "Sec. 2")
    Folder(orders.results).open()
    with pytest.raises(Exception, match=r"book/tiny\.py or the library it reaches is not what was"):
        perform(task, orders)


def test_a_scheduler_that_does_not_answer_is_refused(book, monkeypatch):
    monkeypatch.setattr("core.batch.cluster.WAIT", "1s")
    ended = batch(book, "grid", "tiny", "--scheduler", "tcp://127.0.0.1:9")
    assert ended.returncode == 2
    assert ended.stderr.startswith("refused: no dask scheduler answers at tcp://127.0.0.1:9 within")
    assert ended.stderr.count("\n") == 1


def test_a_scheduler_that_takes_calls_and_is_silent_is_refused(book, monkeypatch):
    monkeypatch.setattr("core.batch.cluster.WAIT", "1s")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        ended = batch(book, "grid", "tiny", "--scheduler", address)
    assert ended.returncode == 2
    assert batch(book, "status").stdout.startswith("0 tasks")  # what was asked for before
    assert ended.stderr.startswith(f"refused: no dask scheduler answers at {address} within 1s")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda done: edit(done / "tiny.json", '"here": "3.5"', '"here": "3.6"'), "tiny.json is"),
        (lambda done: edit(done / "seal.json", "tiny.json", "tiny.jso"), "seal.json is"),
        (lambda done: (done / "seal.json").unlink(), "seal.json is"),
        (lambda done: (done / "tiny.json").unlink(), "tiny.json is"),
    ],
    ids=["record-edited", "seal-edited", "seal-gone", "record-gone"],
)
@pytest.mark.parametrize("command", ["grid tiny", "results"])
def test_a_result_edited_by_hand_is_refused_and_left(ran, command, spoil, said):
    (done,) = (ran / "_build" / "grid" / "done").iterdir()
    spoil(done)
    names = {path.name for path in done.iterdir()}
    ended = batch(ran, *command.split())
    assert ended.returncode == 2
    assert f"{said} not what the task left (hash mismatch): restore it, or move" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert {path.name for path in done.iterdir()} == names


def test_a_record_under_the_key_of_another_is_refused(ran):
    (done,) = (ran / "_build" / "grid" / "done").iterdir()
    done.rename(done.with_name("0" * 20))
    ended = batch(ran, "results", "--all")
    assert (ended.returncode, ended.stderr.count("hash mismatch")) == (2, 1)


def test_an_edited_notebook_is_found_when_all_is_verified(ran):
    (done,) = (ran / "_build" / "grid" / "done").iterdir()
    assert batch(ran, "status", "--verify").returncode == 0
    edit(done / "tiny.ipynb", "A die is fair", "A die is loaded")
    assert batch(ran, "status").returncode == 0
    assert "tiny.ipynb is not what the task left" in batch(ran, "status", "--verify").stderr


@pytest.mark.parametrize("command", ["grid tiny", "status", "results", "plot"])
def test_results_of_another_version_are_refused(ran, command):
    (ran / "_build" / "grid" / "format.json").write_text(json.dumps({"format": 99}))
    ended = batch(ran, *command.split())
    assert ended.returncode == 2
    assert "has format 99, and this version of core.batch 1: name another folder" in ended.stderr


@pytest.mark.parametrize("text", [b"x{\n", b'{"key": "a"}\n', b"[1]\n", b"\xff"], ids=repr)
def test_a_plan_edited_by_hand_is_refused_and_written_anew(ran, text):
    (ran / "_build" / "grid" / "plan.jsonl").write_bytes(text)
    for command in ("status", "results", "plot"):
        ended = batch(ran, command)
        assert ended.returncode == 2
        assert "plan.jsonl is not what a grid left: give the command of the gr" in ended.stderr
        assert ended.stderr.count("\n") == 1
    assert batch(ran, "grid", "tiny").returncode == 0
    assert batch(ran, "status").stdout.startswith("1 tasks: 1 done")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"failure": null}', '{"failure": {"line": 1}}'])
def test_a_failure_edited_by_hand_is_refused(ran, text):
    kept = ran / "_build" / "grid" / "failed" / ("0" * 20)
    kept.mkdir(parents=True)
    (kept / "tiny.failed.json").write_text(text)
    files = {"tiny.failed.json": hashlib.sha256(text.encode()).hexdigest()}
    (kept / "seal.json").write_text(json.dumps({"key": kept.name, "files": files}))
    ended = batch(ran, "status")
    assert ended.returncode == 2
    assert "tiny.failed.json is not what the task left: remove that folder" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_record_that_lacks_a_field_is_refused_though_its_seal_was_edited_too(ran):
    (done,) = (ran / "_build" / "grid" / "done").iterdir()
    (done / "tiny.json").write_text('{"chapter": "tiny"}')
    seal = json.loads((done / "seal.json").read_text())
    seal["files"]["tiny.json"] = hashlib.sha256((done / "tiny.json").read_bytes()).hexdigest()
    (done / "seal.json").write_text(json.dumps(seal))
    ended = batch(ran, "results")
    assert (ended.returncode, ended.stderr.count("hash mismatch")) == (2, 1)


def test_what_a_file_manager_hides_in_the_folder_is_no_result(ran):
    (ran / "_build" / "grid" / "done" / ".DS_Store").touch()
    assert batch(ran, "status", "--verify").stdout == batch(ran, "status").stdout
    assert batch(ran, "results", "--all").stdout.count("\ntiny,cpu,") == 1
