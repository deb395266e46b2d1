"""What a grid file means: which tasks, under which keys, and what is refused, with its row."""

import itertools
import json
import shlex

import pytest
from tiny_book import batch, edit, everything_in

from core.batch.chapters import find_chapters
from core.batch.grid import Task, key_of, key_of_now, plan, read_grid, tasks_of, typed_grid
from core.command import Refused


def tasks_in(root, text: str) -> list[Task]:
    path = root / "grid.yaml"
    path.write_text(text)
    return list(tasks_of(plan(root, read_grid(path))))


def typed(root, line: str, seeds=None) -> list[Task]:
    """Return the tasks of `NAME VALUE NAME VALUE ...` for the tiny chapter."""
    words = shlex.split(line)
    pairs = tuple(zip(words[::2], words[1::2], strict=True))
    return list(tasks_of(plan(root, typed_grid(("tiny",), ("cpu",), pairs, seeds))))


def test_a_grid_is_every_combination(book):
    found = tasks_in(
        book,
        "chapters: tiny\nscales: [cpu, long]\nparameters: {name: [a, b], rate: [1, 2.5]}\n"
        "seeds: 0..2\n",
    )
    combinations = itertools.product(["cpu", "long"], ["a", "b"], [1.0, 2.5], [0, 1, 2])
    asked = [(t.scale, t.given["name"], t.given["rate"], t.given["seed"]) for t in found]
    assert asked == list(combinations)
    assert [t.given.get("widths") for t in found] == [None] * 12 + [[3]] * 12  # of the scale
    assert len({t.key for t in found}) == 24


def test_rows_are_taken_as_they_are(book):
    rows = "parameters: [{rate: 1.0, name: a}, {rate: 2.0}]\nseeds: [5, 7]\n"
    found = [t.given for t in tasks_in(book, f"chapters: [tiny]\n{rows}")]
    assert found == [
        {"rate": 1.0, "name": "a", "seed": 5},
        {"rate": 1.0, "name": "a", "seed": 7},
        {"rate": 2.0, "seed": 5},
        {"rate": 2.0, "seed": 7},
    ]


def test_blocks_follow_one_another_and_equal_tasks_are_one(book):
    found = tasks_in(
        book,
        "- {chapters: tiny, seeds: [0, 1]}\n"
        "- {chapters: tiny, parameters: {rate: [1.0]}, seeds: 1..2}\n",  # 1.0 is the default
    )
    assert [t.given["seed"] for t in found] == [0, 1, 2]


def test_the_command_line_says_the_same_as_a_file(book):
    text = "chapters: tiny\nparameters: {rate: [1, 2], widths: [[1], []]}\nseeds: 0..1\n"
    assert typed(book, "rate 1 widths [1] rate 2 widths []", "0..1") == tasks_in(book, text)


def test_the_key_is_that_of_the_record_it_will_leave(refreshed):
    (task,) = typed(refreshed, "")
    record = json.loads((refreshed / "book" / "tiny.json").read_text())
    assert key_of(record) == task.key
    assert key_of_now(task, find_chapters(refreshed, ())[0]) == task.key


