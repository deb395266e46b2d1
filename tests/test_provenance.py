"""Provenance: true of git and of this machine, silent about who and where."""

import getpass
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

import core
from core.provenance import package_versions, provenance


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "a")
    return tmp_path


def test_it_names_the_commit_and_sees_an_edit(repository):
    clean = provenance(repository)
    assert (clean["commit"], clean["dirty"]) == (git(repository, "rev-parse", "HEAD"), False)
    (repository / "a").write_text("2")
    assert provenance(repository)["dirty"] is True


def test_a_new_file_is_an_edit_too(repository):
    (repository / "b").write_text("")
    assert provenance(repository)["dirty"] is True


def test_outside_git_there_is_no_commit(tmp_path):
    found = provenance(tmp_path)
    assert (found["commit"], found["dirty"]) == (None, None)


def test_without_the_git_program_there_is_no_commit(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance(repository)["commit"] is None


def test_versions_are_those_that_are_imported():
    versions = package_versions()
    assert versions["numpy"] == numpy.__version__
    assert versions["torch"] == torch.__version__
    assert provenance(Path())["python"] == platform.python_version()


CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("", CORES), ("2,1", CORES)])
def test_threads_are_what_the_environment_says(monkeypatch, said, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert provenance(Path())["threads"] == threads


def test_it_names_no_person_host_or_folder(repository):
    text = json.dumps(provenance(repository))
    assert str(repository) not in text
    assert str(Path.home()) not in text
    assert socket.gethostname() not in text
    assert f'"{getpass.getuser()}' not in text


def test_it_imports_nothing_heavy_and_nothing_of_ours():
    code = (
        "import sys, pathlib, core.provenance as p; p.provenance(pathlib.Path());"
        "print(*(m for m in sys.modules if m.startswith(('core', 'torch', 'numpy'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["core", "core.provenance"]
    assert core.__file__
