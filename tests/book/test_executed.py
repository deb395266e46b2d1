"""The line below the title of an executed page, with and without a repository."""

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import nbformat
import pytest
import yaml

RECORD = {
    "started": "2026-02-03T10:00:00Z",
    "seconds": 150.0,
    "provenance": {"device": "cpu", "cpu": "a processor", "threads": 1},
}
ROOT = Path(__file__).parents[2]
TOC = {"format": "jb-book", "root": "intro", "chapters": [{"file": "tiny"}]}


@pytest.fixture(scope="module")
def in_repository(tmp_path_factory):
    """The html of a page of a book like this one, whose settings name a repository."""
    root = tmp_path_factory.mktemp("house")
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["repository"]["url"] = "https://github.com/someone/papers"
    config["sphinx"]["local_extensions"] = {"executed": str(ROOT / "book/_ext")}
    del config["bibtex_bibfiles"], config["html"]["favicon"]
    config["sphinx"]["config"] |= {"html_static_path": [], "html_css_files": []}
    (root / "_config.yml").write_text(yaml.safe_dump(config))
    book = root / "book"
    book.mkdir()
    (book / "_toc.yml").write_text(yaml.safe_dump(TOC))
    (book / "intro.md").write_text("# Intro\n")
    (book / "tiny.py").write_text("# %% [markdown]\n# # Tiny\n")
    cells = [nbformat.v4.new_markdown_cell("# Tiny\n\nThe finding.")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), book / "tiny.ipynb")
    (book / "tiny.json").write_text(json.dumps(RECORD))
    jupyter_book = "from jupyter_book.cli.main import main; main()"
    options = ["build", str(book), "--config", str(root / "_config.yml"), "-W", "--keep-going"]
    command = [sys.executable, "-c", jupyter_book, *options]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root / "_build" / "html"


def test_with_a_repository_a_chapter_opens_on_colab_and_binder(in_repository):
    page = (in_repository / "tiny.html").read_text()
    assert "colab.research.google.com/github/someone/papers/blob/main/book/tiny.ipynb" in page
    assert "mybinder.org/v2/gh/someone/papers/main?urlpath=tree/book/tiny.ipynb" in page
    said = unescape(re.sub("<.*?>", "", page))
    assert "!git clone --depth 1 https://github.com/someone/papers papers && pip inst" in said
    assert "'./papers[all]' and %cd papers/src" in said
    assert "github" not in (in_repository / "intro.html").read_text()


def test_the_line_stands_below_the_title_and_leads_to_the_files(in_repository):
    page = (in_repository / "tiny.html").read_text()
    line = page.partition('<p class="executed">')[2].partition("</p>")[0]
    assert line.startswith("About 2 minutes on 1 thread of a processor, no GPU; executed on 3 Feb")
    assert page.index("<h1>") < page.index(line) < page.index("The finding.")
    for name in ("tiny.py", "tiny.ipynb"):
        (file,) = (in_repository / "_downloads").rglob(name)
        assert f'href="{file.relative_to(in_repository)}"' in line


def test_without_a_repository_nothing_points_to_one(html, executed):
    page = (html / executed).read_text()
    assert 'class="executed">About ' in page
    assert not [where for where in ("colab", "mybinder", "git+") if where in page.lower()]
