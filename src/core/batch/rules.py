"""What a committed chapter has to satisfy: one rule a function, each yields what is wrong.

A rule looks at the script, the committed notebook and its record, and runs nothing.
"""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from nbformat import NotebookNode

from core.batch import notebook as nb
from core.batch.chapters import Chapter
from core.batch.parameters import defaults_of, parameters_of
from core.batch.records import Record, broken_seal, faults
from core.command import Refused

REFRESH = "python -m core.batch refresh {}"
LINES = 20  # of a code cell that a reader sees
WANTED = {"seed": ("int", "0"), "device": ("str", '"auto"')}  # parameters of every chapter


class Problem(NamedTuple):
    """One thing that is wrong, and what mends it."""

    file: str
    what: str
    todo: str

    def __str__(self) -> str:
        """Return it as the one line that is printed."""
        return f"{self.file}: {self.what}; {self.todo}"


class Committed(NamedTuple):
    """What stands in the book for one chapter."""

    chapter: Chapter
    notebook: NotebookNode
    record: Record

    def in_script(self, what: str, todo: str) -> Problem:
        """Return a problem of the script."""
        return Problem(f"book/{self.chapter.name}.py", what, todo)

    def in_notebook(self, what: str, todo: str = "") -> Problem:
        """Return a problem of the notebook; a fresh execution mends it unless `todo` says else."""
        todo = todo or REFRESH.format(self.chapter.name)
        return Problem(f"book/{self.chapter.name}.ipynb", what, todo)

    def in_record(self, what: str, todo: str = "") -> Problem:
        """Return a problem of the record; a fresh execution mends it unless `todo` says else."""
        todo = todo or REFRESH.format(self.chapter.name)
        return Problem(f"book/{self.chapter.name}.json", what, todo)


def has_typed_parameters(it: Committed) -> Iterator[Problem]:
    """Demand a parameters cell, `seed` and `device` in it, and a type on every line."""
    try:
        parameters = parameters_of(it.chapter)
    except Refused as why:
        yield it.in_script(str(why), "keep computations out of that cell")
        return
    if not parameters:
        yield it.in_script("no parameters", 'tag a cell "parameters" and put seed: int = 0 in it')
        return
    for parameter in parameters.values():
        if not parameter.annotation:
            what = f"parameter {parameter.name} has no type"
            yield it.in_script(what, f"write {parameter.name}: int = ..., or what it is")
    for name, (kind, default) in WANTED.items():
        found = parameters.get(name)
        if not found or found.annotation not in ("", kind):  # without a type it is named above
            what = f"parameter {name} is of type {found.annotation}" if found else f"no {name}"
            yield it.in_script(what, f"write {name}: {kind} = {default} in the parameters cell")


def defines_nothing(it: Committed) -> Iterator[Problem]:
    """Refuse functions and classes: what needs a name belongs into the library."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in ast.walk(ast.parse(it.chapter.text)):
        if isinstance(node, kinds):
            what = f"line {node.lineno} defines {node.name}"
            yield it.in_script(what, "move it to the library: a chapter calls, it does not define")


def cells_are_short(it: Committed) -> Iterator[Problem]:
    """Refuse long code where readers see it: a hidden cell may be longer, and the parameters."""
    for index, cell in nb.code_cells(it.chapter.source):
        lines = len(cell.source.splitlines())
        if lines > LINES and not {"hide-input", "parameters"} & {*cell.metadata.get("tags", [])}:
            what = f"cell {index} shows {lines} lines of code, of {LINES} at most"
            yield it.in_script(what, 'split it, or tag it "hide-input" if readers do not need it')


def was_executed(it: Committed) -> Iterator[Problem]:
    """Demand that every code cell ran and none raised."""
    missing = nb.what_is_missing(it.notebook)
    if missing:
        yield it.in_notebook(missing)


def is_of_this_source(it: Committed) -> Iterator[Problem]:
    """Demand that notebook and record belong to the script as it stands."""
    if nb.code_hash(it.notebook) != it.chapter.sha256:
        yield it.in_notebook("its code differs from the script")
    elif not nb.same_source(it.notebook, it.chapter.source):
        yield it.in_notebook("its prose differs from the script", REFRESH.format("--pages"))
    if it.record.get("source") != it.chapter.sha256:
        yield it.in_record("it is the record of other code than the script's")


def has_valid_record(it: Committed) -> Iterator[Problem]:
    """Demand a record of a whole run at the defaults, without warnings."""
    for fault in faults(it.record):
        yield it.in_record(f"not valid, {fault}")
    if seal := broken_seal(it.record):
        yield it.in_record(seal)
    if it.record.get("status") != "done":
        yield it.in_record("it is the record of a failed run")
    defaults = defaults_of(it.chapter)
    if it.record.get("parameters") != defaults or it.record.get("seed") != defaults.get("seed"):
        yield it.in_record("its parameters are not the script's")
    if it.record.get("given"):
        yield it.in_record(f"parameters were set: {', '.join(it.record['given'])}")
    for warning in it.record.get("warnings", []):
        yield it.in_record(f"the run warned: {warning}", "mend its cause in the chapter")


def has_claims(it: Committed) -> Iterator[Problem]:
    """Demand one ledger, in the cell that nbval compares, and the same claims in the record."""
    cell = nb.claims_cell(it.notebook)
    if cell is None:
        if it.chapter.is_paper:
            what = "no output carries claims"
            yield it.in_notebook(what, "end the chapter with ledger.verify(), then refresh it")
        return
    if nb.CLAIMS_TAG not in cell.metadata.get("tags", []):
        what = "the cell with the claims is not compared by nbval"
        yield it.in_script(what, f'give it the tag "{nb.CLAIMS_TAG}"')
    if nb.claims_in(it.notebook) != it.record.get("claims"):
        yield it.in_record("its claims are not those in the notebook")


def verdicts_are_as_expected(it: Committed) -> Iterator[Problem]:
    """Demand that each verdict is the expected one, and none is open."""
    for claim in nb.claims_in(it.notebook):
        verdict, expected = claim.get("verdict"), claim.get("expected")
        if verdict != expected:
            what = f"claim {claim.get('id')}: verdict {verdict!r}, expected {expected!r}"
            yield it.in_notebook(what, "find out why, then correct the one or the other")
        elif verdict == "undecided":
            what = f"claim {claim.get('id')} is undecided"
            yield it.in_notebook(what, "the default scale has to decide: more samples, or a tie")


def claims_have_labels(it: Committed) -> Iterator[Problem]:
    """Demand that each claim's id labels the cell that records it."""
    labelled = set(_labelled(it))
    for claim in nb.claims_in(it.notebook):
        name = claim.get("id")
        if name not in labelled:
            todo = f"end the markdown cell before the one that records it with ({name})="
            yield it.in_script(f"claim {name} has no label", todo)


