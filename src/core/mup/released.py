"""The checkpoints of DiT-muP, as models of diffusers.

The authors' code (`ML-GSAI/Scaling-Diffusion-Transformers-muP`, `DiT/train_mup.py`) saves what
DiT's code saves: a file with the weights (`model`), their moving average (`ema`), which it samples
from, the optimizer's state and the arguments. Read with diffusers' names, two things would be lost:

- its readout is `mup.MuReadout`, whose forward multiplies what comes in by `output_mult / m`, with
  m the width over that of the base: 1/4 for the released XL, 1152 over 288. No tensor says so. Here
  the factor goes into the weight of the readout; its bias never had it.
- its frequencies of time are 10000^(-i / 128), and diffusers' class has 10000^(-i / 127); its norms
  divide by sqrt(var + 1e-6), and diffusers' second one by default by sqrt(var + 1e-5). `SharedDiT`
  can be told both. `DiTTransformer2DModel` cannot be told the first: there an angle is off by up to
  2.9 radians at the last time.
"""

import os
import pickle
from argparse import Namespace
from collections.abc import Mapping
from math import isqrt
from typing import Any, Literal

import torch
from diffusers.models.embeddings import PatchEmbed
from torch import Tensor

from core.command import first_line
from core.mup.dit import EMBEDDER, SharedDiT, fill_

HEAD_DIM, BASE_WIDTH = 72, 288
"""Of all the authors' runs: `width288_d28.bsh` has 4 heads."""
FREQUENCIES = 256
"""Sines and cosines of the time."""

LACKS = "the checkpoint lacks {}: it is not DiT's, or not whole"

# released name -> diffusers' name, without .weight and .bias
EMBEDDERS = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}
IN_BLOCK = {
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}
AROUND = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}


def load_released(
    path: str | os.PathLike[str],
    *,
    weights: Literal["ema", "model"] = "ema",
    head_dim: int = HEAD_DIM,
    base_width: int = BASE_WIDTH,
    output_mult: float = 1.0,
) -> SharedDiT:
    """Read a checkpoint of the authors' code.

    Nothing in the file is executed. A file that is itself a state dict, as DiT's own are, is read
    too, and `weights` is not asked.

    Args:
        path: the file, such as `0400000.pt`.
        weights: the moving average, or what was trained.
        head_dim: as in `convert`, as are the others.
        base_width: likewise.
        output_mult: likewise.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: the file holds something else, or its arguments contradict those given; or as
            `convert` says.
    """
    found = _read(path)
    if "args" in found:
        _agree(vars(found["args"]), head_dim, base_width, output_mult)
    if "x_embedder.proj.weight" not in found:
        if weights not in found:
            raise ValueError(f"{path} holds {', '.join(found)}; want {weights!r} among them")
        found = found[weights]
    return convert(found, head_dim=head_dim, base_width=base_width, output_mult=output_mult)


