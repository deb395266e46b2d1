"""The recipes of `book/use.md`, and the Python of the README, executed as a reader would.

Each section is run from top to bottom in an empty folder, and then what came of it is compared with
what its stand-in is known to be.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.M | re.S)
LINES = 15


def sections(page):
    """The blocks of code below each heading of a page, in order."""
    parts = re.split(r"^## (.+)$", (ROOT / page).read_text(), flags=re.M)[1:]
    return {head: BLOCK.findall(text) for head, text in zip(parts[::2], parts[1::2], strict=True)}


RECIPES = sections("book/use.md")
ALIGN, TUNE, POOL, MESA, EDIT = RECIPES


def do(language, code, capsys):
    """Execute a block; return what it printed."""
    if language == "python":
        exec(compile(code, "block", "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(["bash", "-ec", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def follow(tmp_path, monkeypatch, capsys):
    """Return a function: run the section below a heading, and return what its blocks printed."""
    monkeypatch.chdir(tmp_path)
    return lambda head: [do(language, code, capsys) for language, code in RECIPES[head]]


@pytest.mark.parametrize("head", RECIPES)
def test_a_recipe_is_short(head):
    assert RECIPES[head], "a section without a recipe"
    for _, code in RECIPES[head]:
        assert len(code.splitlines()) <= LINES, code


@pytest.mark.slow
def test_a_model_learns_the_preferences_and_the_pilot_sees_that_it_did(follow):
    _, _, advice = follow(ALIGN)
    log = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"] == pytest.approx(np.log(2))
    assert {path.name for path in Path("run/model").iterdir()} == {
        path.name for path in Path("model").iterdir()
    }
    assert advice.startswith("design")
    assert advice.count("→ (8, 1)") == 1
    assert "policy and reference agree at every mask" not in advice


def test_the_plan_explains_and_the_check_is_flat(follow):
    explained, checked = follow(TUNE)
    assert "num_attention_heads 2 -> 8" in explained
    assert re.search(r"attn1\.to_q\.weight +128x128 +hidden +4 +0\.5 +0\.25", explained)
    assert Path("checkpoint/mup_plan.json").exists()
    assert checked.splitlines()[-1].startswith("mup: flat in the width")


def test_the_column_that_the_sources_share_is_pooled_and_the_other_is_not(follow):
    _, printed = follow(POOL)
    rows = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    assert "keep apart" in rows["weight"]
    assert "pool" in rows["pressure"]
    means = json.loads(Path("advice.json").read_text())["columns"]["weight"]["partial"]
    assert means["north"] < means["south"] < means["west"]


def test_normal_starts_meet_the_first_assumption_and_not_the_second(follow):
    _, printed = follow(MESA)
    rows = {line[:27].strip(): line[27:] for line in printed.splitlines()}
    assert rows["diagonal unitary W"].startswith("plausible")
    assert rows["Assumption 4.1"] == "plausible"
    assert rows["Assumption 4.2"] == "violated"
    value, error = map(float, rows["kappa1"].split(" ± "))
    assert abs(value - 3) < 4 * error  # E x^4 of a standard normal


@pytest.mark.slow
def test_the_edits_have_the_colours_they_were_asked_for(follow):
    from core.controlvideo.video import read

    follow(EDIT)
    red, green, blue = (read(f"{name}.mp4").frames for name in ("film", "green", "blue"))
    assert red.shape == green.shape == blue.shape
    there = (red[:, 0] - red[:, 1:].amax(1)) > 0.2  # where the circle is
    for frames, channel in ((red, 0), (green, 1), (blue, 2)):
        mean = [frames[:, c][there].mean() for c in range(3)]
        assert int(np.argmax(mean)) == channel, mean


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = [
        code
        for found in sections("README.md").values()
        for language, code in found
        if language == "python"
    ]
    printed = [do("python", code, capsys) for code in blocks]
    assert len(printed) > 1
    assert all(printed), "each prints something"
