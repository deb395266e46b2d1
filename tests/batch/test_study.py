"""What became of a claim over seeds: from a grid to the page of claims."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from tiny_book import add_cell, batch, edit, make_book

from core.batch import study
from core.batch.chapters import all_chapters
from core.batch.check import notes, problems
from core.batch.folder import Folder
from core.batch.grid import plan, tasks_of, typed_grid
from core.batch.reach import library_hashes
from core.batch.records import measurements_in, runs_in
from core.batch.task import Orders, perform

FATE = 'claim["verdict"] = "not seen" if seed == 2 else "holds"\nassert seed != 3, "no memory"'
ENDS = '\nassert claim["verdict"] == claim["expected"], "verdicts that were not expected"\n'


def grid(root: Path, seeds: str | None, pairs=(), only: int | None = None, scale="cpu") -> None:
    """Do what the command `grid` does, here and one after the other."""
    results = Folder(str(root / "_build" / "grid"))
    results.open()
    tasks = list(tasks_of(plan(root, typed_grid(("tiny",), (scale,), pairs, seeds))))
    results.save_plan(tasks)
    for task in tasks[:only]:
        perform(task, Orders(str(root), results.place))


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    """A refreshed book whose claim fails for seed 2, and whose run fails for seed 3."""
    root = make_book(tmp_path_factory.mktemp("study") / "house")
    add_cell(root, FATE)
    script = root / "book" / "tiny.py"
    script.write_text(script.read_text() + ENDS)
    assert batch(root, "refresh").returncode == 0
    grid(root, "0..3")
    return root


@pytest.fixture
def studied(ran, tmp_path) -> Path:
    root = Path(shutil.copytree(ran, tmp_path / "house"))
    done = batch(root, "study")
    assert (done.returncode, done.stdout) == (0, "kept as book/evidence/tiny/over-seeds.json\n")
    return root


def kept(root: Path) -> Path:
    return root / "book" / "evidence" / "tiny" / "over-seeds.json"


def test_it_says_what_each_seed_gave(studied):
    found = json.loads(kept(studied).read_text())
    assert found["seeds"] == [0, 1, 2, 3]
    assert found["claims"] == [
        {
            "id": "tiny-e1",
            "verdicts": {"holds": [0, 1], "not seen": [2]},
            "here": {"0": "3.5", "1": "3.5", "2": "3.5"},
        }
    ]
    assert list(found["unfinished"]) == ["3"]
    assert found["unfinished"]["3"].endswith("AssertionError: no memory")
    assert "seed" not in found["parameters"]
    assert len(found["provenance"]) == 1


def test_the_page_of_claims_shows_it(studied):
    page = (studied / "book" / "claims.md").read_text()
    assert "  - Here\n  - Over seeds\n" in page
    told = '<a href="#run-tiny-over-seeds">2 of 4 holds, 1 not seen, 1 without</a>'
    assert f"\n  - {told}\n" in page
    assert '<span id="run-tiny-over-seeds"></span>**tiny, over seeds**: seeds 0, 1, 2, 3 at' in page


def test_it_is_no_record_and_no_measurement(studied):
    folder = kept(studied).parent
    assert runs_in(folder) == measurements_in(folder) == []
    (chapter,) = all_chapters(studied)
    assert "book/evidence/tiny/over-seeds.json" not in library_hashes(chapter)
    assert batch(studied, "drift", "book", "book").stdout.endswith("1 run, all alike\n")


def test_a_good_one_is_in_order_and_an_old_one_is_noted(studied):
    assert (problems(studied), notes(studied)) == ([], [])
    found = json.loads(kept(studied).read_text())
    kept(studied).write_text(study.text_of(found | {"source": "0" * 64}))
    (note,) = notes(studied)
    assert str(note) == (
        "book/evidence/tiny/over-seeds.json: of another version of the code; "
        "python -m core.batch grid tiny --seeds 0..4, then study"
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"id": "tiny-e1"', '"id": "tiny-e9"', "claim tiny-e9 is none of the chapter's"),
        ('"seeds"', '"seed"', "not valid, $: 'seeds' is a required property"),
        ('"chapter": "tiny"', '"chapter": "other"', "it is the study of other"),
    ],
)
def test_a_bad_one_is_a_problem(studied, old, new, said):
    edit(kept(studied), old, new)
    assert any(said in str(problem) for problem in problems(studied))


CLAIM = {"verdicts": {"holds": [0, 1, 2], "undecided": [3, 4]}, "id": "a-e1", "here": {}}


@pytest.mark.parametrize(
    ("verdicts", "now", "told"),
    [
        ({"holds": [0, 1, 2, 3, 4]}, "holds", "5 of 5"),
        ({"holds": [0, 1, 2], "undecided": [3, 4]}, "holds", "3 of 5 holds, 2 undecided"),
        ({"not seen": [0, 1, 2, 3, 4]}, "holds", "5 of 5 not seen"),
        ({"holds": [0, 1, 2]}, "holds", "3 of 5 holds, 2 without"),
    ],
)
def test_how_often_a_claim_came_out(verdicts, now, told):
    claim = {"id": "a-e1", "verdicts": verdicts, "here": {}}
    found = {"seeds": [0, 1, 2, 3, 4], "claims": [claim]}
    assert study.told_of(found, "a-e1", now) == told
    assert study.told_of(found, "a-e2", now) == ""


def refused(root: Path, *arguments: str) -> str:
    before = kept(root).exists()
    done = batch(root, "study", *arguments)
    assert (done.returncode, done.stdout, kept(root).exists()) == (2, "", before)
    return done.stderr


def test_a_grid_that_is_not_through_is_no_study(refreshed):
    grid(refreshed, "0..1", only=1)
    assert "tiny cpu seed=1: it has no result yet: run the grid again" in refused(refreshed)


def test_runs_that_differ_in_more_than_the_seed_are_no_study(refreshed):
    grid(refreshed, None, pairs=(("rate", "1"), ("rate", "2")))
    assert "want runs that differ in their seed alone: rate 1.0 and 2.0" in refused(refreshed)


def test_one_seed_is_no_study(refreshed):
    grid(refreshed, "7")
    assert "tiny: want two seeds or more, got 1: --seeds 0..4" in refused(refreshed)


def test_a_study_is_of_the_defaults_alone(refreshed):
    grid(refreshed, "0..1", pairs=(("rate", "2"),))
    assert "a study is kept of the defaults alone, got rate = 2.0 for 1.0" in refused(refreshed)
    grid(refreshed, "0..1", scale="long")
    assert "no run at scale cpu was asked for" in refused(refreshed)


def test_a_failed_run_counts_in_the_table_and_an_edited_one_does_not(ran, tmp_path):
    root = Path(shutil.copytree(ran, tmp_path / "house"))
    table = csv.DictReader(batch(root, "results").stdout.splitlines())
    assert [(row["seed"], row["status"], row["verdict"]) for row in table] == [
        ("0", "done", "holds"),
        ("1", "done", "holds"),
        ("2", "failed", "not seen"),
        ("3", "failed", ""),
    ]
    for record in (root / "_build/grid/failed").glob("*/tiny.failed.json"):
        edit(record, '"status": "failed"', '"status": "done"')
    for command in ("status", "results", "plot", "study"):
        done = batch(root, command)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "tiny.failed.json is not what the task left: remove that folder" in done.stderr


def test_a_folder_of_something_else_is_refused(refreshed):
    assert "is no folder of results" in refused(refreshed, "book")


def test_the_schema_is_one():
    schema = json.loads(Path(study.__file__).with_name("study.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    assert set(schema["required"]) == set(schema["properties"]) - {"seal"}  # which comes last
