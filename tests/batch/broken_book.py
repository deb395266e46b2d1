"""Ways to break the tiny book, each for a test of what notices it."""

import json
from pathlib import Path

import nbformat
from tiny_book import edit

from core.batch import records
from core.batch.chapters import all_chapters, find_chapters
from core.batch.check import problems
from core.batch.notebook import normalise
from core.batch.refresh import write_pages


def lines(root: Path) -> list[str]:
    return [str(problem) for problem in problems(root)]


def edit_record(root: Path, **fields) -> None:
    edit_sealed(root / "book" / "tiny.json", fields)


def edit_evidence(root: Path, **fields) -> None:
    edit_sealed(root / "book" / "evidence" / "tiny" / "long.json", fields)


def edit_sealed(path: Path, fields: dict) -> None:
    """Leave the seal whole: what is edited is to be found by its own rule."""
    found = json.loads(path.read_text()) | fields
    path.write_text(json.dumps(found | {"seal": records.seal_of(found)}))


def edit_notebook(root: Path, change) -> None:
    path = root / "book" / "tiny.ipynb"
    notebook = nbformat.read(path, as_version=4)
    change(notebook)
    nbformat.write(notebook, path)


def edit_claim(root: Path, **fields) -> None:
    """Change the claim in notebook, record and pages alike."""

    def change(notebook):
        (claim,) = notebook.cells[-1].outputs[0].metadata["core"]["claims"]
        claim.update(fields)

    edit_notebook(root, change)
    path = root / "book" / "tiny.json"
    (claim,) = json.loads(path.read_text())["claims"]
    edit_record(root, claims=[claim | fields])
    rewrite_pages(root)


def edit_script(root: Path, old: str, new: str) -> None:
    """Change script, notebook and record alike, as a refresh would without a guard."""
    edit(root / "book" / "tiny.py", old, new)
    pretend_executed(root)


def pretend_executed(root: Path) -> None:
    """Give the notebook the cells of the script, and the outputs it had."""
    (tiny,) = find_chapters(root, ())
    old = nbformat.read(tiny.notebook, as_version=4)
    outputs = [cell.outputs for cell in old.cells if cell.cell_type == "code"]
    for cell in tiny.source.cells:
        if cell.cell_type == "code":
            cell.execution_count = 1
            cell.outputs = outputs.pop(0)
    nbformat.write(normalise(tiny.source), tiny.notebook)
    edit_record(root, source=tiny.sha256)
    rewrite_pages(root)


def measure(root: Path, chapter: str) -> None:
    """Leave beside the chapter what a bench writes."""
    path = root / "book" / "evidence" / chapter / "tiny-cpu.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"bench": "tiny", "rows": []}')


def rewrite_pages(root: Path) -> None:
    write_pages(root / "book", all_chapters(root))


def first_code(notebook):
    return next(cell for cell in notebook.cells if cell.cell_type == "code")


def never_ran(notebook):
    first_code(notebook).execution_count = None


def raised(notebook):
    error = nbformat.v4.new_output("error", ename="OSError", evalue="no", traceback=[])
    first_code(notebook).outputs.append(error)


def other_cell(notebook):
    first_code(notebook).source += "\n# by hand"


def other_tag(notebook):
    first_code(notebook).metadata["tags"] = ["parameters", "remove-cell"]


def forged(notebook):
    notebook.cells[-1].outputs[0].metadata["core"]["claims"][0]["here"] = "3.6"


def figure_of(notebook):
    return notebook.cells[5].outputs[0].metadata["core"]["figure"][0]["series"][0]


def moved(notebook):
    figure_of(notebook)["y"] = "3.6"


def no_numbers(notebook):
    notebook.cells[5].outputs[0].metadata = {}


def no_claims(notebook):
    notebook.cells[-1].outputs[0].metadata = {}


def html_image(notebook):
    data = {"text/html": '<img alt="" src="data:">'}
    first_code(notebook).outputs = [nbformat.v4.new_output("display_data", data)]
