"""The generated pages, read back by a Markdown parser that is not ours."""

from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from core.batch.chapters import all_chapters
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


def ledger(*claims, **evidence) -> Ledger:
    return Ledger("a", "A *title*", list(claims), evidence)


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


def test_the_page_counts_links_and_tabulates():
    other = {**CLAIM, "id": "a-e2", "verdict": "holds"}
    text = page([ledger(CLAIM, other, gpu={"claims": [{**CLAIM, "verdict": "undecided"}]})])
    assert "2 claims: 1 holds, 1 corrected." in text
    assert "  - Verdict\n  - Verdict (gpu)\n" in text
    assert "* - a\n  - [a-e1](#a-e1)\n  - Thm. 1\n" in text
    assert "  - corrected\n  - undecided\n" in text
    assert text.rstrip().endswith("  - holds\n  -\n```")  # no evidence for the second claim


def test_without_claims_it_says_so():
    assert "No claims." in page([])
    assert counted([]) == "No claims"


def test_the_summary_is_a_table_a_reader_of_the_readme_sees():
    html = MarkdownIt("gfm-like", {"linkify": False}).render(summary([ledger(CLAIM)]))
    assert html.count("<tr>") == 2
    assert '<a href="book/a.ipynb">A *title*</a>' in html


def test_evidence_is_runs_and_no_measurements(refreshed: Path):
    folder = refreshed / "book" / "evidence" / "tiny"
    (folder / "tiny-cpu.json").write_text('{"bench": "tiny", "claims": []}')
    (found,) = read_ledgers(refreshed / "book", all_chapters(refreshed))
    assert list(found.evidence) == ["long"]
