"""Where a number comes from: commit, packages, device, processor, threads.

Every record of a run and every bench carries what `provenance` returns. Nothing in it names a
person, a host or a folder, so that it can be published beside the result.
"""

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "scipy",
    "matplotlib",
    "pillow",
    "diffusers",
    "transformers",
    "safetensors",
    "peft",
    "papermill",
    "nbclient",
    "ipykernel",
    "jupytext",
)


def provenance(root: Path) -> dict[str, Any]:
    """Return what a reader needs to know about the code and the machine behind a result.

    Nothing heavy is imported: versions come from the installed metadata, the device from the
    driver's own tool.

    Args:
        root: a folder of the repository whose commit is meant.

    Returns:
        `commit` and `dirty` (both None outside git), `python`, `packages` (name -> version of those
        installed), `platform`, `device`, `cpu`, `cores` (usable ones), `threads` (what
        OMP_NUM_THREADS says, else as many as there are usable cores, as the libraries do).
    """
    return {
        "commit": _git(root, "rev-parse", "HEAD"),
        "dirty": _dirty(root),
        "python": platform.python_version(),
        "packages": package_versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": _device(),
        "cpu": _cpu_model(),
        "cores": _usable_cores(),
        "threads": _threads(),
    }


def package_versions() -> dict[str, str]:
    """Return the version of each package in `PACKAGES` that is installed here."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git(root: Path, *arguments: str) -> str | None:
    # optional locks off: a status must not stand in the way of someone's commit
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=quiet, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _dirty(root: Path) -> bool | None:
    status = _git(root, "status", "--porcelain")
    return None if status is None else bool(status)


def _device() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "cpu"
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    names = subprocess.run(query, capture_output=True, text=True, check=False)
    if names.returncode != 0 or not names.stdout.strip():
        return "cpu"
    return ", ".join(line.strip() for line in names.stdout.splitlines())


def _cpu_model() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads() -> int:
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdigit() else _usable_cores()
