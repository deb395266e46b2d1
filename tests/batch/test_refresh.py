"""Fresh executions take the place of the committed ones, and only where results differ."""

import json
import os

import nbformat
from tiny_book import add_cell, batch, edit, everything_in

from core.batch.book import stage
from core.batch.chapters import all_chapters
from core.batch.check import problems

NOISY = """\
import sys, time

print("one", flush=True)
time.sleep(0.05)
print(time.time(), file=sys.stderr, flush=True)
time.sleep(0.05)
print("two", flush=True)\
"""


def test_twice_gives_the_same_bytes_and_leaves_the_files_alone(book):
    add_cell(book, NOISY)
    assert batch(book, "refresh").returncode == 0
    folder = book / "book"
    first, times = everything_in(folder), {p: os.stat(p).st_mtime_ns for p in folder.iterdir()}
    assert (
        '"one\\n",\n      "two\\n"' in (folder / "tiny.ipynb").read_text()
    )  # not cut by the clock
    fresh = (book / "_build" / "run" / "tiny.ipynb").read_bytes()

    again = batch(book, "refresh", "tiny")

    assert again.returncode == 0
    assert "book/tiny.ipynb: unchanged" in again.stdout
    assert (book / "_build" / "run" / "tiny.ipynb").read_bytes() == fresh
    assert everything_in(folder) == first
    assert {p: os.stat(p).st_mtime_ns for p in folder.iterdir()} == times
    assert problems(book) == []


def test_a_changed_chapter_is_replaced_with_its_pages(refreshed):
    script = refreshed / "book" / "tiny.py"
    script.write_text(script.read_text().replace("the mean is 3.5", "the mean is | 7/2"))
    assert {"its code differs from the script"} <= {p.what for p in problems(refreshed)}
    ended = batch(refreshed, "refresh")
    assert ended.returncode == 0
    assert "book/tiny.ipynb: replaced" in ended.stdout
    assert r"the mean is \| 7/2" in (refreshed / "book" / "claims.md").read_text()
    assert problems(refreshed) == []


def test_prose_is_taken_over_without_an_execution(refreshed):
    folder = refreshed / "book"
    outputs = [cell.get("outputs") for cell in read(folder).cells]
    edit(folder / "tiny.py", "# # A die is fair", "# # A die is just")
    edit(folder / "tiny.py", '"name": "tiny-dot"', '"name": "tiny-point"')
    assert batch(refreshed, "refresh", "--pages").returncode == 0
    assert problems(refreshed) == []
    after = read(folder)
    assert "# A die is just" in after.cells[0].source
    assert [cell.get("outputs") for cell in after.cells] == outputs
    record = json.loads((folder / "tiny.json").read_text())
    assert (record["title"], list(record["figures"])) == ("A die is just", ["tiny-point"])
    edit(folder / "tiny.py", "sum(range(1, 7))", "sum(range(1, 6))")
    before = everything_in(folder)
    assert batch(refreshed, "refresh", "--pages").returncode == 0
    assert everything_in(folder) == before


def test_the_rendered_book_has_the_prose_of_the_script(refreshed):
    edit(refreshed / "book" / "tiny.py", "# # A die is fair", "# # A die is just")
    staged = stage(all_chapters(refreshed), refreshed)
    assert "# A die is just" in read(staged).cells[0].source


def read(folder):
    return nbformat.read(folder / "tiny.ipynb", as_version=4)


def test_a_failing_chapter_leaves_the_committed_one(refreshed):
    before = everything_in(refreshed / "book")
    add_cell(refreshed, "1 / 0")
    ended = batch(refreshed, "refresh")
    assert ended.returncode == 1
    assert "book/tiny.py: failed at line" in ended.stdout
    assert "ZeroDivisionError" in ended.stdout
    before["tiny.py"] = (refreshed / "book" / "tiny.py").read_bytes()
    assert everything_in(refreshed / "book") == before


def test_a_worker_that_vanishes_is_told(book):
    add_cell(book, "import os, signal\n\nos.kill(os.getppid(), signal.SIGKILL)")
    ended = batch(book, "refresh")
    assert ended.returncode == 1
    assert "tiny: its process died without a word" in ended.stdout
    assert not (book / "book" / "tiny.ipynb").exists()


def test_several_chapters_run_side_by_side_on_one_thread_each(book):
    folder = book / "book"
    toc = folder / "_toc.yml"
    toc.write_text(toc.read_text().replace("- file: tiny", "- file: tiny\n      - file: second"))
    second = (folder / "tiny.py").read_text().replace("tiny-", "second-")
    (folder / "second.py").write_text(second)
    add_cell(book, "import os\n\nprint(os.environ['OMP_NUM_THREADS'])")

    ended = batch(book, "refresh", "-j", "2")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [chapter.name for chapter in all_chapters(book)] == ["tiny", "second"]
    assert problems(book) == []
    records = [json.loads((folder / f"{name}.json").read_text()) for name in ("tiny", "second")]
    assert [record["provenance"]["threads"] for record in records] == [1, 1]
    began = [record["started"] for record in records]
    assert began[0][:-4] == began[1][:-4]  # within ten seconds or so: not one after the other
    assert "[second-e1](#second-e1)" in (folder / "claims.md").read_text()


def test_evidence_joins_the_page_as_a_column(refreshed):
    page = (refreshed / "book" / "claims.md").read_text()
    assert "  - Here\n  - Verdict (long)\n" in page
    record = json.loads((refreshed / "book" / "evidence" / "tiny" / "long.json").read_text())
    assert record["scale"] == "long"
    assert problems(refreshed) == []
