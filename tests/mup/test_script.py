"""Somebody's code: found by file or module, called once, and its failures told in a line."""

import sys

import pytest
import torch
from torch import nn

from core.mup import script

SOURCE = """
import sys
from dataclasses import dataclass

import torch
from torch import nn

from beside import WIDTH

print("hello", sys.argv)
ARGUMENTS = list(sys.argv)

@dataclass
class Settings:
    width: int = WIDTH

def make():
    model = nn.Linear(Settings().width, 2)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)

def several():
    model, optimizer = make()
    return [model, (optimizer, optimizer)]

def nothing(): pass
def a_number(): return 3
def no_model(): return 3, make()[1]
def no_optimizer(): return make()[0], "adamw"
def fails(): return {}["key"]
def leaves(): raise SystemExit("bye")
def silent(): raise RuntimeError

def loss(model, seed): return model(torch.ones(4, WIDTH)).sum() * seed
def losses(model, seed): return model(torch.ones(4, WIDTH))
def no_gradient(model, seed): return torch.tensor(1.0)
def breaks(model, seed): return model(torch.ones(4, WIDTH + 1)).sum()

if __name__ == "__main__":
    raise RuntimeError("run")
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(SOURCE)
    (tmp_path / "beside.py").write_text("WIDTH = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "train.py"
    for name in [name for name in sys.modules if name == "beside" or name.startswith("script_")]:
        del sys.modules[name]


def test_a_file_is_imported_as_the_script_it_is_and_prints_elsewhere(file, capsys):
    asked = list(sys.argv)
    model, (optimizer,) = script.model_and_optimizer(f"{file}:make")
    assert isinstance(model, nn.Linear)
    assert isinstance(optimizer, torch.optim.SGD)
    assert sys.argv == asked
    out, err = capsys.readouterr()
    assert out == ""
    assert "hello ['train.py']" in err


def test_a_file_is_imported_once(file, capsys):
    assert script.function(f"{file}:make") is script.function(f"./{file}:make")
    assert capsys.readouterr().err.count("hello") == 1


def test_several_optimizers_are_a_list(file):
    assert len(script.model_and_optimizer(f"{file}:several")[1]) == 2


@pytest.mark.parametrize(
    ("source", "told"),
    {
        "train.py": r"want a function as path/to/file.py:name or module:name, got 'train.py'",
        "train.py:": r"want a function as .*, got 'train.py:'",
        "none.py:make": r"no file none.py",
        "train.py:mike": r"has no function 'mike'; it has Settings, make, several, ",
        "train.py:ARGUMENTS": r"has no function 'ARGUMENTS'",
        "train.py:nothing": r"want \(model, optimizer\) from train.py:nothing, .* got NoneType",
        "train.py:a_number": r"got int",
        "train.py:no_model": r"got tuple of \(int, SGD\)",
        "train.py:no_optimizer": r"want an optimizer of torch, or several, got str",
        "train.py:fails": r"train.py:fails failed: KeyError: 'key' \(at train.py:\d+\)",
        "train.py:leaves": r"failed: SystemExit: bye \(at train.py:\d+\)",
        "train.py:silent": r"failed: RuntimeError: no reason given \(at train.py:\d+\)",
        "nowhere.train:make": r"cannot import nowhere.train: ModuleNotFoundError: No module named",
    }.items(),
)
def test_what_cannot_be_had_is_told_in_a_line(file, source, told):
    with pytest.raises(ValueError, match=told) as caught:
        script.model_and_optimizer(source)
    assert "\n" not in str(caught.value)


def test_a_script_that_fails_is_tried_anew(file, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_that_name\n")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"cannot import broken.py: ModuleNotFoundError"):
            script.function("broken.py:make")
    broken.write_text("def make(): pass\n")
    assert script.function("broken.py:make")() is None


def test_a_module_will_do():
    assert script.function("torch.nn:Linear") is nn.Linear


def test_a_loss_is_called_with_model_and_seed(file):
    model = nn.Linear(3, 2)
    expected = 5 * model(torch.ones(4, 3)).sum()
    torch.testing.assert_close(script.loss(f"{file}:loss")(model, 5), expected)
    with torch.no_grad():
        assert not script.loss(f"{file}:loss")(model, 5).requires_grad


@pytest.mark.parametrize(
    ("name", "told"),
    {
        "losses": r"want a scalar tensor from .*, got a tensor of torch.float32 and shape \[4, 2\]",
        "no_gradient": r"want a loss with a gradient",
        "breaks": r"train.py:breaks failed: RuntimeError: mat1 and mat2 shapes",
    }.items(),
)
def test_a_loss_that_is_none_is_told_in_a_line(file, name, told):
    with pytest.raises(ValueError, match=told):
        script.loss(f"{file}:{name}")(nn.Linear(3, 2), 0)


def test_a_wrapped_model_is_itself():
    model = nn.Linear(3, 2)
    assert script.bare(nn.DataParallel(model)) is model
    assert script.bare(model) is model


def test_a_configuration_is_a_model_of_diffusers_own():
    model = nn.Linear(3, 2)
    assert script.config_of(model) == {}
    model.config = {"width": 3}  # type: ignore[assignment]
    assert script.config_of(model) == {"width": 3}
