"""What a page loads before it is shown, and what it says of itself."""

import json
import re
from pathlib import Path

import pytest

LIGHTHOUSE = json.loads(Path(__file__).with_name("lighthouse.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", ["intro.html", "mesa.html", "claims.html", "api/lab.html"])
def test_a_page_is_shown_before_its_scripts_are_there(html, page):
    text = (html / page).read_text(encoding="utf-8")
    scripts = re.findall(r"<script([^>]*) src=\"([^\"?]*)|<script([^>]*src=[^>]*)", text)
    waits = [src for before, src, _ in scripts if not re.search("defer|async", before)]
    assert [src.rpartition("/")[2] for src in waits] == ["documentation_options.js"]


def test_equations_are_set_where_there_are_some_and_fetched_nowhere_else(html):
    fetched = {
        page.name: "mathjax/tex" in page.read_text(encoding="utf-8") for page in html.glob("*.html")
    }
    assert fetched["mesa.html"]
    assert not fetched["references.html"]
    assert not fetched["search.html"]


def test_a_page_describes_itself_by_its_first_paragraph(html):
    text = (html / "mesa.html").read_text(encoding="utf-8")
    (told,) = re.findall(r'<meta name="description" content="([^"]*)"', text)
    assert 40 < len(told) <= 160
    assert "executed on" not in told


def test_lighthouse_found_the_page_accessible_and_fast(address):
    assert address in LIGHTHOUSE, "make lighthouse"
    scores = LIGHTHOUSE[address]["scores"]
    assert scores["accessibility"] == 100
    assert scores["performance"] >= 90
