"""A tiny book to execute: one chapter, one claim, no torch."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from core.batch.cli import main

HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---
"""

TINY = (
    HEADER
    + """
# %% [markdown]
# # A die is fair
#
# The mean of a die is 3.5.

# %% tags=["parameters"]
seed: int = 0  # base seed
rate: float = 1.0
widths: list[int] = [1, 2]
name: str = "die"
device: str = "auto"

# %%
import sys
from base64 import b64encode

from IPython.display import display

mean = sum(range(1, 7)) / 6 * rate
print(f"{name!r} {widths} {seed} {type(rate).__name__}")

# %% [markdown]
# The mean, and a figure.
#
# (tiny-e1)=

# %%
claim = {
    "id": "tiny-e1", "source": "Sec. 1", "statement": "the mean is 3.5",
    "paper": "3.5", "here": f"{mean:.1f}", "verdict": "holds", "expected": "holds",
}

# %% mystnb={"figure": {"caption": "A dot.", "name": "tiny-dot"}, "image": {"alt": "one dot"}}
dot = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001"
    "a5f645400000000049454e44ae426082"
)
numbers = {
    "title": "",
    "axes": {"y": {"label": "mean", "scale": "linear", "range": "0 10"}},
    "series": [{"kind": "points", "label": "dot", "n": 1, "y": f"{mean:.6g}"}],
}
picture = {"image/png": b64encode(dot).decode()}
display(picture, metadata={"core": {"figure": [numbers]}}, raw=True)

# %% tags=["nbval-check-output"]
display({"text/plain": "tiny-e1  holds"}, metadata={"core": {"claims": [claim]}}, raw=True)
"""
)

TOC = """\
format: jb-book
root: intro
parts:
  - caption: Papers
    numbered: 2
    chapters:
      - file: tiny
  - caption: Reference
    chapters:
      - file: claims
"""


def make_book(root: Path) -> Path:
    """Lay out a tiny book below `root`."""
    folder = root / "book"
    folder.mkdir(parents=True)
    (folder / "_toc.yml").write_text(TOC)
    (root / "README.md").write_text("# Tiny\n\n<!-- claims -->\n<!-- /claims -->\n\nEnd.\n")
    intro = "# Intro\n\nSee [the claim](#tiny-e1).\n\n<!-- claims -->\n<!-- /claims -->\n"
    (folder / "intro.md").write_text(intro)
    (folder / "tiny.py").write_text(TINY)
    (folder / "scales" / "tiny").mkdir(parents=True)
    (folder / "scales" / "tiny" / "long.yaml").write_text("rate: 2\nwidths: [3]\n")
    return root


def add_cell(root: Path, code: str) -> None:
    """Put a code cell before the last one of the tiny chapter."""
    script = root / "book" / "tiny.py"
    mark = '# %% tags=["nbval-check-output"]'
    script.write_text(script.read_text().replace(mark, f"# %%\n{code}\n\n{mark}"))


def edit(path: Path, old: str, new: str) -> None:
    """Replace text in a file that has it."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


class Ended(NamedTuple):
    """What came of a command."""

    returncode: int
    stdout: str
    stderr: str


def batch(root: Path, *arguments: str) -> Ended:
    """Do in the book what `python -m core.batch` does, in this process, and so at once."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(root))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(mock.patch.dict(os.environ))  # a run sets its number of threads
        code = main(list(arguments))
    return Ended(code, out.getvalue(), err.getvalue())


def batch_process(root: Path, *arguments: str, **options) -> Ended:
    """Run `python -m core.batch` in the book, in a process of its own."""
    options = {"timeout": 120, **options, "env": {**os.environ, **options.pop("env", {})}}
    command = [sys.executable, "-m", "core.batch", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, **options)
    return Ended(done.returncode, done.stdout, done.stderr)


def everything_in(folder: Path) -> dict[str, bytes]:
    """Return all files below the folder, by relative name."""
    return {
        os.path.relpath(path, folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
