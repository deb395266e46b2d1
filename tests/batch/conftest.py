"""The tiny book as fixtures: never executed, and refreshed once for all tests."""

import shutil
from pathlib import Path

import pytest
from tiny_book import batch, make_book


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """The root of a book with the chapter `tiny`, never executed."""
    return make_book(tmp_path / "house")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a book refreshed, with evidence at one scale; copy it, do not change it."""
    root = make_book(tmp_path_factory.mktemp("once") / "house")
    for command in (["run", "tiny", "--scale", "long", "--evidence"], ["refresh"]):
        done = batch(root, *command)
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def refreshed(once: Path, tmp_path: Path) -> Path:
    """A copy of that book, to be changed."""
    return Path(shutil.copytree(once, tmp_path / "house"))
