"""Clusters other than that of this process: SLURM, as far as a machine without it can tell."""

import os
import sys
from unittest.mock import Mock
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from tiny_book import batch, batch_process
from tiny_cluster import PATIENCE, a_cluster, kernels_of, until

from core.batch.cluster import cluster_of, gpus_here, workers_here
from core.batch.drive import Drive
from core.batch.task import Orders
from core.command import Refused

SLURM = f"""\
cluster: dask_jobqueue.SLURMCluster
options:
  cores: 1
  processes: 1
  memory: 1GB
  walltime: "00:10:00"
  python: {sys.executable}
  scheduler_options: {{host: 127.0.0.1, dashboard: false}}
workers: 1
"""
# SLURM as dask-jobqueue sees it: the script runs somewhere, and a number is its name
SBATCH = "#!/bin/sh\ncp $1 $0.job\nsh $0.job >/dev/null 2>&1 &\necho Submitted batch job $!\n"
SCANCEL = "#!/bin/sh\nkill $1\n"


@pytest.mark.grid
def test_jobs_of_slurm_execute_a_grid(book, tmp_path):
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (book / "slurm.yaml").write_text(SLURM)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    command = ("grid", "tiny", "--seeds", "0..1", "--cluster", "slurm.yaml")
    ended = batch_process(book, *command, env={"PATH": path}, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "2 tasks, 0 of them done before\n2 of 2 tasks done\n"
    script = (tmp_path / "bin" / "sbatch.job").read_text()
    assert "#SBATCH --cpus-per-task=1\n" in script
    assert "#SBATCH -t 00:10:00\n" in script
    assert "--nthreads 1 " in script
    until(lambda: not kernels_of(book))


def test_a_job_that_is_not_taken_is_told_in_one_line(book, tmp_path):
    (tmp_path / "bin").mkdir()
    refusing = "#!/bin/sh\necho invalid partition: gpu >&2\nexit 1\n"
    (tmp_path / "bin" / "sbatch").write_text(refusing)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    (book / "slurm.yaml").write_text(SLURM)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    ended = batch_process(book, "grid", "tiny", "--cluster", "slurm.yaml", env={"PATH": path})
    assert ended.returncode == 2
    assert ended.stderr.startswith("refused: slurm.yaml: no worker: ")
    assert "invalid partition: gpu" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.grid
def test_without_its_certificate_nobody_gets_in(book, tmp_path, monkeypatch):
    monkeypatch.setattr("core.batch.cluster.WAIT", "3s")
    with a_cluster(tmp_path / "cluster") as cluster:
        for address in (cluster.address, cluster.address.replace("tls://", "tcp://")):
            ended = batch(book, "grid", "tiny", "--scheduler", address)
            assert ended.returncode == 2
            assert ended.stderr.startswith(f"refused: no dask scheduler answers at {address} ")
            assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cluster: a.B\nworkers: many", "workers: want how many, or minimum and maximum"),
        ("cluster: a.B\nworkers: {least: 3}", "minimum and maximum, got {'least': 3}"),
        ("cluster: nosuch.Cluster", "ModuleNotFoundError: No module named 'nosuch'"),
        ("cluster: distributed.NoCluster", "AttributeError"),
        ("cluster: fractions.Fraction\noptions: {no_such_option: 1}", "TypeError"),
        ("options: {}", "want cluster: a class, options: its arguments, workers: how many"),
        ("cluster: a.B\nworker: 3", "unknown worker: want cluster, options, workers"),
        ("a: [", "while parsing"),
    ],
)
def test_a_file_that_describes_no_cluster_is_refused(tmp_path, text, said):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(Refused) as why, cluster_of(path):
        pass
    assert said in str(why.value)
    assert "\n" not in str(why.value)


def test_workers_here_tell_nothing_by_http():
    with workers_here(1) as client:
        client.wait_for_workers(1, timeout=PATIENCE)
        told = client.scheduler_info()
        servers = [told, *told["workers"].values()]
        for port in (port for it in servers for port in it["services"].values()):
            for page in ("json/counts.json", "metrics", "info/main/workers.html", "health"):
                with pytest.raises(HTTPError, match="404"):
                    urlopen(f"http://127.0.0.1:{port}/{page}", timeout=PATIENCE)


def test_gpus_are_those_that_may_be_seen(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert gpus_here() == ["2", "5"]


def test_workers_without_a_gpu_are_not_waited_for():
    workers = {"a": {"resources": {}}, "b": {"resources": {"CPU": 1}}}
    client = Mock(scheduler_info=lambda n_workers: {"workers": workers})
    with pytest.raises(Refused, match="no worker has a GPU: start them with --resources GPU=1"):
        Drive(client, Orders("", ""), gpu=True).run(iter(()))


def test_it_is_said_that_no_worker_has_come():
    def nobody(n_workers, timeout):
        raise TimeoutError(f"{n_workers} in {timeout}")

    said = []
    client = Mock(wait_for_workers=nobody)
    Drive(client, Orders("", ""), say=said.append).run(iter(()))
    assert said == [
        "no worker has come within 15 seconds: tasks wait, and none is lost; start workers, or "
        "look at the cluster's queue"
    ]
