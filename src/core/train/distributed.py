"""Several processes that train as one: by torch.distributed alone, gloo on a CPU, NCCL on GPUs.

The convention of everything here: a rank computes the gradient of its part of a mean over the whole
batch, and the gradients of the ranks are added up. So two ranks with half the batch each, or one
rank that has none of a ragged last batch, do what one process does.

`torchrun` says who is who by its environment; without it there is one process.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

Kind = Literal["none", "ddp", "fsdp2"]
Item = TypeVar("Item")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """Who this process is among those that train together."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    """What this process computes on."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0


SINGLE = World()


@contextmanager
def start(device: str = "auto", *, group: bool = False) -> Iterator[World]:
    """Join the processes that torchrun started, for as long as the context lasts.

    Args:
        device: `"cpu"`, `"cuda"`, or `"auto"`: a GPU if there is one. Each process of a machine
            has its own GPU.
        group: whether a process alone makes a group of one, as FSDP2 wants.

    Raises:
        ValueError: another device, no GPU where one is asked for, or fewer GPUs than processes.
    """
    size, rank = (int(os.environ.get(key, "0")) for key in ("WORLD_SIZE", "RANK"))
    place = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    world = World(rank, max(1, size), place)
    if size == 0 and not group:
        yield world
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    backend = "nccl" if place.type == "cuda" else "gloo"
    if size == 0:  # a group of one meets nobody
        alone = distributed.HashStore()  # type: ignore[reportPrivateImportUsage]
        distributed.init_process_group(backend, store=alone, rank=0, world_size=1)
    else:
        distributed.init_process_group(backend)
    try:
        yield world
    finally:
        distributed.destroy_process_group()


def _device(device: str, local_rank: int) -> torch.device:
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"want device 'auto', 'cpu' or 'cuda', got {device!r}")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return CPU
    found = torch.cuda.device_count()
    if local_rank >= found:
        raise ValueError(
            f"want a GPU for each process of a machine, got {found} for process {local_rank}: "
            "start fewer processes, or take device 'cpu'"
        )
    return torch.device("cuda", local_rank)


def share(items: Sequence[Item], world: World) -> tuple[list[Item], int]:
    """Return this rank's part of a batch, as long as any other rank's, and how many of it count.

    Ranks must run their model equally often, or a collective operation waits for ever. Where the
    batch does not divide, the last ranks get its first item once more, which does not count.

    Args:
        items: the batch, the same on all ranks; at least one.
        world: who is asking.

    Raises:
        ValueError: an empty batch.
    """
    if not items:
        raise ValueError("want a batch of at least one item, got none")
    each = -(-len(items) // world.size)
    mine = list(items[world.rank * each : (world.rank + 1) * each])
    return mine + [items[0]] * (each - len(mine)), len(mine)


def total(x: Tensor, world: World) -> Tensor:
    """Return the sum of `x` over all ranks, on the device of `x`."""
    if world.size == 1:
        return x
    there = x.detach().to(world.device, copy=True)
    distributed.all_reduce(there)
    return there.to(x.device)


def shard(
    model: nn.Module,
    kind: Kind,
    world: World,
    *,
    blocks: Iterable[nn.Module] = (),
    compute: torch.dtype | None = None,
) -> nn.Module:
    """Return the model as its ranks share it: each a copy (DDP), or each a part (FSDP2).

    Args:
        model: on the rank's device, the same on all ranks.
        kind: `"none"` leaves it as it is, for one process.
        world: who is asking.
        blocks: the modules that FSDP2 gathers one at a time; the rest is gathered in `forward` of
            the root, where everything must happen.
        compute: FSDP2 alone: the dtype that the model runs in, while its parameters, summed
            gradients and so the optimizer keep the dtype they have.

    Returns:
        The wrapped model, or the very same one (`"none"`, `"fsdp2"`).

    Raises:
        ValueError: another kind, several processes with none, or `compute` without FSDP2.
    """
    if kind not in ("none", "ddp", "fsdp2"):
        raise ValueError(f"want shard 'none', 'ddp' or 'fsdp2', got {kind!r}")
    if kind == "none" and world.size > 1:
        raise ValueError(f"want 'ddp' or 'fsdp2' for {world.size} processes, got 'none'")
    if compute is not None and kind != "fsdp2":
        raise ValueError(
            f"want 'fsdp2' to run in {compute} while the parameters keep their dtype, got {kind!r}"
        )
    if kind == "fsdp2":
        return _fully_sharded(model, world, blocks, compute)
    trained = any(parameter.requires_grad for parameter in model.parameters())
    if kind == "none" or not trained:  # each rank has its own copy of what is only read
        return model
    gpu = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=gpu)


def _fully_sharded(
    model: nn.Module, world: World, blocks: Iterable[nn.Module], compute: torch.dtype | None
) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    policy = MixedPrecisionPolicy(param_dtype=compute, cast_forward_inputs=False)
    if compute is not None:
        policy = MixedPrecisionPolicy(compute, torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    # the root too: a forward without gradient has no backward that would free it
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    return model


def inner(model: nn.Module) -> nn.Module:
    """Return the model itself, without the wrapper of DDP."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def gradient_scale(world: World) -> float:
    """Return what to multiply a loss with, as DDP and FSDP2 average where a sum is meant."""
    return float(world.size)


def held_back(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Return the context for one of several backward passes: DDP adds up the ranks in the last.

    FSDP2 adds up in each, so that no rank holds a whole gradient.
    """
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def gradient_norm(model: nn.Module, *, clip: float | None = None) -> float:
    """Return the Euclidean norm of the gradient over all ranks, and clip it if asked to.

    Args:
        model: with gradients, the sum over ranks already (`held_back`).
        clip: the norm to scale the gradient down to; the norm before that is returned.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), float("inf") if clip is None else clip)
    full = getattr(norm, "full_tensor", None)  # a DTensor under FSDP2
    return float(norm if full is None else full())
