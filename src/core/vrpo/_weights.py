"""Folders of safetensors: what is in them, checked by name before a tensor is read."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, each of which is there."""
    if (folder / INDEX).exists():
        names = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
        if not names:
            raise ValueError(f"{folder / INDEX} names no shard in `weight_map`: download it again")
    elif (folder / WEIGHTS).exists():
        names = [WEIGHTS]
    else:
        raise FileNotFoundError(f"want {WEIGHTS} or {INDEX} in {folder}, found neither")
    absent = [name for name in names if not (folder / name).exists()]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of {len(names)} shards are not in {folder}: {listed(absent)}: "
            "download them, or the whole checkpoint again"
        )
    return [folder / name for name in names]


def find_tensors(
    folder: Path,
    files: list[Path],
    wanted: Mapping[str, torch.Size],
    dtype: torch.dtype | None,
) -> dict[str, Path]:
    """Return the file of each tensor; read no tensor; refuse by name what does not fit."""
    places, shapes, types = {}, {}, {}
    for file in files:
        with opened(file, "cpu") as stored:
            for name in stored.keys():  # noqa: SIM118
                if name in places:
                    raise ValueError(f"{name} is in {places[name].name} and in {file.name}")
                part = stored.get_slice(name)
                places[name], shapes[name] = file, torch.Size(part.get_shape())
                types[name] = part.get_dtype()
    refuse_tensors(str(folder), wanted, shapes)
    odd = [f"{name}: {t}" for name, t in types.items() if t not in ("F64", "F32", "F16", "BF16")]
    if odd:
        raise ValueError(f"{folder}: want floating tensors, got {listed(odd)}: it is quantised")
    if dtype is None and len(set(types.values())) > 1:
        raise ValueError(f"{folder} holds {listed(sorted(set(types.values())))}: give a dtype")
    return places


def refuse_tensors(
    where: str, want: Mapping[str, torch.Size], got: Mapping[str, torch.Size]
) -> None:
    """Raise a ValueError that names what is missing, extra or mis-shaped."""
    problems = {
        "missing": [name for name in want if name not in got],
        "extra": [name for name in got if name not in want],
        "mis-shaped": [
            f"{name} {list(got[name])} where {list(shape)} is wanted"
            for name, shape in want.items()
            if name in got and got[name] != shape
        ],
    }
    told = [f"{len(n)} {kind}: {listed(n)}" for kind, n in problems.items() if n]
    if told:
        raise ValueError(
            f"{where}: the tensors are not those of its configuration: {'; '.join(told)}"
        )


def write_weights(folder: Path, tensors: dict[str, Tensor], shard_bytes: int) -> None:
    """Write the tensors by their names to one file, or to shards with an index."""
    from safetensors.torch import save_file

    shards = list(_shards(tensors, shard_bytes))
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    names = [WEIGHTS] if len(shards) == 1 else names
    for name, shard in zip(names, shards, strict=True):
        stored = {key: tensors[key].detach().contiguous().cpu() for key in shard}
        save_file(stored, folder / name, metadata={"format": "pt"})
    if len(shards) > 1:
        pairs = zip(names, shards, strict=True)
        index = {
            "metadata": {"total_size": sum(x.nbytes for x in tensors.values())},
            "weight_map": {key: name for name, shard in pairs for key in shard},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _shards(tensors: dict[str, Tensor], shard_bytes: int) -> Iterator[list[str]]:
    shard, size = [], 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += tensor.nbytes
    yield shard


@contextmanager
def opened(file: Path, device: torch.device | str) -> Iterator[Any]:
    """Open a file of tensors; name it in what goes wrong while it is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt", device=str(device)) as stored:
            yield stored
    except SafetensorError as error:
        raise ValueError(f"cannot read {file}: {error}: download it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    if not path.exists():
        raise FileNotFoundError(f"want a LLaDA checkpoint with {path.name}, found none: {path}")
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}: download it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"want a JSON object in {path}, got {type(found).__name__}")
    return found


def listed(names: list[str], mark: str = ", ", most: int = 5) -> str:
    """Return the first few names, and how many more there are."""
    more = f"{mark}and {len(names) - most} more" if len(names) > most else ""
    return mark.join(names[:most]) + more
