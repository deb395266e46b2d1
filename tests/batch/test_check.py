"""Break a good book in one way at a time: the check has to name it, and nothing else."""

import re
import shutil

import nbformat
import pytest
from broken_book import (
    edit_claim,
    edit_evidence,
    edit_notebook,
    edit_record,
    edit_script,
    forged,
    html_image,
    lines,
    measure,
    moved,
    never_ran,
    no_claims,
    no_numbers,
    other_cell,
    other_tag,
    pretend_executed,
    raised,
    rewrite_pages,
)
from tiny_book import add_cell, edit

from core.batch.cli import main

FAULTS = {
    "no notebook": (
        lambda root: (root / "book" / "tiny.ipynb").unlink(),
        "book/tiny.ipynb: missing, or no notebook; python -m core.batch refresh tiny",
    ),
    "torn record": (
        lambda root: (root / "book" / "tiny.json").write_text("{"),
        "book/tiny.json: missing, or no record",
    ),
    "no Python": (
        lambda root: edit(root / "book" / "tiny.py", "import sys", "import"),
        r"book/tiny.py: line \d+: ",
    ),
    "never ran": (lambda root: edit_notebook(root, never_ran), "cell 1 never ran"),
    "raised": (lambda root: edit_notebook(root, raised), "cell 1 raised OSError: no"),
    "cell edited": (lambda root: edit_notebook(root, other_cell), "its code differs"),
    "tag edited": (
        lambda root: edit_notebook(root, other_tag),
        "its prose differs from the script; .* refresh --pages",
    ),
    "forged claim": (lambda root: edit_notebook(root, forged), "its claims are not those in the"),
    "claim typed": (
        lambda root: (edit_record(root, claims=[]), rewrite_pages(root)),
        "its claims are not those in the notebook",
    ),
    "forged figure": (
        lambda root: edit_notebook(root, moved),
        "book/tiny.json: its figures are not those in the notebook; .*refresh tiny",
    ),
    "figure without numbers": (
        lambda root: (edit_notebook(root, no_numbers), edit_record(root, figures={})),
        "book/tiny.py: the figure of cell 5 carries no numbers; draw it with figure",
    ),
    "clip without numbers": (
        lambda root: edit_notebook(root, html_image),
        "the figure of cell 1 carries no numbers",
    ),
    "figure of no numbers in the record": (
        lambda root: edit_record(root, figures={"tiny-dot": [{"title": "", "axes": {}}]}),
        r"not valid, \$.figures\['?tiny-dot'?\]\[0\]: 'series' is a required",
    ),
    "claims untagged": (
        lambda root: edit_script(root, 'tags=["nbval-check-output"]', 'tags=["other"]'),
        'not compared by nbval; give it the tag "nbval-check-output"',
    ),
    "record of another source": (
        lambda root: edit_record(root, source="0" * 64),
        "the record of other code than",
    ),
    "record of another seed": (
        lambda root: edit_record(root, seed=99),
        "its parameters are not the script's",
    ),
    "record of a failure": (
        lambda root: edit_record(root, status="failed"),
        "book/tiny.json: it is the record of a failed run",
    ),
    "record of other parameters": (
        lambda root: edit_record(root, given={"seed": 3}),
        "parameters were set: seed",
    ),
    "invalid record": (lambda root: edit_record(root, seconds="long"), r"not valid, \$.seconds: "),
    "unknown field": (lambda root: edit_record(root, host="me"), "not valid, .*'host' was unexp"),
    "a record edited by hand": (
        lambda root: edit(root / "book" / "tiny.json", '"seed": 0', '"seed":  0, "title": "x"'),
        "book/tiny.json: it was edited by hand: its seal is broken; .*refresh tiny",
    ),
    "evidence edited by hand": (
        lambda root: edit(root / "book" / "evidence" / "tiny" / "long.json", '"cpu"', '"CPU"'),
        "long.json: it was edited by hand: its seal is broken; .*--scale long --evidence",
    ),
    "a warning": (
        lambda root: edit_record(root, warnings=["UserWarning: gap"]),
        "the run warned: UserWarning: gap",
    ),
    "undecided": (
        lambda root: edit_claim(root, verdict="undecided", expected="undecided"),
        "claim tiny-e1 is undecided",
    ),
    "unexpected verdict": (
        lambda root: edit_claim(root, verdict="not seen"),
        "claim tiny-e1: verdict 'not seen', expected 'holds'",
    ),
    "no label": (
        lambda root: edit_script(root, "(tiny-e1)=", "And so on."),
        r"claim tiny-e1 has no label; end the markdown cell .* with \(tiny-e1\)=",
    ),
    "label not last": (
        lambda root: edit_script(root, "# (tiny-e1)=", "# (tiny-e1)=\n# And so on."),
        "claim tiny-e1 has no label",
    ),
    "label before a cell that does not name it": (
        lambda root: edit_script(root, '"id": "tiny-e1"', '"id": "tiny-" + "e1"'),
        "claim tiny-e1 has no label",
    ),
    "untyped parameter": (
        lambda root: edit_script(root, "seed: int = 0", "seed = 0"),
        "parameter seed has no type; write seed: int",
    ),
    "no seed": (
        lambda root: edit_script(root, "seed: int = 0", "start: int = 0"),
        "book/tiny.py: no seed; write seed: int = 0 in the parameters cell",
    ),
    "a seed of another type": (
        lambda root: edit_script(root, "seed: int = 0", "seed: float = 0.0"),
        "parameter seed is of type float; write seed: int = 0",
    ),
    "no device": (
        lambda root: edit_script(root, 'device: str = "auto"\n', ""),
        'no device; write device: str = "auto"',
    ),
    "no parameters": (
        lambda root: (
            edit_script(root, 'tags=["parameters"]', 'tags=["other"]'),
            shutil.rmtree(root / "book" / "scales"),
        ),
        'no parameters; tag a cell "parameters"',
    ),
    "a function": (
        lambda root: edit_script(root, "mean = ", "def f(): pass\nmean = "),
        r"line \d+ defines f; move it to the library",
    ),
    "a class": (
        lambda root: edit_script(root, "mean = ", "class C: pass\nmean = "),
        r"line \d+ defines C",
    ),
    "a long cell": (
        lambda root: edit_script(root, "mean = ", "pass\n" * 20 + "mean = "),
        r"cell \d+ shows 2\d lines of code, of 20 at most; split it, or tag it",
    ),
    "no caption": (
        lambda root: edit_script(root, '"caption": "A dot.", ', ""),
        "the figure of cell 5 has no caption",
    ),
    "no name": (
        lambda root: edit_script(root, ', "name": "tiny-dot"', ""),
        "the figure of cell 5 has no name",
    ),
    "no alt text": (
        lambda root: edit_script(root, '{"alt": "one dot"}', '{"alt": " "}'),
        "the figure of cell 5 has no alt",
    ),
    "image without alt": (
        lambda root: edit_notebook(root, html_image),
        "an image in cell 1 has no alt text",
    ),
    "edited page": (
        lambda root: edit(root / "book" / "claims.md", "holds", "fails"),
        "book/claims.md: it is not what the records give; .*refresh --pages",
    ),
    "edited readme": (
        lambda root: edit(root / "README.md", "| 1 |", "| 2 |"),
        "README.md: it is not what the records give",
    ),
    "readme without table": (
        lambda root: (root / "README.md").write_text("# Book\n"),
        "README.md: it has no table of claims; put <!-- claims -->",
    ),
    "edited front": (
        lambda root: edit(root / "book" / "intro.md", ">1<", ">2<"),
        "book/intro.md: it is not what the records give; .*refresh --pages",
    ),
    "scale of unknown name": (
        lambda root: (root / "book/scales/tiny/long.yaml").write_text("runs: 3\n"),
        "book/scales/tiny/long.yaml: unknown parameter 'runs': chapter tiny has seed",
    ),
    "scale of wrong type": (
        lambda root: (root / "book/scales/tiny/long.yaml").write_text("seed: '3'\n"),
        "book/scales/tiny/long.yaml: parameter seed wants int, got '3'",
    ),
    "scale of no YAML": (
        lambda root: (root / "book/scales/tiny/long.yaml").write_text("seed: [\n"),
        "book/scales/tiny/long.yaml: while parsing",
    ),
    "scale of a list": (
        lambda root: (root / "book/scales/tiny/long.yaml").write_text("- seed\n"),
        "book/scales/tiny/long.yaml: want lines of `name: value`",
    ),
    "stray notebook": (
        lambda root: shutil.copy(root / "book/tiny.ipynb", root / "book/old.ipynb"),
        "book/old.ipynb: belongs to no chapter; delete it",
    ),
    "stray scale": (
        lambda root: shutil.copytree(root / "book/scales/tiny", root / "book/scales/old"),
        "book/scales/old: belongs to no chapter",
    ),
    "evidence under another name": (
        lambda root: shutil.move(
            root / "book/evidence/tiny/long.json", root / "book/evidence/tiny/gpu.json"
        ),
        "book/evidence/tiny/gpu.json: it is the record of tiny at scale long",
    ),
    "evidence without notebook": (
        lambda root: (root / "book/evidence/tiny/long.ipynb").unlink(),
        "book/evidence/tiny/long.json: its notebook is missing; .*run tiny --scale long --evidence",
    ),
    "evidence of a claim that is gone": (
        lambda root: edit(root / "book/evidence/tiny/long.json", "tiny-e1", "tiny-e9"),
        "book/evidence/tiny/long.json: claim tiny-e9 is none of the chapter's",
    ),
    "evidence with another figure": (
        lambda root: edit(root / "book/evidence/tiny/long.json", '"y": "7"', '"y": "8"'),
        "book/evidence/tiny/long.json: its figures are not those in its notebook",
    ),
    "evidence that passes for the script's": (
        lambda root: edit_evidence(root, source="0" * 64),
        "book/evidence/tiny/long.json: it is not the record of the code in its notebook",
    ),
    "evidence that is a list": (
        lambda root: (root / "book/evidence/tiny/long.json").write_text("[]"),
        "book/evidence/tiny/long.json: it is the record of None",
    ),
    "evidence cut short": (
        lambda root: (root / "book/evidence/tiny/long.json").write_text('{"bench": "tiny"'),
        "book/evidence/tiny/long.json: it is the record of None",
    ),
    "evidence of no chapter": (
        lambda root: shutil.copytree(root / "book/evidence/tiny", root / "book/evidence/old"),
        "book/evidence/old: belongs to no chapter",
    ),
    "measurement of no chapter": (
        lambda root: measure(root, "old"),
        "book/evidence/old: belongs to no chapter",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_it_names_the_fault(refreshed, fault):
    spoil, said = FAULTS[fault]
    spoil(refreshed)
    found = lines(refreshed)
    assert any(re.search(said, line) for line in found), found


def test_a_good_book_has_no_problem(refreshed, monkeypatch, capsys):
    assert lines(refreshed) == []
    monkeypatch.chdir(refreshed)
    assert main(["check"]) == 0
    pretend_executed(refreshed)  # what the faults above are made with does no harm itself
    edit_claim(refreshed, here="3.5")
    assert lines(refreshed) == []


def test_a_bad_book_ends_with_exit_code_one(refreshed, monkeypatch, capsys):
    edit_record(refreshed, warnings=["UserWarning: gap"])
    monkeypatch.chdir(refreshed)
    assert main(["check"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("book/tiny.json: the run warned")
    assert said[-1] == "problems: 1"


def test_evidence_of_another_version_is_noted_and_no_fault(refreshed, monkeypatch, capsys):
    monkeypatch.chdir(refreshed)
    assert main(["check"]) == 0
    assert capsys.readouterr().out == "the book is as it should be\n"
    edit_script(refreshed, "The mean of a die is 3.5.", "It is 3.5.")  # no number is older for it
    assert main(["check"]) == 0
    assert capsys.readouterr().out == "the book is as it should be\n"
    edit_script(refreshed, "mean = sum(", "mean = +sum(")
    assert main(["check"]) == 0
    note, verdict = capsys.readouterr().out.splitlines()
    assert note == (
        "note: book/evidence/tiny/long.json: of another version of the code; "
        "python -m core.batch run tiny --scale long --evidence"
    )
    assert verdict == "the book is as it should be"


def test_a_measurement_beside_a_chapter_is_no_run(refreshed, monkeypatch, capsys):
    measure(refreshed, "tiny")
    monkeypatch.chdir(refreshed)
    assert main(["check"]) == 0
    assert capsys.readouterr().out == "the book is as it should be\n"


def test_a_figure_without_numbers_is_named(refreshed):
    edit_notebook(refreshed, no_numbers)
    edit_record(refreshed, figures={})
    (line,) = lines(refreshed)
    assert "carries no numbers; draw it with figure, heat_maps or clip of core.lab" in line


def test_several_labels_may_stand_together(refreshed):
    edit_script(refreshed, "# (tiny-e1)=", "# (tiny-e1)=\n# (tiny-e2)=")
    assert lines(refreshed) == []


def test_a_claim_whose_id_is_put_together_is_known_by_what_its_cell_shows(refreshed):
    def show(notebook):
        (cell,) = (c for c in notebook.cells if c.source.startswith("claim = "))
        told = {"text/plain": "Claim(id='tiny-e1', source='Sec. 1')"}
        cell.outputs.append(nbformat.v4.new_output("display_data", told))

    edit_script(refreshed, '"id": "tiny-e1"', '"id": "tiny-" + "e1"')
    assert len(lines(refreshed)) == 1
    edit_notebook(refreshed, show)
    assert lines(refreshed) == []


def test_a_page_outside_the_papers_needs_no_claims(refreshed):
    edit(refreshed / "book" / "_toc.yml", "caption: Papers", "caption: Kernels")
    edit_notebook(refreshed, no_claims)
    edit_record(refreshed, claims=[])
    shutil.rmtree(refreshed / "book" / "evidence")
    rewrite_pages(refreshed)
    assert lines(refreshed) == []


def test_a_paper_needs_claims(refreshed):
    edit_notebook(refreshed, no_claims)
    edit_record(refreshed, claims=[])
    rewrite_pages(refreshed)
    assert any("no output carries claims" in line for line in lines(refreshed))


def test_a_chapter_that_was_never_executed_is_named(book):
    add_cell(book, "x = 1")
    assert "book/tiny.ipynb: missing" in lines(book)[0]
