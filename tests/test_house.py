"""The rules of the house: who imports whom, and what belongs to a chapter.

A new paper is one line in `book/_toc.yml`; this file then names what is missing, until nothing is.
"""

import ast
import re
import shutil
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
import yaml
from jupytext.cli import jupytext
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from core.batch.chapters import all_chapters
from core.batch.parameters import scale_values, scales_of

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "core"
BOOK = ROOT / "book"
CHAPTERS = {chapter.name: chapter for chapter in all_chapters(ROOT)}
PAPERS = [
    entry["file"]
    for part in yaml.safe_load((BOOK / "_toc.yml").read_text())["parts"]
    for entry in part["chapters"]
    if part["caption"] == "Papers"
]

# papers stand on top; a room imports only what is below it
GROUND = {"checks", "command", "files", "provenance", "stats", "timing"}
FLOORS = dict.fromkeys(GROUND, 0) | {"kernels": 1, "train": 2}
PAPER = 3
APART = {"lab": set(), "batch": GROUND, "bench": GROUND}
LINES = 400


def sources(*patterns):
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def below_root(path):
    return path.relative_to(ROOT).as_posix()


def room_of(path):
    """`core/mesa/flow.py` is in the room mesa, `core/provenance.py` is the room provenance."""
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def rooms_imported(source):
    """The rooms of core that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write `from core.... import`, in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("core.")}
    return found


def allowed(room, other):
    if room in APART:
        return other in APART[room]
    return other not in APART and FLOORS.get(other, PAPER) < FLOORS.get(room, PAPER)


@pytest.mark.parametrize("path", sources("src/core/**/*.py"), ids=below_root)
def test_a_room_imports_only_what_is_below_it(path):
    room = room_of(path)
    wrong = {o for o in rooms_imported(path.read_text()) - {room} if not allowed(room, o)}
    assert not wrong, f"core.{room} may not import {', '.join(f'core.{o}' for o in sorted(wrong))}"


@pytest.mark.parametrize(
    ("room", "other", "fine"),
    [
        ("mesa", "kernels", True),
        ("mesa", "checks", True),
        ("mesa", "mup", False),
        ("mesa", "lab", False),
        ("mesa", "batch", False),
        ("kernels", "mesa", False),
        ("mesa", "train", True),
        ("train", "kernels", True),
        ("train", "mesa", False),
        ("lab", "provenance", False),
        ("batch", "lab", False),
        ("batch", "provenance", True),
        ("batch", "stats", True),
        ("kernels", "files", True),
        ("files", "provenance", False),
        ("batch", "command", True),
        ("kernels", "command", True),
        ("command", "provenance", False),
    ],
)
def test_the_arrow_of_imports(room, other, fine):
    assert allowed(room, other) == fine


def test_an_import_inside_a_function_counts():
    source = "def f():\n    from core import mup\n    import core.lab.ledger\n"
    assert rooms_imported(source) == {"mup", "lab"}


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_uses_papers_and_the_lab(name):
    wrong = rooms_imported(CHAPTERS[name].script.read_text()) & {"batch", "bench"}
    assert not wrong, f"book/{name}.py is run by core.batch, and does not import {wrong}"


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize(
    "place",
    [
        "book/{}.py",
        "book/{}.ipynb",
        "book/{}.json",
        "book/scales/{}/smoke.yaml",
        "book/api/{}.md",
        "src/core/{}/__init__.py",
        "tests/{}",
    ],
)
def test_a_paper_has_its_chapter_its_library_and_its_tests(paper, place):
    assert (ROOT / place.format(paper)).exists(), f"the paper {paper!r} lacks {place.format(paper)}"


@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_says_what_differs_and_what_was_reproduced(paper):
    assert paper in CHAPTERS, f"the paper {paper!r} lacks book/{paper}.py"
    cells = [cell.source for cell in CHAPTERS[paper].source.cells if cell.cell_type == "markdown"]
    headings = re.findall(r"^## (.+)$", "\n\n".join(cells), re.M)
    assert headings[-1] == "What was reproduced", f"book/{paper}.py must end in its ledger"
    assert "What differs from the paper" in headings, f"book/{paper}.py must say what differs"


@pytest.mark.parametrize("name", CHAPTERS)
def test_saving_a_chapter_from_jupyter_changes_nothing(name, tmp_path):
    """A script goes to a notebook and back: quotes, order of metadata and header are canonical."""
    shutil.copy(ROOT / "jupytext.toml", tmp_path)
    script = shutil.copy(CHAPTERS[name].script, tmp_path)
    notebook, back = str(tmp_path / "saved.ipynb"), str(tmp_path / "saved.py")
    jupytext(["--quiet", "--to", "ipynb", "--output", notebook, str(script)])
    jupytext(["--quiet", "--to", "py:percent", "--output", back, notebook])
    here, there = Path(script).read_text(), Path(back).read_text()
    assert there == here, f"write book/{name}.py as Jupyter would save it"


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_scale_starts(name):
    """Runs the cells up to the one tagged `inputs` for each scale, all in one kernel."""
    chapter = CHAPTERS[name]
    cells = [cell for cell in chapter.source.cells if cell.cell_type == "code"]
    tags = [set(cell.metadata.get("tags", [])) for cell in cells]
    last = next((i for i, found in enumerate(tags) if "inputs" in found), None)
    assert last is not None, f'tag the cell of book/{name}.py that ends its set-up "inputs"'
    stop = {}
    for scale in scales_of(chapter):
        values = [f"{key} = {value!r}" for key, value in scale_values(chapter, scale).items()]
        start = [cell.source for cell in cells[: last + 1]]
        stop[scale] = ["%reset -f", start[0], "\n".join(values), *start[1:]]
    failed = {scale: error for scale, error in errors_of(stop).items() if error}
    assert not failed, "\n".join(f"{scale}: {error}" for scale, error in failed.items())


def errors_of(programs):
    """The first error of each program, None where it ran or lacks an input that it names."""
    cells = [
        nbformat.v4.new_code_cell(source, metadata={"program": name})
        for name, sources in programs.items()
        for source in sources
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3", allow_errors=True, timeout=120).execute()
    found = dict.fromkeys(programs)
    for cell in notebook.cells:
        for output in cell.outputs:
            if output.output_type == "error" and not output.evalue.startswith("needs "):
                name = cell.metadata["program"]
                found[name] = found[name] or f"{output.ename}: {output.evalue}"
    return found


def test_a_scale_may_lack_an_input_if_it_says_so():
    found = errors_of(
        {
            "runs": ["x = 1"],
            "breaks": ["1 / 0", "y"],
            "lacks": ["raise FileNotFoundError('needs ImageNet latents in data/: see the README')"],
        }
    )
    assert found == {"runs": None, "breaks": "ZeroDivisionError: division by zero", "lacks": None}


@pytest.mark.parametrize("path", sources("src/core/**/*.py", "tests/**/*.py"), ids=below_root)
def test_a_file_can_be_read_in_one_sitting(path):
    found = len(path.read_text().splitlines())
    assert found <= LINES, f"{below_root(path)} has {found} lines, more than {LINES}: split it"


@pytest.mark.parametrize("room", [*PAPERS, "kernels", "train", "lab", "batch"])
def test_every_module_stands_on_the_page_of_its_room(room):
    page = BOOK / "api" / f"{room}.md"
    assert page.exists(), f"the room {room!r} lacks book/api/{room}.md"
    modules = {path.stem for path in (SRC / room).glob("[!_]*.py")} - {"bench", "cli"}
    modules = {name for name in modules if not name.endswith(("_triton", "_bench", "_cli"))}
    missing = modules - set(re.findall(rf"automodule:: core\.{room}\.(\w+)", page.read_text()))
    assert not missing, f"book/api/{room}.md lacks {', '.join(sorted(missing))}"


def test_what_every_room_stands_on_has_its_page():
    page = (BOOK / "api" / "ground.md").read_text()
    assert set(re.findall(r"automodule:: core\.(\w+)", page)) == GROUND


def imported_at_the_top(path):
    """The packages of others that are there wherever the file can be imported."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        found |= {name.split(".")[0] for name in names}
    return found - {*sys.stdlib_module_names, "core"}


def test_the_site_renders_without_what_the_library_imports():
    mocked = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
    # yaml and jupyter_client come with jupyter-book, click with sphinx-click
    known = {*mocked["autodoc_mock_imports"], "yaml", "jupyter_client", "click"}
    for path in sources("src/core/**/*.py"):
        if path.stem.endswith(("bench", "_triton")):
            continue
        further = imported_at_the_top(path) - known
        assert not further, f"{below_root(path)}: put {further} into autodoc_mock_imports"


@pytest.mark.parametrize("room", ["controlvideo", "kernels", "multisource", "mup", "vrpo"])
def test_an_extra_brings_what_its_room_imports(room):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"][room]]
    brought = {canonicalize_name(Requirement(line).name) for line in wanted}
    packages = packages_distributions()
    runs_the_benches = ["src/core/bench.py"] if room == "kernels" else []
    for path in sources(f"src/core/{room}/*.py", *runs_the_benches):
        for name in imported_at_the_top(path):
            by = {canonicalize_name(package) for package in packages.get(name, [name])}
            assert by & brought, (
                f"{below_root(path)} imports {name}: put {by} into the extra {room}"
            )
