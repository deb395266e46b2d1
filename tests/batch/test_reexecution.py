"""What `book/conftest.py` adds to nbval: a figure that moved fails its cell."""

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

CONFTEST = Path(__file__).parents[2] / "book" / "conftest.py"
PLOT = "from core.lab import figure\nfig, (ax,) = figure()\nax.plot([0, 1, 2, 10]);"


@pytest.fixture(scope="module")
def committed():
    cells = [nbformat.v4.new_code_cell("1 + 1"), nbformat.v4.new_code_cell(PLOT)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    return NotebookClient(notebook, kernel_name="python3", timeout=60).execute()


def reexecuted(notebook, folder: Path):
    """Run nbval as the Makefile does, on one notebook beside a copy of the conftest."""
    shutil.copy(CONFTEST, folder)
    nbformat.write(notebook, folder / "page.ipynb")
    options = ["-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
    command = [sys.executable, "-m", "pytest", "-q", *options, "page.ipynb"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("y", "said"),
    [
        ("0 1 2 10", None),
        ("0 1 2.05 10", None),
        ("0 1 3 10", "line of 4, y: 3 -> 2 (9% of the axis)"),
        (None, None),  # committed before figures had numbers
    ],
    ids=["same", "within the tolerance", "moved", "without numbers"],
)
def test_a_figure_that_moved_fails_its_cell(committed, tmp_path, y, said):
    notebook = copy.deepcopy(committed)
    (output,) = [o for o in notebook.cells[1].outputs if "image/png" in o.get("data", {})]
    numbers = output.metadata["core"]["figure"]
    numbers[0]["series"][0]["y"] = y or "0 1 2 10"
    output.metadata = {"core": {"figure": numbers}} if y else {}
    done = reexecuted(notebook, tmp_path)
    assert done.returncode == int(said is not None), done.stdout + done.stderr
    assert (said or "2 passed") in done.stdout
    assert ("1 failed, 1 passed" in done.stdout) == (said is not None)
