"""What is stale is executed, nothing else; the rendered pages come from fresh executions."""

import json

import pytest
from tiny_book import add_cell, batch, edit

from core.batch.book import differences, fresh_job, why_stale
from core.batch.chapters import find_chapters
from core.batch.execute import execute

CONFIG = """\
title: Tiny
only_build_toc_files: true
exclude_patterns: [_build, "*.py"]
execute: {execute_notebooks: "off"}
"""


def stale(root) -> str | None:
    return why_stale(fresh_job(find_chapters(root, ())[0]))


def forge(root, change) -> None:
    """Change the record of the fresh execution."""
    path = root / "_build" / "run" / "tiny.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_nothing_is_stale_after_a_refresh(refreshed):
    assert stale(refreshed) is None


def test_a_fresh_checkout_is_stale(book):
    assert stale(book) == "never executed"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: r.update(source="0" * 64), "changed: source"),
        (lambda r: r["parameters"].update(seed=1), "changed: parameters"),
        (lambda r: r["library"].update({"core/__init__.py": "0" * 64}), "changed: library"),
        (lambda r: r["library"].update({"core/gone.py": "0" * 64}), "changed: library"),
        (lambda r: r["provenance"]["packages"].update(numpy="1.0"), "changed: packages"),
        (lambda r: r["provenance"].update(commit="0" * 40, cpu="another"), None),
    ],
    ids=["source", "parameters", "library", "library-file-gone", "packages", "circumstances"],
)
def test_it_says_what_has_changed(refreshed, change, why):
    forge(refreshed, change)
    assert stale(refreshed) == why


def test_a_torn_notebook_is_stale(refreshed):
    (refreshed / "_build" / "run" / "tiny.ipynb").write_text("{")
    assert stale(refreshed) == "never executed"


def test_a_library_file_counts_if_it_is_reached(book, monkeypatch):
    package = book / "src" / "lib"
    package.mkdir(parents=True)
    for name in ("__init__", "used", "unused"):
        (package / f"{name}.py").write_text("")
    add_cell(book, "import lib.used")
    monkeypatch.setenv("PYTHONPATH", str(book / "src"))
    assert execute(fresh_job(find_chapters(book, ())[0]))["failure"] is None
    assert stale(book) is None
    (package / "unused.py").write_text("x = 1\n")
    assert stale(book) is None
    (package / "used.py").write_text("x = 1\n")
    assert stale(book) == "changed: library"


@pytest.mark.slow
def test_the_book_executes_once_and_renders_what_is_fresh(refreshed):
    (refreshed / "_config.yml").write_text(CONFIG)
    committed = (refreshed / "book" / "tiny.ipynb").read_bytes()
    edit(refreshed / "book" / "tiny.py", '"here": f"{mean:.1f}"', '"here": f"{mean:.2f}"')
    edit(refreshed / "book" / "intro.md", "See", "{nowhere}`x` See")

    first, second = batch(refreshed, "book"), batch(refreshed, "book")
    edit(refreshed / "book" / "intro.md", "{nowhere}`x` See", "See")
    third = batch(refreshed, "book")

    assert "tiny: changed: source\ntiny: done in" in first.stdout
    for ended in (first, second):  # Sphinx itself would forget the warning the second time
        assert ended.returncode == 1
        assert "nowhere" in ended.stdout
    assert second.stdout.startswith("rendering")
    assert third.returncode == 0, third.stdout
    assert third.stdout.splitlines() == [
        "rendering",
        "tiny differs from what is committed: here tiny-e1: 3.5 -> 3.50",
        "1 claim: 1 holds",
        "open _build/html/index.html",
    ]
    assert (refreshed / "book" / "tiny.ipynb").read_bytes() == committed
    html = refreshed / "_build" / "html"
    assert 'href="tiny.html#tiny-e1"' in (html / "claims.html").read_text()
    assert "3.50" in (html / "claims.html").read_text()
    assert 'alt="one dot"' in (html / "tiny.html").read_text()


def test_a_failing_chapter_is_not_rendered(refreshed):
    add_cell(refreshed, "1 / 0")
    ended = batch(refreshed, "book")
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stdout
    assert not (refreshed / "_build" / "book").exists()


def test_a_claim_that_is_gone_differs(refreshed):
    forge(refreshed, lambda record: record.update(claims=[]))
    chapters = find_chapters(refreshed, ())
    assert [(name, str(change)) for name, change in differences(chapters)] == [
        ("tiny", "claim tiny-e1: holds -> none")
    ]
