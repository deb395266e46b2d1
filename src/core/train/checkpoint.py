"""Checkpoints that are whole or not there, and resume to the bit.

A checkpoint is one file: the trained parameters, the optimizer's state, the step, and what run it
is of. A kill at any moment leaves the one before (`core.files`). Parameters go by their plain
names, gathered on the first rank: a run can go on with another number of processes, or another way
to share the model among them.

Where randomness has names (`core.train.seeds`), the step is all that is left to remember.
"""

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import nn
from torch.optim import Optimizer

from core.files import replace, sweep
from core.train.distributed import World, inner

FORMAT = "core.train.checkpoint/1"
NAME = re.compile(r"step-(\d{8})\.pt")


def plain(value: Any) -> Any:
    """Return what JSON and a checkpoint can hold, and `check_same` compare."""
    if isinstance(value, dict | tuple | list):
        return json.dumps(value)
    return value if isinstance(value, int | float | str | None) else str(value)


def check_same(wanted: Mapping[str, Any], found: Mapping[str, Any], what: str) -> None:
    """Refuse what belongs to something else, by the fields that differ.

    Args:
        wanted: name -> value, of this run.
        found: the same, as it was kept.
        what: the file, for the message.

    Raises:
        ValueError: a field differs, is missing, or is one too many.
    """
    for field in [*wanted, *(field for field in found if field not in wanted)]:
        here, there = wanted.get(field, "nothing"), found.get(field, "nothing")
        if here != there:
            raise ValueError(
                f"{what} is of another run: its {field} is {there}, here it is {here}; "
                "give what it was made with, or another place"
            )


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if NAME.fullmatch(path.name))


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    run: Mapping[str, Any],
    world: World,
    beside: Mapping[str, nn.Module] | None = None,
    keep: int = 2,
) -> None:
    """Write the checkpoint of a step, and remove all but the last `keep`.

    All ranks call this; the first one writes.

    Args:
        folder: made if it is not there.
        step: steps done.
        model: its trained parameters are kept, frozen ones are not.
        optimizer: of these parameters.
        run: what the run is, by name: numbers, text, booleans; compared by `load`.
        world: this rank.
        beside: what else goes on from here, such as a moving average of the model; kept whole.
        keep: checkpoints that stay, 1 or more.

    Raises:
        OSError: it could not be written; the ones before are still there.
    """
    from torch.distributed.checkpoint.state_dict import get_state_dict

    weights, state = get_state_dict(inner(model), optimizer, options=_options())
    weights = _once(model, weights)
    others = {name: _once(x, whole_state(x)) for name, x in (beside or {}).items()}
    if not world.first:
        return
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, NAME.pattern)
    content = {"format": FORMAT, "run": dict(run), "step": step, "model": weights}
    content |= {"optimizer": state, "beside": others}
    path = folder / f"step-{step:08d}.pt"
    try:
        replace(path, lambda part: torch.save(content, part))
    except RuntimeError as error:  # what torch makes of a full disk
        raise OSError(f"{path} could not be written: {error}") from error
    for old in checkpoints(folder)[:-keep]:
        old.unlink()


def whole_state(model: nn.Module) -> dict[str, Any]:
    """Return all of a model's state by its plain names, on the CPU of the first rank.

    All ranks call this; the others get nothing.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    gather = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(inner(model), options=gather)


def _once(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Keep one name of a tensor that a model has under several: torch cannot load them sharded."""
    model = inner(model)
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    return {name: tensor for name, tensor in state.items() if name in names}


def load(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    run: Mapping[str, Any],
    beside: Mapping[str, nn.Module] | None = None,
) -> int:
    """Put a checkpoint back into model and optimizer; return the steps done.

    All ranks call this, and read the file.

    Args:
        path: the checkpoint.
        model: as it was when the run began; changed in place.
        optimizer: new; changed in place.
        run: what the run is; must be what was saved.
        beside: as they were when the run began; changed in place.

    Raises:
        ValueError: the file is broken, no checkpoint, or of another run; nothing was changed.
    """
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_model_state_dict,
        set_state_dict,
    )

    content = _read(path)
    check_same(run, content["run"], str(path))
    set_state_dict(
        inner(model),
        optimizer,
        model_state_dict=content["model"],
        optim_state_dict=content["optimizer"],
        options=_options(),
    )
    for name, other in (beside or {}).items():
        whole = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(inner(other), content["beside"][name], options=whole)
    return content["step"]


def _options() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False
    )


def _read(path: Path) -> dict[str, Any]:
    broken = f"{path} is broken, or no checkpoint: remove it to go on from the one before it"
    try:
        with ZipFile(path) as archive:  # torch writes checksums, and does not read them
            whole = archive.testzip() is None
        content = torch.load(path, map_location="cpu", weights_only=True) if whole else None
    except (BadZipFile, zlib.error, RuntimeError, UnpicklingError, EOFError) as error:
        raise ValueError(broken) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(broken)
    return content