def convert(
    released: Mapping[str, Tensor],
    *,
    head_dim: int = HEAD_DIM,
    base_width: int = BASE_WIDTH,
    output_mult: float = 1.0,
) -> SharedDiT:
    """Return the model of a state dict with the names of DiT's code.

    Args:
        released: name -> tensor; sizes are read off it.
        head_dim: D / H, which no tensor tells.
        base_width: D of the base shapes it was trained with; for a model that was not trained
            under muP, its own width.
        output_mult: of its readout, `2**logstd` there.

    Returns:
        The model in evaluation mode, in the precision of its tensors; they are not copied.

    Raises:
        ValueError: a tensor is missing, unknown or has another shape, the width is no multiple of
            the heads' dimension, or positions are not the fixed ones that diffusers computes.
    """
    config = _config(released, head_dim)
    depth = config["num_layers"]
    _check_tensors(released, _shapes(config))
    table = _positions(config)
    _check_positions(released["pos_embed"], table)
    with torch.device("meta"):
        model = SharedDiT(**config)
    tensors = _renamed(released, depth)
    m = config["num_attention_heads"] * head_dim / base_width
    tensors["proj_out_2.weight"] = tensors["proj_out_2.weight"] * (output_mult / m)
    fill_(model, tensors, {"pos_embed.pos_embed": table})
    return model.eval()


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        # the arguments of the run are in it; a Namespace does nothing by being read
        with torch.serialization.safe_globals([Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is no file of tensors: {first_line(error)}") from error
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path} holds a {type(found).__name__}; want a checkpoint of DiT-muP")
    return found


def _agree(told: dict[str, Any], head_dim: int, base_width: int, output_mult: float) -> None:
    """Refuse what the arguments in the file contradict, where they say anything."""
    given = {"head_dim": head_dim, "base_width": base_width, "output_mult": output_mult}
    recorded = dict(given)
    if "dim_heads" in told:
        recorded["head_dim"] = told["dim_heads"]
    if "logstd" in told:
        recorded["output_mult"] = 2.0 ** told["logstd"]
    if not told.get("mup", True) and "num_heads" in told:  # its readout has no factor
        width = told["num_heads"] * recorded["head_dim"]
        recorded |= {"base_width": width, "output_mult": 1.0}
    for name, value in recorded.items():
        if given[name] != value:
            raise ValueError(
                f"the file's arguments say {name}={value}, got {given[name]}: pass {name}={value}"
            )


def _config(released: Mapping[str, Tensor], head_dim: int) -> dict[str, Any]:
    """Read the sizes off the tensors that have them."""
    patch = _sizes(released, "x_embedder.proj.weight", 4)
    positions = _sizes(released, "pos_embed", 3)[1]
    rows = _sizes(released, "final_layer.linear.weight", 2)[0]
    width, channels, side = patch[:3]
    if width % head_dim:
        raise ValueError(f"a width of {width} is no multiple of head_dim={head_dim}")
    if isqrt(positions) ** 2 != positions:
        raise ValueError(f"pos_embed has {positions} positions: want those of a square")
    blocks = {name.split(".")[1] for name in released if name.startswith("blocks.")}
    return {
        "num_attention_heads": width // head_dim,
        "attention_head_dim": head_dim,
        "in_channels": channels,
        "out_channels": rows // side**2,
        "num_layers": len(blocks),
        "sample_size": isqrt(positions) * side,
        "patch_size": side,
        "num_embeds_ada_norm": _sizes(released, "y_embedder.embedding_table.weight", 2)[0] - 1,
        "norm_eps": 1e-6,
        "freq_shift": 0,
    }


def _sizes(released: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in released:
        raise ValueError(LACKS.format(name))
    shape = tuple(released[name].shape)
    if len(shape) != dimensions:
        raise ValueError(f"{name} is {list(shape)}: want {dimensions} dimensions")
    return shape


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return every tensor of DiT at these sizes, with its shape."""
    D, P = config["num_attention_heads"] * config["attention_head_dim"], config["patch_size"]
    C, S = config["in_channels"], config["sample_size"]
    linear = {
        "t_embedder.mlp.0": (D, FREQUENCIES),
        "t_embedder.mlp.2": (D, D),
        "final_layer.adaLN_modulation.1": (2 * D, D),
        "final_layer.linear": (config["out_channels"] * P**2, D),
        "x_embedder.proj": (D, C, P, P),
    }
    block = {"attn.qkv": (3 * D, D), "attn.proj": (D, D), "adaLN_modulation.1": (6 * D, D)}
    block |= {"mlp.fc1": (4 * D, D), "mlp.fc2": (D, 4 * D)}
    for number in range(config["num_layers"]):
        linear |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    shapes = {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    shapes["y_embedder.embedding_table.weight"] = (config["num_embeds_ada_norm"] + 1, D)
    shapes["pos_embed"] = (1, (S // P) ** 2, D)
    return shapes


def _check_tensors(released: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name in sorted(set(released) | set(shapes)):
        if name not in released:
            raise ValueError(LACKS.format(name))
        if name not in shapes:
            raise ValueError(f"the checkpoint has {name}, which DiT has not: another model?")
        if tuple(released[name].shape) != shapes[name]:
            raise ValueError(
                f"{name} is {list(released[name].shape)}, and of a DiT with the sizes of its other "
                f"tensors {list(shapes[name])}"
            )


def _positions(config: Mapping[str, Any]) -> Tensor:
    """Return diffusers' fixed positions, `[1, N, D]`: no checkpoint of its holds them."""
    side = config["sample_size"]
    embed = PatchEmbed(
        height=side,
        width=side,
        patch_size=config["patch_size"],
        in_channels=config["in_channels"],
        embed_dim=config["num_attention_heads"] * config["attention_head_dim"],
    )
    return embed.get_buffer("pos_embed")


def _check_positions(released: Tensor, table: Tensor) -> None:
    # sines and cosines: half precision rounds them by less, another layout is off by about 1
    off = (released.to(table.dtype) - table).abs().max().item()
    if not off < 0.01:
        raise ValueError(
            f"pos_embed is off by up to {off:.2g} from the fixed positions that diffusers' class "
            "computes, and that class has no place for others"
        )


def _renamed(released: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    names = dict(AROUND)
    tensors = {}
    for n in range(depth):
        block = f"transformer_blocks.{n}"
        names |= {f"blocks.{n}.{old}": f"{block}.{new}" for old, new in IN_BLOCK.items()}
        for kind in ("weight", "bias"):
            q, k, v = released[f"blocks.{n}.attn.qkv.{kind}"].chunk(3)
            for part, tensor in zip("qkv", (q, k, v), strict=True):
                tensors[f"{block}.attn1.to_{part}.{kind}"] = tensor
        for old, new in EMBEDDERS.items():
            tensors |= _both(released, old, f"{block}.{EMBEDDER}.{new}")
    for old, new in names.items():
        tensors |= _both(released, old, new)
    return tensors


def _both(released: Mapping[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """Weight and bias, where there is one, under another name."""
    kinds = [kind for kind in ("weight", "bias") if f"{old}.{kind}" in released]
    return {f"{new}.{kind}": released[f"{old}.{kind}"] for kind in kinds}
