"""Where the tasks of a grid run: workers here, or those of a scheduler that someone started.

Everything is dask.distributed. Workers here are processes of one thread, and talk TLS with
certificates that last as long as they do. For a scheduler elsewhere, dask's own settings name the
certificates (`DASK_DISTRIBUTED__COMM__TLS__CA_FILE` and so on). A file such as ::

    cluster: dask_jobqueue.SLURMCluster
    options: {queue: gpu, cores: 1, processes: 1, memory: 16GB, walltime: "02:00:00"}
    workers: 8          # or {minimum: 0, maximum: 50}, as many as there is work for

has the class make a cluster, and closes it at the end. The folder of the book and that of the
results must have the same path on every worker.
"""

import asyncio
import contextlib
import importlib
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from core.command import Refused

if TYPE_CHECKING:
    from distributed import Client

WAIT = "10s"  # for a scheduler to answer
SUBMITTED = 60.0  # seconds for a queue to take all jobs
GPU = "GPU"  # the name of the dask resource


@contextlib.contextmanager
def workers_here(count: int, gpus: list[str] | None = None) -> Iterator["Client"]:
    """Start processes on this machine; with GPUs, one for each, which sees no other.

    Args:
        count: how many, where there are no GPUs.
        gpus: as CUDA_VISIBLE_DEVICES names them.
    """
    dask = _dask()
    # what workers and scheduler tell by HTTP is without TLS, and nobody here asks
    pages = {f"distributed.{kind}.http.routes": [] for kind in ("scheduler", "worker")}
    importlib.import_module("dask").config.set(pages)
    common = {"security": dask.Security.temporary(), "host": "127.0.0.1", "protocol": "tls://"}
    quiet = {"dashboard": False, "silence_logs": logging.CRITICAL}
    one = common | quiet | {"nthreads": 1, "memory_limit": 0}
    options = [one] * count
    if gpus:
        options = [one | {"resources": {GPU: 1}, "env": _seeing(gpu)} for gpu in gpus]
    served = {"dashboard": False, "dashboard_address": "127.0.0.1:0", "port": 0}
    cluster = dask.SpecCluster(
        scheduler={"cls": dask.Scheduler, "options": common | served},
        workers={i: {"cls": dask.Nanny, "options": each} for i, each in enumerate(options)},
        security=common["security"],
        silence_logs=logging.CRITICAL,
    )
    with cluster, dask.Client(cluster) as client:
        yield client


@contextlib.contextmanager
def scheduler_at(address: str) -> Iterator["Client"]:
    """Take the workers of a scheduler that runs.

    Raises:
        Refused: none answers.
    """
    dask = _dask()
    try:
        asyncio.run(_greet(dask, address))
        client = dask.Client(address, timeout=WAIT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Refused(f"no dask scheduler answers at {address} within {WAIT}: {why}") from error
    with client:
        yield client


@contextlib.contextmanager
def cluster_of(path: Path) -> Iterator["Client"]:
    """Make the cluster that a file describes, and close it at the end.

    Raises:
        Refused: the file is none, or the class will not have it, or a worker's job is not taken.
    """
    dask = _dask()
    found = _read(path)
    try:
        module, _, name = found["cluster"].rpartition(".")
        cluster = getattr(importlib.import_module(module), name)(**found.get("options", {}))
    except Exception as error:  # whatever the class raises
        raise Refused(f"{path}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    with cluster, dask.Client(cluster) as client:
        workers = found.get("workers", 1)
        if isinstance(workers, dict):
            cluster.adapt(**workers)
        else:
            cluster.scale(workers)
            _expect_submitted(dask, cluster, path)
        yield client


def gpus_here() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        Refused: there is none.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        try:
            visible = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            visible = ""
    gpus = visible.replace(",", " ").split()
    if not gpus:
        raise Refused("--gpu: this machine has none that can be seen")
    return gpus


def _expect_submitted(dask: Any, cluster: Any, path: Path) -> None:
    """Have it told that a job was not taken: dask only logs it, and then nobody ever comes."""
    if not isinstance(cluster, dask.SpecCluster):
        return
    logging.getLogger("tornado.application").setLevel(logging.CRITICAL)  # raised here as well

    async def submitted() -> None:
        with contextlib.suppress(TimeoutError):  # whoever waits for workers says that none came
            async with asyncio.timeout(SUBMITTED):
                while len(cluster.workers) < len(cluster.worker_spec):
                    await asyncio.sleep(0.1)
        try:
            for worker in cluster.workers.values():
                await worker  # one that could not start is started once more, and raises why not
        finally:
            for worker in cluster.workers.values():
                if worker.status is dask.Status.created:
                    worker.status = dask.Status.failed  # for the cluster to close

    try:
        cluster.sync(submitted)
    except Exception as error:  # whatever the command that submits makes the class raise
        raise Refused(f"{path}: no worker: {' '.join(str(error).split())}") from error


async def _greet(dask: Any, address: str) -> None:
    """Have the scheduler say who it is: a client would wait without end for one that is silent."""
    settings = dask.Security().get_connection_args("client")
    async with asyncio.timeout(float(WAIT.removesuffix("s"))):
        async with dask.rpc(address, connection_args=settings) as scheduler:
            await scheduler.identity()


def _seeing(gpu: str) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": gpu}


def _dask() -> Any:
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is raised as well
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        why = "a grid needs dask.distributed: pip install 'papers-executed[cluster]'"
        raise Refused(why) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Refused(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not isinstance(found.get("cluster"), str):
        raise Refused(f"{path}: want cluster: a class, options: its arguments, workers: how many")
    unknown = set(found) - {"cluster", "options", "workers"}
    if unknown:
        raise Refused(
            f"{path}: unknown {', '.join(sorted(unknown))}: want cluster, options, workers"
        )
    workers = found.get("workers", 1)
    bounds = isinstance(workers, dict) and set(workers) <= {"minimum", "maximum"}
    if not all(type(n) is int and n >= 0 for n in (workers.values() if bounds else [workers])):
        raise Refused(f"{path}: workers: want how many, or minimum and maximum, got {workers!r}")
    return found