def figures_are_described(it: Committed) -> Iterator[Problem]:
    """Demand a caption, a name and a text for those who do not see it, of each figure."""
    for index, cell in nb.code_cells(it.notebook):
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        if any(kind.startswith("image/") for kind in kinds):
            options = cell.metadata.get("mystnb", {})
            figure, image = options.get("figure", {}), options.get("image", {})
            for key, there in (("caption", figure), ("name", figure), ("alt", image)):
                if not there.get(key, "").strip():
                    what = f"the figure of cell {index} has no {key}"
                    yield it.in_script(what, f"add it to mystnb={{...}}: {_option(key)}")
        if any(re.search(r"<img(?![^>]*\salt=[\"'][^\"'])", html) for html in _html(cell)):
            what = f"an image in cell {index} has no alt text"
            yield it.in_script(what, 'write <img alt="what is to be seen" ...>')


def figures_carry_numbers(it: Committed) -> Iterator[Problem]:
    """Demand the numbers behind each figure, and the same in the record."""
    if nb.figures_in(it.notebook) != it.record.get("figures", {}):
        yield it.in_record("its figures are not those in the notebook")
    for index, cell in nb.code_cells(it.notebook):
        pictures = [output for output in cell.outputs if _is_picture(output)]
        if len(nb.panels_of(pictures)) < len(pictures):
            what = f"the figure of cell {index} carries no numbers"
            yield it.in_script(what, "draw it with figure, heat_maps or clip of core.lab")


CHAPTER_RULES = (
    has_typed_parameters,
    defines_nothing,
    cells_are_short,
    was_executed,
    is_of_this_source,
    has_valid_record,
    has_claims,
    verdicts_are_as_expected,
    claims_have_labels,
    figures_are_described,
    figures_carry_numbers,
)


def _labelled(it: Committed) -> Iterator[str]:
    """Yield each label at the end of a markdown cell where the next cell, of code, has its claim.

    The cell names the id, or shows the claim of an id that it puts together.
    """
    cells = it.chapter.source.cells
    executed = (cell for _, cell in nb.code_cells(it.notebook))
    for place, code in nb.code_cells(it.chapter.source):
        known = _strings(code.source) | _shown(next(executed, None))
        prose = cells[place - 1]
        if place == 0 or prose.cell_type != "markdown":
            continue
        for line in reversed(prose.source.rstrip().splitlines()):
            label = re.fullmatch(r"\(([^()]+)\)=", line.strip())
            if not label:
                break
            if label[1] in known:
                yield label[1]


def _shown(cell: NotebookNode | None) -> set[str]:
    """Return the ids of the claims that a cell shows."""
    outputs = cell.outputs if cell else []
    texts = (output.get("data", {}).get("text/plain", "") for output in outputs)
    claims = (re.match(r"Claim\(id='([^']+)'", text) for text in texts)
    return {claim[1] for claim in claims if claim}


def _strings(code: str) -> set[object]:
    """Return the literals in a cell, none where a magic makes it no Python."""
    try:
        return {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
    except SyntaxError:
        return set()


def _option(key: str) -> str:
    return '{"image": {"alt": ...}}' if key == "alt" else f'{{"figure": {{"{key}": ...}}}}'


def _is_picture(output: NotebookNode) -> bool:
    data = output.get("data", {})
    return "<img" in data.get("text/html", "") or any(kind.startswith("image/") for kind in data)


def _html(cell: NotebookNode) -> Iterator[str]:
    for output in cell.outputs:
        yield output.get("data", {}).get("text/html", "")
