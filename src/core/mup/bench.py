"""How long a plan takes, and a coordinate check beside the reference package's.

All on one thread, seconds of the processor. The fused modulation is measured by
`core.kernels.bench adaln`.
"""

import copy
import statistics
from collections.abc import Callable
from dataclasses import fields, replace
from math import inf
from typing import Any

import torch
from torch import nn

from core.mup.coordinates import Bands, Coordinates, coord_check
from core.mup.digits import draw
from core.mup.families import FAMILIES
from core.mup.plan import plan
from core.mup.source import source_of
from core.timing import seconds_of

Comparison = dict[str, float | str]
HEADS, STEPS, LR, BATCH = (4, 8, 16, 32), 3, 2**-8, 16

PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "U-ViT-H/2": (
        "core.mup.uvit:UViT",
        {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 29},
        {"num_attention_heads": 4},
    ),
    "DiT-XL/2": ("diffusers:DiTTransformer2DModel", {}, {"num_attention_heads": 4}),
    "PixArt-alpha": (
        "diffusers:PixArtTransformer2DModel",
        {"caption_channels": 4096},
        {"num_attention_heads": 4},
    ),
    "SD3-medium": (
        "diffusers:SD3Transformer2DModel",
        {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536},
        {"num_attention_heads": 6},
    ),
    "FLUX.1": ("diffusers:FluxTransformer2DModel", {}, {"num_attention_heads": 4}),
}
"""Name -> class, configuration and base of the five families at published sizes."""


def main() -> dict[str, Comparison]:
    """Measure; about five minutes, most of them for the 60 checks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            "plan() at published sizes, on the meta device": plans(),
            "a coordinate check of U-ViT, widths 64 to 512, 4 forward passes": check(),
            "largest slopes in 60 checks of muP; `Bands` are twice these": deviations(),
        }
    finally:
        torch.set_num_threads(threads)


def plans() -> Comparison:
    """Time the plan of each family; its memory is none, as no weight is made."""
    made: Comparison = {}
    for name, (source, config, base) in PUBLISHED.items():
        model_class = source_of(source)
        seconds = seconds_of(lambda c=model_class, k=config, b=base: plan(c, k, base=b))
        made[f"{name} (s)"] = seconds
    return made


def check() -> Comparison:
    """Time our check and `mup.coord_check.get_coord_data`, alternating; medians of five.

    Both train the same widths on one batch and look at every module four times, before any update
    and after each of three. The package's also makes a fourth update, which it does not look at.
    """
    family = FAMILIES["uvit"]
    planned = family.plan(heads=HEADS[-1])
    ours = lambda: coord_check(  # noqa: E731
        planned, family.first_loss(BATCH), widths=HEADS, lr=LR, steps=STEPS, seeds=1
    )
    try:
        theirs = _package()
    except ImportError:
        return {"ours (s)": seconds_of(ours), "mup 1.0.0": "not here: make bench"}
    rounds = [(seconds_of(ours), seconds_of(theirs)) for _ in range(5)]
    mine, other = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratios = [b / a for a, b in rounds]
    return {
        "ours (s)": mine,
        "mup 1.0.0 (s)": other,
        "modules": float(len(ours().modules)),
        "ratio": statistics.median(ratios),
        "ratio, least": min(ratios),
        "ratio, most": max(ratios),
    }


def deviations(seeds: int = 12) -> Comparison:
    """Check muP itself in all families; return the largest slopes of checks of one seed."""
    how: dict[str, Any] = {"widths": HEADS, "lr": LR, "steps": STEPS, "seeds": seeds}
    checks = [
        coord_check(family.plan(heads=HEADS[-1]), family.first_loss(BATCH), **how)
        for family in FAMILIES.values()
    ]
    alone = [_of_seed(check, seed) for check in checks for seed in range(seeds)]
    names = [field.name for field in fields(Bands)]
    ones = {name: Bands(**(dict.fromkeys(names, inf) | {name: 1.0})) for name in names}
    return {name: max(check.excess(one) for check in alone) for name, one in ones.items()}


def _of_seed(check: Coordinates, seed: int) -> Coordinates:
    arrays = {name: getattr(check, name)[seed : seed + 1] for name in ("size", "moved", "loss")}
    return replace(check, **arrays)


class _Adapted(nn.Module):
    """U-ViT with the package's readout, for its check: the first output is the loss."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        from mup import MuReadout  # type: ignore[import-not-found]

        family = FAMILIES["uvit"]
        self.net: Any = family.model_class(**family.config(heads=heads))
        readout = self.net.proj_out
        self.net.proj_out = MuReadout(readout.in_features, readout.out_features)

    def forward(self, **batch: torch.Tensor) -> tuple[torch.Tensor]:
        predicted = self.net(batch["x_t"], batch["t"], batch["y"])
        return ((predicted - batch["noise"]).square().mean(),)


def _package() -> Callable[[], Any]:
    """The package's own check of the same network: as its README has it."""
    from mup import set_base_shapes  # type: ignore[import-not-found]
    from mup.coord_check import get_coord_data  # type: ignore[import-not-found]

    def lazy(heads: int) -> Callable[[], nn.Module]:
        def made() -> nn.Module:
            return set_base_shapes(_Adapted(heads), _Adapted(4), delta=_Adapted(8))

        return made

    models = {16 * heads: lazy(heads) for heads in HEADS}
    batch = draw(0, 0, BATCH)._asdict()
    return lambda: get_coord_data(
        models,
        [copy.copy(batch)],
        optimizer="adamw",
        lr=LR,
        nsteps=STEPS + 1,
        dict_in_out=True,
        cuda=False,
        show_progress=False,
    )
