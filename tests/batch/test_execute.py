"""A whole result or a marked failure: each way a run can end is really done here."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny_book import add_cell, batch, batch_process, everything_in

from core.batch.chapters import find_chapters
from core.batch.execute import Job, execute
from core.batch.records import faults

KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
SLEEP = "import time; time.sleep(60)"


def job_of(root: Path) -> Job:
    """Return the job that runs the tiny chapter into `out`, in this process."""
    return Job(find_chapters(root, ("tiny",))[0], root / "out")


def with_result(root: Path, once: Path) -> tuple[Path, dict[str, bytes]]:
    """Lay a good result of the tiny chapter into `out`; return that folder with what is in it."""
    shutil.copytree(once / "_build" / "run", root / "out")
    return root / "out", everything_in(root / "out")


def failure_of(out: Path) -> dict:
    """Return what the record of the failed run says, having checked it against the schema."""
    record = json.loads((out / "tiny.failed.json").read_text())
    assert faults(record) == []
    assert record["status"] == "failed"
    return record["failure"]


def started(root: Path, command: str) -> tuple[subprocess.Popen, Path]:
    """Start the batch on a chapter that sleeps; return once the cell runs, with the folder."""
    add_cell(root, SLEEP)
    out = root / ("_build/runs/tiny/cpu" if command == "run" else "_build/run")
    runner = subprocess.Popen(
        [sys.executable, "-m", "core.batch", command, "tiny"],
        cwd=root,
        start_new_session=True,  # a shell's background job would ignore SIGINT and prove nothing
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        if any(runs(part, SLEEP) for part in out.glob("tiny.ipynb.part.*.ipynb")):
            return runner, out
        time.sleep(0.05)
    raise AssertionError("the cell never started")


def runs(part: Path, code: str) -> bool:
    """Say whether papermill has saved the notebook with this cell running."""
    try:
        cells = json.loads(part.read_text())["cells"]
    except (OSError, ValueError):
        return False
    running = (c for c in cells if c["metadata"].get("papermill", {}).get("status") == "running")
    return code in ("".join(cell["source"]) for cell in running)


def below(runner: subprocess.Popen) -> list[psutil.Process]:
    """Return the processes that the runner started, a kernel among them."""
    found = psutil.Process(runner.pid).children(recursive=True)
    assert any("ipykernel_launcher" in " ".join(process.cmdline()) for process in found)
    return found


def all_gone(processes: list[psutil.Process]) -> bool:
    """Wait for the processes to end."""
    return not psutil.wait_procs(processes, timeout=20)[1]


@pytest.mark.parametrize(
    ("code", "options", "error", "line"),
    [
        ("ready = 1\nmissing", (), "NameError", "missing"),
        (KILL, (), "DeadKernelError", KILL),
        (SLEEP, ("--timeout", "1"), "CellTimeoutError", SLEEP),
    ],
    ids=["raises-on-its-second-line", "kernel-killed", "time-out"],
)
def test_a_failed_run_leaves_the_result_alone(book, once, code, options, error, line):
    out, before = with_result(book, once)
    add_cell(book, code)

    ended = batch(book, "run", "tiny", "--out", "out", *options)

    assert ended.returncode == 1
    assert error in ended.stdout
    failure = failure_of(out)
    assert (failure["error"], failure["code"]) == (error, line)
    script = (book / "book" / "tiny.py").read_text().splitlines()
    assert script[failure["line"] - 1] == line
    partial = json.loads((out / "tiny.failed.ipynb").read_text())
    assert line in "".join(partial["cells"][failure["cell"]]["source"])
    after = everything_in(out)
    assert set(after) == {*before, "tiny.failed.ipynb", "tiny.failed.json"}
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    ("command", "number"),
    [("run", signal.SIGINT), ("run", signal.SIGTERM), ("refresh", signal.SIGTERM)],
    ids=["run-SIGINT", "run-SIGTERM", "refresh-SIGTERM"],
)
def test_an_interrupt_keeps_what_there_is_and_no_kernel(book, command, number):
    runner, out = started(book, command)
    processes = below(runner)
    runner.send_signal(number)

    assert runner.wait(timeout=30) == 130
    assert all_gone(processes)
    failure = failure_of(out)
    assert (failure["error"], failure["code"]) == ("KeyboardInterrupt", SLEEP)
    assert set(everything_in(out)) == {"tiny.failed.ipynb", "tiny.failed.json"}


@pytest.mark.parametrize("command", ["run", "refresh"])
def test_a_killed_runner_takes_its_kernel_along(book, command):
    runner, out = started(book, command)
    processes = below(runner)
    runner.kill()
    runner.wait()
    assert all_gone(processes)
    assert not (out / "tiny.ipynb").exists()


def test_a_success_removes_the_failure_and_what_dead_processes_left(book):
    out = book / "out"
    out.mkdir()
    alive = out / "tiny.json.part.1"
    dead = "tiny.ipynb.part.999999999.ipynb"
    for name in ("tiny.failed.ipynb", "tiny.failed.json", dead, alive.name):
        (out / name).write_text("{}")
    told = []
    record = execute(job_of(book), lambda done, total: told.append((done, total)))
    assert record["failure"] is None
    assert set(everything_in(out)) == {"tiny.ipynb", "tiny.json", alive.name}
    assert (told[0], told[-1]) == ((0, 5), (5, 5))


def test_a_full_disk_leaves_the_result_alone(book, once):
    out, before = with_result(book, once)
    add_cell(book, "print('x' * 60_000)")

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    ended = batch_process(book, "run", "tiny", "--out", "out", preexec_fn=small_files)

    assert ended.returncode == 1
    assert "File too large" in ended.stdout
    assert failure_of(out)["error"] == "OSError"
    after = everything_in(out)
    assert set(after) == {*before, "tiny.failed.json"}  # the notebook was torn, and is not kept
    assert {name: after[name] for name in before} == before


def test_a_time_out_is_told_in_one_line(book):
    add_cell(book, SLEEP)
    ended = batch_process(book, "run", "tiny", "--timeout", "1")
    assert ended.returncode == 1
    assert ended.stdout.count("\n") == 1
    assert "CellTimeoutError" in ended.stdout
    assert [line for line in ended.stderr.splitlines() if not line.startswith("tiny: cell ")] == []


def test_a_kernel_that_cannot_start_is_heard(book):
    (book / "ipykernel_launcher.py").write_text("raise SystemExit('no kernel today')\n")
    ended = batch_process(book, "run", "tiny", env={"PYTHONPATH": str(book)})
    assert ended.returncode == 1
    assert "failed at its start: RuntimeError: Kernel died" in ended.stdout
    assert "no kernel today\n" in ended.stderr


@pytest.mark.parametrize("said", [None, "3"])
def test_a_run_computes_on_one_thread_unless_told(book, monkeypatch, said):
    if said is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    add_cell(book, "import os\n\nprint('threads:', os.environ['OMP_NUM_THREADS'])")
    assert batch(book, "run", "tiny", "--out", "out").returncode == 0
    threads = said or "1"
    record = json.loads((book / "out" / "tiny.json").read_text())
    assert record["provenance"]["threads"] == int(threads)
    assert f"threads: {threads}" in (book / "out" / "tiny.ipynb").read_text()


def test_two_ledgers_are_no_result(book):
    add_cell(book, "display({}, metadata={'core': {'claims': [claim]}}, raw=True)")
    assert "one ledger" in execute(job_of(book))["failure"]["message"]
    assert not (book / "out" / "tiny.ipynb").exists()


def test_a_claim_out_of_shape_is_no_result(book):
    add_cell(book, "claim['verdict'] = 'sort of'")
    assert "'sort of' is not one of" in execute(job_of(book))["failure"]["message"]
    assert not (book / "out" / "tiny.ipynb").exists()


def test_the_record_is_valid_and_says_what_ran(book):
    add_cell(book, "import warnings\n\nwarnings.warn('mind the gap')")
    # braces, for papermill takes a path for a format
    options = ["--scale", "long", "-p", "name", "007", "-p", "seed", "7", "--out", "a{seed}b"]
    ended = batch(book, "run", "tiny", *options)
    assert ended.returncode == 0, ended.stderr
    record = json.loads((book / "a{seed}b" / "tiny.json").read_text())
    assert faults(record) == []
    assert record["given"] == {"rate": 2.0, "widths": [3], "name": "007", "seed": 7}
    assert record["parameters"] == {**record["given"], "device": "auto"}
    assert (record["scale"], record["seed"], record["status"]) == ("long", 7, "done")
    assert [claim["here"] for claim in record["claims"]] == ["7.0"]
    assert [cell["index"] for cell in record["cells"]] == [1, 2, 3, 5, 6, 7, 8]
    assert record["warnings"] == ["UserWarning: mind the gap"]  # without its temporary path
    notebook = (book / "a{seed}b" / "tiny.ipynb").read_text()
    assert "'007' [3] 7 float" in notebook
    assert "UserWarning" not in notebook
