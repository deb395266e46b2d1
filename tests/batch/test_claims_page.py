"""The generated pages, read back by a Markdown parser that is not ours."""

import re
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from markdown_it import MarkdownIt

from core.batch.chapters import all_chapters
from core.batch.circumstances import date, duration, machine, versions
from core.batch.claims_page import Ledger, counted, escape, page, read_ledgers, summary

CLAIM = {
    "id": "a-e1",
    "source": "Thm. 1",
    "statement": "x | y < $3$ & [z](w) * `c` _u_ {d} <b>",
    "paper": "-1",
    "here": "1. about",
    "verdict": "corrected",
    "expected": "corrected",
}


def run(*claims, scale="cpu", source="s", **provenance):
    where = {"python": "3.12.1", "packages": {"torch": "2.9"}, "commit": "12345678", "dirty": False}
    machine = {"device": "cpu", "cpu": "A <fast> one", "threads": 1}
    return {
        "title": "A *title*",
        "claims": list(claims),
        "scale": scale,
        "source": source,
        "started": "2026-02-03T23:59:59Z",
        "seconds": 35.4,
        "provenance": {**where, **machine, **provenance},
    }


def ledger(*claims, **evidence):
    return Ledger("a", run(*claims), evidence)


@pytest.mark.parametrize(
    "text",
    [
        CLAIM["statement"],
        "-1",
        "- 1",
        "+ 2",
        "# 3",
        "= 4",
        "1. one",
        "2) two",
        "12",
        "1.5",
        r"\alpha \\",
        "~~no~~ http://a.b &lt;",
        "> quoted",
        "***",
    ],
)
def test_escaped_text_reads_as_it_was(text):
    # inside a list item, where the page puts it
    tokens = MarkdownIt("commonmark").enable("strikethrough").parse(f"* - {escape(text)}")
    kinds = [token.type for token in tokens]
    assert kinds.count("list_item_open") == 2
    (inline,) = [token for token in tokens if token.type == "inline"]
    assert {child.type for child in inline.children or []} <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children or []) == text


def test_a_row_is_one_line_a_cell():
    assert escape("two\nlines  and\tmore") == "two lines and more"


VERSIONS = "Python 3.12.1, torch 2.9; commit 1234567"


def test_the_page_counts_links_and_tabulates():
    other = {**CLAIM, "id": "a-e2", "verdict": "holds"}
    gpu = run({**CLAIM, "here": "a < b", "verdict": "undecided"}, scale="gpu", device="NVIDIA X")
    text = page([ledger(CLAIM, other, gpu=gpu)])
    assert "2 claims: 1 holds, 1 corrected." in text
    assert "  - Here\n  - Verdict (gpu)\n" in text
    assert "* - a\n  - [a-e1](#a-e1)\n  - <details>" in text
    first, second = [cells(row) for row in text.split("* - ")[2:]]
    assert [first[2], first[-1]] == [
        f"corrected|3 February 2026, 1 thread of A <fast> one, no GPU; {VERSIONS}",
        f"undecided|a < b; 3 February 2026, 1 thread of A <fast> one, NVIDIA X; {VERSIONS}",
    ]
    assert [second[2], second[-1]] == [
        f"holds|3 February 2026, 1 thread of A <fast> one, no GPU; {VERSIONS}",
        "",
    ]


def test_a_claim_is_counted_as_a_larger_scale_has_it_where_the_default_did_not_try():
    untried = {**CLAIM, "verdict": "not tried", "expected": "not tried"}
    runs = {
        "gpu": run({**CLAIM, "verdict": "holds"}, scale="gpu"),
        "long": run({**CLAIM, "verdict": "undecided"}, scale="long"),
    }
    one = ledger(untried, **runs)
    assert "1 claim: 1 undecided." in page([one])  # long is asked first
    assert '<div data-stands="undecided">long: undecided</div>' in page([one])
    assert "| 1 | 1 |" in summary([one], in_book=False)
    assert "1 claim: 1 not tried." in page([ledger(untried, gpu=run(untried))])


def cells(row):
    """The cells of a row, as a reader of HTML sees them; what opens stands behind a bar."""
    lines = row.partition("\n```")[0].rstrip("\n").split("\n")
    shown = [line.strip().removeprefix("-").strip() for line in lines]
    return [unescape(re.sub("<.*?>", "", cell.replace("</summary>", "|"))) for cell in shown]


def test_a_verdict_leads_to_its_run():
    text = page([ledger(CLAIM, gpu=run(CLAIM, scale="gpu", source="another", dirty=True))])
    leads, stands = re.findall('href="#([^"]*)"', text), re.findall('id="([^"]*)"', text)
    assert leads == stands == ["run-a-cpu", "run-a-gpu"]
    here, there = text.split("\n- <span")[1:]
    assert "**a, cpu**: 3 February 2026, in 35 seconds on 1 thread of A \\<fast\\> one" in here
    assert "Python 3.12.1, torch 2.9; commit 1234567." in here
    assert "another version of the code" in there
    assert "commit 1234567 with changes." in there


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 second"),
        (99.4, "99 seconds"),
        (99.6, "2 minutes"),
        (794, "13 minutes"),
        (9000, "2.5 hours"),
    ],
)
def test_a_duration_is_told_as_one_says_it(seconds, said):
    assert duration({"seconds": seconds}) == said


def test_what_is_told_of_a_run_outside_git_on_two_threads():
    there = run(commit=None, dirty=None, threads=2, device="NVIDIA X, NVIDIA X")
    assert date(there) == "3 February 2026"
    assert machine(there) == "2 threads of A <fast> one, NVIDIA X, NVIDIA X"
    assert versions(there) == "Python 3.12.1, torch 2.9; outside git"


def test_without_claims_it_says_so():
    assert "No claims." in page([])
    assert counted([]) == "No claims"


def test_the_summary_is_a_table_a_reader_of_the_readme_sees():
    text = summary([ledger(CLAIM)], in_book=False)
    html = MarkdownIt("gfm-like", {"linkify": False}).render(text)
    assert html.count("<tr>") == 3
    assert '<a href="book/a.ipynb">A *title*</a>' in html
    assert "corrected" in html
    assert "holds" not in html  # no column for what did not occur
    assert "claims.html" not in html


def test_in_the_book_each_number_leads_to_the_claims_it_counts():
    far = {**CLAIM, "id": "a-e2", "verdict": "holds at this scale"}
    text = summary([ledger(CLAIM, far, far)], in_book=True)
    asked = [parse_qs(urlsplit(unescape(a)).query) for a in re.findall('href="([^"]*)"', text)]
    scale, wrong = ["holds at this scale"], ["corrected"]
    assert asked == [
        {"paper": ["a"]},
        {"paper": ["a"], "verdict": scale},
        {"paper": ["a"], "verdict": wrong},
        {},
        {"verdict": scale},
        {"verdict": wrong},
    ]
    assert re.findall(">(.)</a>", text) == ["3", "2", "1", "3", "2", "1"]
    assert 'aria-label="2 claims, a, holds at this scale"' in text


def test_evidence_is_runs_and_no_measurements(refreshed: Path):
    folder = refreshed / "book" / "evidence" / "tiny"
    (folder / "tiny-cpu.json").write_text('{"bench": "tiny", "claims": []}')
    (found,) = read_ledgers(refreshed / "book", all_chapters(refreshed))
    assert list(found.evidence) == ["long"]
