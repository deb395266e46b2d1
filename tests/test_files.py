"""What is written is whole or not there, whatever happens on the way; the rest is left alone."""

import os
import signal
import subprocess
import sys

import pytest

import core.files as module
from core.files import part_of, replace, sweep, whole_folder, write_all, write_bytes, write_json

DEAD = 999_999_999  # more than Linux ever numbers a process


@pytest.fixture
def path(tmp_path):
    """A file that is there already."""
    write_json(tmp_path / "file.json", {"name": "Müller"})
    return tmp_path / "file.json"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_json_is_readable_text(path):
    assert path.read_bytes() == '{\n "name": "Müller"\n}\n'.encode()


def test_what_is_half_written_is_not_found_by_its_suffix(path):
    part_of(path).write_text("half of")
    assert list(path.parent.glob("*.json")) == [path]


def test_a_file_that_cannot_be_written_leaves_the_one_before(path):
    def fails(part):
        part.write_text("half of")
        raise OSError("the disk is full")

    before = path.read_bytes()
    with pytest.raises(OSError, match="the disk is full"):
        replace(path, fails)
    assert path.read_bytes() == before
    assert names(path.parent) == ["file.json"]
    write_bytes(path, b"\x00all of it")
    assert path.read_bytes() == b"\x00all of it"


KILLED = """
import os, sys
from pathlib import Path
from core.files import replace, whole_folder

def dies(part):
    part.write_text("half of")
    os.kill(os.getpid(), 9)

path = Path(sys.argv[1])
if path.suffix:
    replace(path, dies)
with whole_folder(path, over=True) as new:
    dies(new / "weights")
"""


@pytest.mark.parametrize("name", ["file.json", "model"])
def test_a_killed_process_leaves_what_was_there_and_is_swept_up(path, name):
    (path.parent / "model").mkdir()
    (path.parent / "model" / "weights").write_text("all of it")
    before, command = path.read_bytes(), [sys.executable, "-c", KILLED, path.with_name(name)]
    ended = subprocess.run(command, env=os.environ, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert (path.parent / "model" / "weights").read_text() == "all of it"
    assert len(names(path.parent)) == 3
    sweep(path.parent, "other")
    assert len(names(path.parent)) == 3
    sweep(path.parent, r"file\.json|model")
    assert names(path.parent) == ["file.json", "model"]


def test_sweeping_spares_the_living_and_what_is_no_part(tmp_path):
    stay = [part_of(tmp_path / "a").name, "a.part.1", "a.part.1.json", "a.part.x", "a.part", "a"]
    go = [f"a.part.{DEAD}", f"a.b.part.{DEAD}", f"a.ipynb.part.{DEAD}.ipynb"]
    for name in (*stay, *go):
        (tmp_path / name).write_text("")
    sweep(tmp_path, ".+")
    assert names(tmp_path) == sorted(stay)


def test_files_that_belong_together_are_replaced_together(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "missing" / "b.txt"
    first.write_text("old")
    with pytest.raises(OSError, match="No such file"):
        write_all({first: "new", second: "new"})
    assert first.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]
    second.parent.mkdir()
    write_all({first: "new", second: "newer"})
    assert (first.read_text(), second.read_text()) == ("new", "newer")


def fill(path, text, *, over=False, fails=False):
    with whole_folder(path, over=over) as new:
        (new / "deep").mkdir()
        (new / "deep" / "weights").write_text(text)
        if fails:
            raise ValueError("on the way")


def test_a_folder_is_whole_or_not_there(tmp_path):
    (tmp_path / f"model.part.{DEAD}").mkdir()
    part_of(tmp_path / "model").mkdir()  # of a killed process that had the number of this one
    with pytest.raises(ValueError, match="on the way"):
        fill(tmp_path / "model", "half of", fails=True)
    assert names(tmp_path) == []
    fill(tmp_path / "model", "all of it")
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "deep" / "weights").read_text() == "all of it"


def test_a_folder_gives_way_only_where_that_is_asked_for(tmp_path):
    fill(tmp_path / "model", "old")
    with pytest.raises(OSError, match="not empty"):
        fill(tmp_path / "model", "new")
    with pytest.raises(ValueError, match="on the way"):
        fill(tmp_path / "model", "new", over=True, fails=True)
    assert (tmp_path / "model" / "deep" / "weights").read_text() == "old"
    fill(tmp_path / "model", "new", over=True)
    assert (tmp_path / "model" / "deep" / "weights").read_text() == "new"
    assert names(tmp_path) == ["model"]


def test_a_folder_comes_back_where_its_successor_cannot_be_put(tmp_path, monkeypatch):
    fill(tmp_path / "model", "old")
    rename = os.replace

    def fails(source, target):
        if source == part_of(tmp_path / "model"):
            raise OSError("worn out")
        rename(source, target)

    monkeypatch.setattr(module.os, "replace", fails)
    with pytest.raises(OSError, match="worn out"):
        fill(tmp_path / "model", "new", over=True)
    assert (tmp_path / "model" / "deep" / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_all_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, rename = [], os.replace
    monkeypatch.setattr(module, "flush", lambda path: done.append(path.name.partition(".")[0]))

    def renames(source, target):
        done.append(f"-> {target.name}")
        rename(source, target)

    monkeypatch.setattr(module.os, "replace", renames)
    (tmp_path / "out").mkdir()
    write_all({tmp_path / "out" / "a.txt": "a", tmp_path / "out" / "b.txt": "b"})
    assert done == ["a", "b", "-> a.txt", "-> b.txt", "out"]
    done.clear()
    fill(tmp_path / "out" / "model", "all of it")
    assert done == ["deep", "weights", "model", "-> model", "out"]
