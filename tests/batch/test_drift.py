"""Two sets of records, laid side by side by the command."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny_book import batch, edit

from core.batch import drift


@pytest.fixture
def two(refreshed: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A book, and a copy of its records that is to be changed."""
    return refreshed, Path(shutil.copytree(refreshed / "book", tmp_path / "after"))


def change(folder: Path, **fields) -> None:
    path = folder / "tiny.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def record(folder: Path) -> dict:
    return json.loads((folder / "tiny.json").read_text())


def test_a_book_is_like_itself(two):
    root, after = two
    done = batch(root, "drift", "book", str(after))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 runs, all alike")


def claim(after, **fields):
    (old,) = record(after)["claims"]
    change(after, claims=[old | fields])


def versions(after):
    provenance = record(after)["provenance"]
    provenance["packages"]["numpy"] = "9.9"
    change(after, provenance=provenance | {"python": "3.99", "threads": 64})


def failed(after):
    failure = {"cell": 3, "line": 30, "code": "x", "error": "TypeError", "message": "no"}
    change(after, status="failed", failure=failure, claims=[], figures={})


DRIFTS = {
    "verdict": (lambda a: claim(a, verdict="not seen"), "verdict tiny-e1: holds -> not seen"),
    "here": (lambda a: claim(a, here="3.4"), "here tiny-e1: 3.5 -> 3.4"),
    "statement": (lambda a: claim(a, statement="no"), "statement tiny-e1: the mean is 3.5 -> no"),
    "gone": (lambda a: change(a, claims=[]), "claim tiny-e1: holds -> none"),
    "figure": (
        lambda a: edit(a / "tiny.json", '"y": "3.5"', '"y": "3.7"'),
        "figure tiny-dot, points 'dot' of 1, y: 3.5 -> 3.7 (2% of the axis)",
    ),
    "figure gone": (lambda a: change(a, figures={}), "figure tiny-dot: there -> none"),
    "parameter": (
        lambda a: change(a, parameters=record(a)["parameters"] | {"rate": 2.0}),
        "parameter rate: 1.0 -> 2.0",
    ),
    "script": (lambda a: change(a, source="0" * 64), " -> 000000000000"),
    "warning": (lambda a: change(a, warnings=["W: old"]), "warning: none -> W: old"),
    "end": (failed, "end: done -> failed at line 30 (x): TypeError: no"),
}


@pytest.mark.parametrize("what", DRIFTS)
def test_it_names_what_drifted_and_that_alone(two, what):
    root, after = two
    spoil, said = DRIFTS[what]
    spoil(after)
    done = batch(root, "drift", "book", str(after))
    assert done.returncode == 1, done
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    assert said in line
    assert done.stdout.splitlines()[-1].startswith("1 of 2 runs drifted: ")


def test_a_new_claim_is_named(two):
    root, after = two
    change(after, claims=[])
    done = batch(root, "drift", str(after), "book")
    assert "  claim tiny-e1: none -> holds\n" in done.stdout


def test_other_versions_and_machines_are_told_and_are_no_drift(two):
    root, after = two
    versions(after)
    done = batch(root, "drift", "book", str(after))
    assert done.returncode == 0
    assert "  python: " in done.stdout
    assert " -> 9.9 (1 of 2 runs)\n" in done.stdout
    assert "  threads: 1 -> 64 (1 of 2 runs)\n" in done.stdout


def test_a_figure_within_the_tolerance_is_alike(two):
    root, after = two
    edit(after / "tiny.json", '"y": "3.5"', '"y": "3.55"')
    assert batch(root, "drift", "book", str(after)).returncode == 0
    strict = batch(root, "drift", "book", str(after), "--tolerance", "0.001")
    assert strict.returncode == 1


def test_a_record_from_before_figures_had_numbers_is_compared_in_the_rest(two):
    root, after = two
    old = record(after)
    del old["figures"]
    (after / "tiny.json").write_text(json.dumps(old))
    assert batch(root, "drift", "book", str(after)).returncode == 0


