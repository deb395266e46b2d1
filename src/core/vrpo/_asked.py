"""From the options of the training command, by name, to what is to be done."""

import math
import os
from typing import Any

import torch

from core.train.order import batches
from core.vrpo._options import Options
from core.vrpo.draws import Design
from core.vrpo.trainer import Recipe


def options_of(asked: dict[str, Any]) -> Options:
    """Return what is asked beside the recipe.

    Raises:
        ValueError: a number is out of range, or two requests do not go together.
    """
    names = ("model", "data", "out", "tokenizer", "eos", "max_length", "skip_bad", "reference")
    more = ("reference_scores", "lora", "lora_alpha", "checkpointing", "resume")
    for name in ("save_every", "keep", "max_length"):
        if asked[name] is not None and asked[name] < 1:
            raise ValueError(f"want --{name.replace('_', '-')} >= 1, got {asked[name]}")
    _check_adapters(asked["lora"], asked["lora_alpha"])
    dtype = getattr(torch, asked["dtype"])
    return Options(
        **{name: asked[name] for name in (*names, *more)},
        save_every=asked["save_every"],
        keep=asked["keep"],
        dtype=dtype,
        shard=_shard(asked, dtype),
    )


def _check_adapters(rank: int | None, alpha: float | None) -> None:
    if rank is None and alpha is not None:
        raise ValueError(f"want --lora-alpha with --lora, got --lora-alpha {alpha} without")
    if rank is not None and rank < 1:
        raise ValueError(f"want --lora >= 1, a rank, got {rank}")
    if alpha is not None and not 0 < alpha < math.inf:
        raise ValueError(f"want --lora-alpha > 0, got {alpha}")


def _shard(asked: dict[str, Any], dtype: torch.dtype) -> Any:
    """Return how to share the model, and refuse what does not go together."""
    shard, adapters = asked["shard"], asked["lora"] is not None
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if adapters and shard == "fsdp2":
        raise ValueError(
            "want --shard ddp with --lora: frozen weights and adapters of other dtypes do not "
            "go into one part"
        )
    # whoever runs in bfloat16 needs float32 weights to train, which FSDP2 keeps, for one too
    half = dtype == torch.bfloat16 and not adapters and asked["precompute_reference"] is None
    if shard == "auto":
        return "fsdp2" if half else "ddp" if several else "none"
    if half and shard != "fsdp2":
        raise ValueError(f"want --shard fsdp2 with --dtype bfloat16, got {shard}; or --lora")
    return shard


def design_of(asked: dict[str, Any]) -> Design:
    """Return how the budget is to be spent.

    Raises:
        ValueError: see `Design`; or sets are asked for where there are none.
    """
    systematic, sets = asked["counts"] == "systematic", asked["sets"]
    if sets is not None and not systematic:
        raise ValueError(f"want --sets with --counts systematic, got --sets {sets} without")
    halves = asked["cross_fitted"] and systematic
    return Design(
        n_t=asked["n_t"],
        n_y=asked["n_y"],
        counts=asked["counts"],
        shared=not asked["not_shared"],
        across_pair=asked["across_pair"],
        proposal=asked["proposal"],
        sets=(2 if halves else 1) if sets is None else sets,
    )


def recipe_of(asked: dict[str, Any], design: Design, pairs: int) -> Recipe:
    """Return how to train on so many pairs.

    Raises:
        ValueError: see `Recipe`; or steps and epochs are no number, or both given.
    """
    steps, epochs = asked["steps"], asked["epochs"]
    if steps is not None and epochs is not None:
        raise ValueError(f"want --steps or --epochs, got both: {steps} and {epochs}")
    if asked["batch"] < 1:
        raise ValueError(f"want batch >= 1, a whole number, got {asked['batch']}")
    if steps is None:
        epochs = 1 if epochs is None else epochs
        if epochs < 1:
            raise ValueError(f"want --epochs >= 1, got {epochs}")
        steps = epochs * batches(pairs, asked["batch"])
    return Recipe(
        steps=steps,
        batch=asked["batch"],
        design=design,
        beta=asked["beta"],
        supervised=asked["supervised"],
        gradient="cross-fitted" if asked["cross_fitted"] else "plain",
        learning_rate=asked["lr"],
        warmup=asked["warmup"],
        weight_decay=asked["weight_decay"],
        clip=asked["clip"],
        seed=asked["seed"],
        at_once=asked["at_once"],
    )
