"""What somebody's own code makes: functions found by file or module, called, and their results.

    path/to/train.py:make      a function in a file, imported as `python path/to/train.py` would be,
                               but for what stands under `if __name__ == "__main__"`
    package.train:make         the same in a module

Whatever goes wrong in it is said in one line, with the place: it is their code, not ours.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from core.command import first_line
from core.mup._settings import as_list

Made = tuple[nn.Module, list[torch.optim.Optimizer]]


def function(source: str) -> Callable[..., Any]:
    """Return what `file.py:name` or `module:name` names.

    Raises:
        ValueError: it is not of that form, cannot be imported, or has no such function.
    """
    where, _, name = source.rpartition(":")
    if not where or not name.isidentifier():
        raise ValueError(f"want a function as path/to/file.py:name or module:name, got {source!r}")
    module = _file(where) if where.endswith(".py") else _module(where)
    found = getattr(module, name, None)
    if not callable(found):
        known = [n for n, v in vars(module).items() if _is_own(v, module) and n[0] != "_"]
        raise ValueError(
            f"{where} has no function {name!r}; it has {', '.join(known) or 'none at all'}"
        )
    return found


def model_and_optimizer(source: str) -> Made:
    """Call a function without arguments; return the model and the optimizers that it returns.

    Args:
        source: names a function that returns a pair: a `torch.nn.Module`, and an optimizer or a
            list of them.

    Raises:
        ValueError: it cannot be found, fails, or returns something else.
    """
    made = function(source)
    with _guarded(f"{source} failed"):
        got = made()
    if not isinstance(got, tuple | list) or len(got) != 2 or not isinstance(got[0], nn.Module):
        raise ValueError(
            f"want (model, optimizer) from {source}, or (model, [optimizers]), got {_told(got)}"
        )
    return got[0], as_list(got[1])


def loss(source: str) -> Callable[[nn.Module, int], Tensor]:
    """Return the loss that a source names, guarded: `loss(model, seed)` gives a scalar.

    Raises:
        ValueError: it cannot be found; when called, it fails, or returns something else.
    """
    return guarded_loss(function(source), source)


def guarded_loss(
    made: Callable[[nn.Module, int], Any], source: str
) -> Callable[[nn.Module, int], Tensor]:
    """Return a loss whose failure is a `ValueError` that names its source."""

    def called(model: nn.Module, seed: int) -> Tensor:
        with _guarded(f"{source} failed"):
            got = made(model, seed)
        if not isinstance(got, Tensor) or got.ndim or not torch.is_floating_point(got):
            raise ValueError(f"want a scalar tensor from {source}(model, seed), got {_told(got)}")
        if torch.is_grad_enabled() and not got.requires_grad:
            raise ValueError(f"want a loss with a gradient from {source}(model, seed), it has none")
        return got

    return called


def bare(model: nn.Module) -> nn.Module:
    """Return a model without DDP's and `torch.compile`'s wrapping."""
    while True:
        inner = getattr(model, "_orig_mod", getattr(model, "module", None))
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def config_of(model: nn.Module) -> dict[str, Any]:
    """Return the configuration that a model of diffusers holds; of another, none."""
    held = getattr(model, "config", None)
    return dict(held) if isinstance(held, Mapping) else {}


@contextmanager
def _guarded(what: str) -> Iterator[None]:
    """Turn any failure into one line, and keep what is printed out of our output."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        raise ValueError(f"{what}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return an error's type, the first line of what it says, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" (at {Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first_line(error)}{place}"


def _module(name: str) -> ModuleType:
    with _guarded(f"cannot import {name}"):
        return importlib.import_module(name)


def _file(where: str) -> ModuleType:
    path = Path(where).resolve()
    if not path.is_file():
        raise ValueError(f"no file {where}")
    name = f"script_{path.stem}_{abs(hash(path))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # its name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, and what is pickled, look there
    asked, sys.argv = sys.argv, [where]
    sys.path.insert(0, str(path.parent))
    try:
        with _guarded(f"cannot import {where}"):
            spec.loader.exec_module(module)
    except ValueError:
        del sys.modules[name]
        raise
    finally:
        sys.argv = asked
    return module


def _is_own(value: Any, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _told(got: Any) -> str:
    if isinstance(got, tuple | list):
        return f"{type(got).__name__} of ({', '.join(type(one).__name__ for one in got)})"
    if isinstance(got, Tensor):
        return f"a tensor of {got.dtype} and shape {list(got.shape)}"
    return f"{type(got).__name__}"