@pytest.mark.parametrize(
    ("change", "other"),
    [
        (lambda root: edit(root / "book" / "tiny.py", "Sec. 1", "Sec. 2"), True),
        (lambda root: (root / "src" / "lib" / "used.py").write_text("x = 1"), True),
        (lambda root: (root / "src" / "lib" / "unused.py").write_text("x = 1"), False),
        (lambda root: edit(root / "book" / "scales" / "tiny" / "long.yaml", "2", "3"), True),
        (lambda root: edit(root / "README.md", "End.", "Done."), False),
    ],
    ids=["source", "library", "unreached", "scale", "readme"],
)
def test_the_key_follows_what_the_result_depends_on(book, change, other):
    (book / "src" / "lib").mkdir(parents=True)
    for name in ("__init__", "used", "unused"):
        (book / "src" / "lib" / f"{name}.py").touch()
    edit(book / "book" / "tiny.py", "import sys", "import sys, lib.used")
    text = "chapters: tiny\nscales: [long]\n"
    (before,) = tasks_in(book, text)
    change(book)
    (after,) = tasks_in(book, text)
    assert (before.key != after.key) == other


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("chapters: nosuch", "grid.yaml: unknown chapter 'nosuch': the book has tiny"),
        ("chapters: tiny\nscales: [huge]", "unknown scale 'huge': chapter tiny has cpu, long"),
        (
            "chapters: tiny\nparameters: {runs: [3]}",
            "grid.yaml: runs, row 1: unknown parameter 'runs': chapter tiny has seed, rate",
        ),
        (
            "chapters: tiny\nparameters: {rate: [1, 2, 3, 4, 5, 6, fast, 8]}",
            "grid.yaml: rate, row 7: parameter rate wants float, got 'fast'",
        ),
        (
            "- {chapters: tiny}\n- chapters: tiny\n  parameters: [{rate: 1}, {rate: x}]",
            "grid.yaml, block 2: parameters, row 2: parameter rate wants float, got 'x'",
        ),
        ("chapters: tiny\nseeds: [1, 2.5]", "seeds, row 2: parameter seed wants int, got 2.5"),
        ("chapters: tiny\nseeds: 5", "seeds: want a list or a range such as 0..9, got 5"),
        ("chapters: tiny\nseeds: 5..4", "seeds: want a list or a range"),
        ("chapters: tiny\nseeds: []", "seeds: want a list or a range"),
        ("chapters: tiny\nseeds: 0..a", "seeds, row 1: parameter seed wants int, got '0..a'"),
        (
            "chapters: tiny\nseeds: [1]\nparameters: {seed: [2]}",
            "seed is given twice, under seed and under seeds",
        ),
        ("chapters: tiny\nparameters: {rate: 1}", "rate: want a list of values, got 1"),
        ("chapters: tiny\nparameters: [1]", "want name: [values], or a list of rows"),
        ("chapters: []", "chapters: want a list of names, got []"),
        ("scales: cpu", "chapters: want a list of names, got None"),
        ("chapters: tiny\nseed: [1]", "unknown field 'seed': a grid has chapters, scales"),
        ("tiny", "want chapters, scales, parameters, seeds, got 'tiny'"),
        ("", "want chapters, scales, parameters, seeds, got None"),
        ("a: [", "grid.yaml is no YAML: while parsing"),
        ("chapters: tiny\nseeds: 0..999999999999", "seeds: want 100,000 at most, got '0..9999"),
        (
            "chapters: tiny\nscales: cpu\nscales: long",
            "is no YAML: scales is given twice",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(book, text, said):
    with pytest.raises(Refused) as why:
        tasks_in(book, text)
    assert said in str(why.value)
    assert "\n" not in str(why.value)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("grid", "name chapters, or a grid file with --file"),
        ("grid tiny --file grid.yaml", "--file stands alone"),
        ("grid --file none.yaml", "cannot read the grid none.yaml: No such file"),
        ("grid tiny -p rate 1 -p rate fast", "rate, row 2: parameter rate wants float, got 'fast'"),
        ("grid tiny --seeds 1,x", "seeds, row 2: parameter seed wants int, got 'x'"),
        ("grid tiny --out book", "book holds something else: name a new folder"),
        ("grid tiny --out s3:/bucket/a", "want s3://bucket/prefix or a folder, got s3:/bucket/a"),
        ("grid tiny --out book/tiny.py/a", "book/tiny.py/a: Not a directory"),
        ("grid tiny --scheduler a --cluster b", "--scheduler and --cluster: one of the two"),
        ("grid tiny --gpu", "--gpu: this machine has none that can be seen"),
        ("status nowhere", "nowhere is no folder of results: it has no format.json"),
    ],
)
def test_a_wrong_command_is_refused_with_nothing_run(book, monkeypatch, command, said):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    ended = batch(book, *shlex.split(command))
    assert ended.returncode == 2
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not [name for name in everything_in(book) if name.endswith(".ipynb")]
