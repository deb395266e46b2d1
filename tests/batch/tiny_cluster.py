"""A scheduler and workers as processes of their own, talking TLS; any of them can be killed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from distributed.security import Security

PATIENCE = 180  # seconds; two loaded cores may need a while to start a kernel


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


def tls_settings(folder: Path) -> dict[str, str]:
    """Make certificates; return dask's settings that name them, as an environment."""
    security = Security.temporary()
    (folder / "ca.pem").write_text(security.tls_ca_file)
    settings = {"CA_FILE": str(folder / "ca.pem")}
    for role in ("scheduler", "worker", "client"):
        for kind in ("key", "cert"):
            path = folder / f"{role}.{kind}.pem"
            path.write_text(getattr(security, f"tls_{role}_{kind}"))
            settings[f"{role.upper()}__{kind.upper()}"] = str(path)
    tls = {f"DASK_DISTRIBUTED__COMM__TLS__{name}": path for name, path in settings.items()}
    return {**tls, "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True"}


class Cluster:
    """Dask's own programs; start it again when its scheduler was killed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.tls = tls_settings(folder)
        self.processes: list[subprocess.Popen] = []

    def start(self, *options: str) -> None:
        """Start a scheduler and two workers, these with `options`."""
        where = self.folder / "scheduler.json"
        where.unlink(missing_ok=True)
        here = ("--host", "127.0.0.1", "--protocol", "tls", "--no-dashboard")
        self._run("dask_scheduler", *here, "--port", "0", "--scheduler-file", str(where))
        until(lambda: _json(where))
        self.address: str = _json(where)["address"]
        for _ in range(2):
            self._run("dask_worker", self.address, *here, "--nthreads", "1", *options)

    @property
    def scheduler(self) -> subprocess.Popen:
        return self.processes[0]

    def stop(self) -> None:
        """End what still runs."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(60)
        self.processes.clear()

    def client(self, root: Path, *arguments: str) -> subprocess.Popen:
        """Start `python -m core.batch grid` on this cluster."""
        command = ["core.batch", "grid", *arguments, "--scheduler", self.address]
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        env = {**os.environ, **self.tls}
        return subprocess.Popen([sys.executable, "-m", *command], cwd=root, env=env, **both)

    def _run(self, program: str, *options: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.{program}", *options]
        with (self.folder / "log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    command, cwd=self.folder, stderr=log, env={**os.environ, **self.tls}
                )
            )


@contextmanager
def a_cluster(folder: Path, *options: str) -> Iterator[Cluster]:
    """Start a cluster, and stop it at the end."""
    cluster = Cluster(folder)
    try:
        cluster.start(*options)
        yield cluster
    finally:
        cluster.stop()


def kernels_of(root: Path) -> list[psutil.Process]:
    """Return the kernels that run chapters of the book, whoever started them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(root / "book") and "ipykernel_launcher" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
