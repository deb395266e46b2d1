"""Recipes of initialisation: the law of each parameter at the width where it is known to work.

muP says how a law changes with the width, not which law it is. diffusers draws what torch draws by
default, and whoever trains from scratch wants DiT's zero gates, or PixArt's small tables. A recipe
gives a law for each parameter of the base; `Plan.init_` draws the target's from it, times the
factor of its entry. So a law that depends on the width by mistake does so no more: xavier on an
input layer (its fan-out is the width), PixArt's `scale_shift_table` (`randn / sqrt(width)`).

    torch     what the class draws itself, read off a model of the base
    dit       DiT's own: xavier, adaLN-zero, zero readout (arXiv:2212.09748v2, released code)
    dit-mup   DiT-muP's: fan-in, N(0, 1) labels, gates not zero, zero readout (its `models_mup.py`)
    pixart    PixArt-alpha's: xavier, std 0.02 tables and time, zero cross-attention and readout
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Literal
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from core.mup.rules import Entry
from core.mup.shapes import Owned, owned
from core.train import seeds


@dataclass(frozen=True)
class Law:
    """How a tensor is drawn: entry by entry, independently."""

    family: Literal["normal", "uniform", "constant", "kept"]
    """`kept`: as the model was built; of a tensor that is no sample."""
    std: float = 0.0
    """Standard deviation; of a constant, its value."""

    def draw_(self, tensor: Tensor, factor: float, generator: torch.Generator) -> None:
        """Fill a tensor with this law, times a factor."""
        if self.family == "normal":
            tensor.normal_(0.0, self.std * factor, generator=generator)
        elif self.family == "uniform":
            bound = sqrt(3) * self.std * factor
            tensor.uniform_(-bound, bound, generator=generator)
        elif self.family == "constant":
            tensor.fill_(self.std * factor)


ZERO = Law("constant", 0.0)
Recipe = Callable[[str, Owned], Law | None]
"""Parameter name and parameter of the base -> its law, None for what torch's is."""


def laws(pattern: nn.Module, recipe: str) -> dict[str, Law]:
    """Return the law of each parameter at the width of `pattern`.

    Args:
        pattern: a freshly built model.
        recipe: a name in `RECIPES`.

    Raises:
        ValueError: there is no such recipe, or the model lacks the parts that it speaks of.
    """
    if recipe not in RECIPES:
        raise ValueError(f"no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    chosen, landmarks = RECIPES[recipe]
    names = owned(pattern)
    for landmark in landmarks:
        if not any(re.search(landmark, name) for name in names):
            raise ValueError(
                f"the recipe {recipe!r} speaks of {landmark!r}, and {type(pattern).__name__} has "
                f"no such parameter: it is for another model; there are {', '.join(RECIPES)}"
            )
    return {name: chosen(name, one[0]) or read_law(one[0]) for name, one in names.items()}


@torch.no_grad()
def draw_(
    parameters: Mapping[str, Tensor],
    laws: Mapping[str, Law],
    entries: Mapping[str, Entry],
    seed: int,
) -> None:
    """Draw every parameter in place by its law at the base, times the factor of its entry."""
    for name, tensor in parameters.items():
        entry, law = entries[name], laws[name]
        factor = entry.fold if law.family == "constant" else entry.init
        generator = torch.Generator(tensor.device).manual_seed(_stream(seed, name))
        law.draw_(tensor, factor, generator)


def read_law(one: Owned) -> Law:
    """Return the law by which a fresh tensor was drawn, from the tensor and its module.

    torch's own laws are known; the measured spread is what tells whether the class kept them. Of
    another tensor the spread is measured, within a relative error of about 1 / sqrt(2 size).
    """
    tensor = one.tensor.detach().double()
    first = tensor.flatten()[0].item() if tensor.numel() else 0.0
    if not tensor.numel() or bool((tensor == first).all()):
        return Law("constant", first)
    size = tensor.numel()
    measured = tensor.square().mean().sqrt().item()
    known = _torch_law(one)
    if known is not None and abs(measured / known.std - 1) < 6 / sqrt(2 * size):
        return known
    if not one.tensor.requires_grad or abs(tensor.mean().item()) > 6 * measured / sqrt(size):
        return Law("kept")
    return Law("normal", measured)


def _torch_law(one: Owned) -> Law | None:
    """The law of `reset_parameters` of the layers that have one."""
    owner = one.owner
    if isinstance(owner, nn.Embedding):
        return Law("normal", 1.0)
    if isinstance(owner, (nn.Linear, _ConvNd)):
        return Law("uniform", 1 / sqrt(3 * _fan_in(owner)))
    return None


def _fan_in(layer: nn.Module) -> int:
    return torch.nn.init._calculate_fan_in_and_fan_out(layer.weight)[0]  # type: ignore[arg-type]


def _matrix(one: Owned) -> bool:
    return isinstance(one.owner, (nn.Linear, _ConvNd)) and one.attribute == "weight"


def _xavier(one: Owned) -> Law:
    """Glorot's uniform law, of a convolution as of the matrix it flattens to."""
    rows = one.tensor.shape[0]
    return Law("uniform", sqrt(2 / (rows + one.tensor.numel() // rows)))


def _zero_bias(one: Owned) -> Law | None:
    return ZERO if isinstance(one.owner, (nn.Linear, _ConvNd)) and one.attribute == "bias" else None


def _dit(name: str, one: Owned) -> Law | None:
    if re.search(READOUT, name) or re.search(GATES, name):
        return ZERO
    if re.search(r"time\w*_embedder\.linear_\d\.weight|embedding_table\.weight", name):
        return Law("normal", 0.02)
    return _xavier(one) if _matrix(one) else _zero_bias(one)


def _dit_mup(name: str, one: Owned) -> Law | None:
    if re.search(READOUT, name):
        return ZERO
    if _matrix(one):
        return Law("normal", 1 / sqrt(_fan_in(one.owner)))
    if isinstance(one.owner, nn.Embedding):
        return Law("normal", 1.0)
    return _zero_bias(one)


def _pixart(name: str, one: Owned) -> Law | None:
    if re.search(r"attn2\.to_out\.0\.", name) or re.search(READOUT, name):
        return ZERO
    if name.endswith("scale_shift_table"):
        return Law("normal", 0.02)
    if re.search(rf"({SIZES}|caption_projection)\.linear_\d\.weight", name):
        return Law("normal", 0.02)
    if name.endswith("adaln_single.linear.weight"):
        return Law("normal", 0.02)
    return _xavier(one) if _matrix(one) else _zero_bias(one)


SIZES = r"timestep_embedder|resolution_embedder|aspect_ratio_embedder"
READOUT = r"^(proj_out|proj_out_2|readout)\."
# what modulates: in blocks, and before the readout
GATES = r"(\.norm1(_context)?\.linear|\.norm\.linear|^norm_out\.linear|^proj_out_1)\."

RECIPES: dict[str, tuple[Recipe, tuple[str, ...]]] = {
    "torch": (lambda name, one: None, ()),
    "dit": (_dit, (READOUT, GATES)),
    "dit-mup": (_dit_mup, (READOUT, GATES)),
    "pixart": (_pixart, (READOUT, r"scale_shift_table", r"^adaln_single\.")),
}
"""Name -> the recipe, and the parameters without which it is for another model."""


def _stream(seed: int, name: str) -> int:
    """A seed of its own for each parameter, whatever else the model has."""
    return int(seeds.generator(seed, crc32(name.encode())).integers(2**62))