def test_json_and_csv_say_the_same(two, tmp_path):
    root, after = two
    claim(after, verdict="not seen", here="2")
    versions(after)
    table = tmp_path / "drift.csv"
    done = batch(root, "drift", "book", str(after), "--json", "--out", str(table))
    runs = json.loads(done.stdout)["runs"]
    changed = [c for run in runs for c in run["changes"] + run["environment"]]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [{k: row[k] for k in ("what", "name", "before", "after")} for row in rows] == changed
    assert [row["drift"] for row in rows] == ["True"] * 2 + ["False"] * 3
    assert {row["chapter"] for row in rows} == {"tiny"}


def test_a_single_record_is_a_set(two):
    root, after = two
    done = batch(root, "drift", "book/tiny.json", str(after / "tiny.json"))
    assert done.stdout.splitlines() == ["tiny cpu: alike", "1 run, all alike"]


def test_a_revision_of_git_is_a_set(two):
    root, _ = two
    git = ["git", "-C", str(root), "-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["add", "book"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    change(root / "book", source="0" * 64)
    done = batch(root, "drift", "HEAD", "book")
    assert (done.returncode, done.stdout.count("drifted\n")) == (1, 1)
    assert batch(root, "drift", "HEAD", "HEAD").returncode == 0
    nothing = batch(root, "drift", "HEAD~3", "book")
    assert (nothing.returncode, nothing.stderr) == (
        2,
        "refused: HEAD~3: no such file or folder, and no revision of git\n",
    )


def test_of_a_failed_run_and_a_whole_one_the_later_counts(two):
    root, after = two
    whole = (after / "tiny.json").read_text()
    failed(after)
    (after / "tiny.json").rename(after / "tiny.failed.json")
    assert "end: done -> failed at line 30" in batch(root, "drift", "book", str(after)).stdout
    for year, code in (("2020", 1), ("2120", 0)):
        begun = {"started": f"{year}-01-01T00:00:00Z"}
        (after / "tiny.json").write_text(json.dumps(json.loads(whole) | begun))
        assert batch(root, "drift", "book", str(after)).returncode == code


BAD = {
    "torn": (lambda a: (a / "tiny.json").write_text('{"chapter"'), "tiny.json is no JSON"),
    "not valid": (lambda a: change(a, seconds="long"), "tiny.json is no valid record, $.seconds"),
    "empty": (lambda a: [shutil.rmtree(a), a.mkdir()], "no record there"),
    "other grid": (lambda a: (a / "format.json").write_text('{"format": 99}'), "has format 99"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_set_is_refused_in_one_line(two, what):
    root, after = two
    spoil, said = BAD[what]
    spoil(after)
    done = batch(root, "drift", "book", str(after))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("refused: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def run(chapter="a", scale="cpu", given=None, **fields):
    return {"chapter": chapter, "scale": scale, "given": given or {}, **fields}


def paired(before, after):
    """Which records stand side by side, by their number."""
    old, new = ([r | {"n": n} for n, r in enumerate(side)] for side in (before, after))
    return {tuple(r and r["n"] for r in pair) for pair in drift.pairs(old, new)}


@pytest.mark.parametrize(
    ("before", "after", "pairs"),
    [
        ([run(), run("b")], [run("b"), run()], {(0, 1), (1, 0)}),
        ([run(given={"s": 1}), run(given={"s": 2})], [run(given={"s": 2})], {(0, None), (1, 0)}),
        ([run(given={"s": 1})], [run(given={"s": 2})], {(0, 0)}),
        ([run(scale="smoke")], [run(scale="long")], {(0, 0)}),
        ([run()], [run("b")], {(0, None), (None, 0)}),
        ([run(given={"s": 1})] * 2, [run(given={"s": 1})], {(0, None), (1, None), (None, 0)}),
    ],
)
def test_runs_are_paired_by_what_they_are(before, after, pairs):
    assert paired(before, after) == pairs
