"""A run's folder: how a run ends is told, and what is of another run is refused.

That nothing of another run is touched is in `tests/vrpo/test_resume.py`, by the command.
"""

import json

import pytest

from core.train.folder import Diverged, Folder, check_out


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path, command="core.some.train", result="model")


def record(status, seconds, reason):
    assert seconds >= 0
    return {"status": status, "reason": reason, "identity": {"seed": 0}}


def told(folder):
    return json.loads((folder.out / "run.json").read_text())


def test_a_run_that_comes_to_its_end_is_done(folder):
    with folder.telling(record, first=True):
        pass
    assert told(folder) == {
        "command": "core.some.train",
        "status": "done",
        "reason": None,
        "identity": {"seed": 0},
    }


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("no\nnumber"), "failed", "no"),
        (Diverged("a loss of nan at step 3"), "diverged", "a loss of nan at step 3"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
    ],
)
def test_how_a_run_ends_is_told_and_its_error_passes(folder, error, status, reason):
    with pytest.raises(type(error)), folder.telling(record, first=True):
        raise error
    assert (told(folder)["status"], told(folder)["reason"]) == (status, reason)


def test_a_full_disk_says_how_to_go_on(folder):
    wanted = pytest.raises(OSError, match="full: mend that, and --resume goes on")
    with wanted, folder.telling(record, first=True):
        raise OSError("full")


def test_only_the_first_process_tells(folder):
    with folder.telling(record, first=False):
        pass
    assert not (folder.out / "run.json").exists()


def test_a_run_that_diverged_is_not_begun_again(folder):
    with pytest.raises(Diverged), folder.telling(record, first=True):
        raise Diverged("a loss of nan at step 3")
    with pytest.raises(Diverged, match="at step 3"):
        folder.check({"seed": 0}, done=0, steps=5)
    with pytest.raises(ValueError, match="its seed is 0, here it is 1"):
        folder.check({"seed": 1}, done=0, steps=5)


def test_the_record_of_another_command_is_refused(folder):
    other = Folder(folder.out, command="core.other.train", result="model")
    other.tell(record("done", 0, None))
    with pytest.raises(ValueError, match=r"run\.json is not what this command writes"):
        folder.check({"seed": 0}, done=0, steps=1)


def test_what_has_the_name_of_a_result_is_refused(tmp_path):
    (tmp_path / "adapters").mkdir()
    check_out(tmp_path, resume=False, results=["model"])
    with pytest.raises(ValueError, match="holds adapters and no run that this is of"):
        check_out(tmp_path, resume=False, results=["model", "adapters"])
