"""Which files a chapter reaches, in a small library with a file for each way of importing."""

from pathlib import Path

import pytest
from tiny_book import add_cell

from core.batch.chapters import find_chapters
from core.batch.reach import library_hashes
from core.command import Refused

LIBRARY = {
    "lib/__init__.py": "",
    "lib/table.csv": "1,2",
    "lib/__pycache__/old.pyc": "",
    "lib/alone.py": "",
    "lib/near/__init__.py": "from .far import reach\n",
    "lib/near/far.py": "from ..later import late\n\ndef reach():\n    import lib.lazy\n",
    "lib/near/style.mplstyle": "",
    "lib/near/data/deep.json": "{}",
    "lib/near/unasked/__init__.py": "",
    "lib/near/unasked/hidden.json": "{}",
    "lib/later.py": "late = 'lib.named.kernel'\n",
    "lib/lazy.py": "import numpy, lib.near\n",
    "lib/named/__init__.py": "",
    "lib/named/kernel.py": "",
    "lib/named/other.py": "",
}
UNREACHED = {
    "lib/__pycache__/old.pyc",
    "lib/alone.py",
    "lib/near/unasked/__init__.py",
    "lib/near/unasked/hidden.json",
    "lib/named/other.py",
}


@pytest.fixture
def reaching(book: Path) -> Path:
    """The tiny book with that library, of which the chapter imports one name."""
    for name, text in LIBRARY.items():
        path = book / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    add_cell(book, "from lib.near import reach")
    return book


def reached(root: Path) -> dict[str, str]:
    return library_hashes(find_chapters(root, ())[0])


def test_it_follows_imports_data_and_names_and_nothing_else(reaching):
    ours = {name for name in reached(reaching) if name.startswith("lib/")}
    assert ours == set(LIBRARY) - UNREACHED


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_a_change_shows_if_and_only_if_the_file_is_reached(reaching, name):
    before = reached(reaching)
    (reaching / "src" / name).write_text(LIBRARY[name] + "# changed\n")
    assert (reached(reaching) != before) == (name not in UNREACHED)


def test_core_is_reached_without_a_copy_beside_the_book(book):
    add_cell(book, "from core.batch.notebook import MIME")
    files = reached(book)
    assert {"core/batch/notebook.py", "core/batch/record.schema.json"} <= set(files)
    assert "core/batch/cli.py" not in files
    assert not any("numpy" in name for name in files)


def test_measurements_of_the_chapter_are_reached_and_its_runs_are_not(book):
    folder = book / "book" / "evidence" / "tiny"
    folder.mkdir(parents=True)
    (folder / "long.json").write_text('{"chapter": "tiny"}')
    before = reached(book)
    (folder / "op-cpu.json").write_text('{"bench": "op"}')
    after = reached(book)
    assert set(after) - set(before) == {"book/evidence/tiny/op-cpu.json"}
    (folder / "op-cpu.json").write_text('{"bench": "op", "rows": []}')
    assert reached(book) != after


def test_a_broken_file_is_named(reaching):
    (reaching / "src" / "lib" / "later.py").write_text("def (:\n")
    with pytest.raises(Refused, match=r"later\.py, line 1: "):
        reached(reaching)
