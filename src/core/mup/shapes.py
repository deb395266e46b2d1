"""Which kind each parameter is: read off the shapes of three models on the meta device.

A dimension grows if it differs between base, delta (a third width) and target; where a weight has
its fan-in and fan-out is known from the module that owns it, not from its shape: an embedding
`[V, D]` and a readout `[V, D]` look alike.

Little is guessed. What no layer of torch owns is taken for a vector if one dimension of it grows,
as tables and positions are; if two grow it is refused by name. `axes` says of either what it is.
"""

from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from core.mup.rules import Entry, Kind

Axes = Mapping[str, tuple[int, int]]
Growth = tuple[Fraction, Fraction]


class Owned(NamedTuple):
    """A parameter, and the module whose attribute it is."""

    tensor: Tensor
    owner: nn.Module
    attribute: str


class Triple(NamedTuple):
    """One parameter at three widths: how each of its dimensions grows."""

    base: tuple[int, ...]
    delta: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def grows(self) -> list[bool]:
        """Of each dimension, whether it grows with the width."""
        return [len({b, d, t}) > 1 for b, d, t in zip(*self, strict=True)]

    def ratio(self, axis: int) -> float:
        """Return target over base along a dimension."""
        return self.target[axis] / self.base[axis]


def owned(model: nn.Module) -> dict[str, list[Owned]]:
    """Return each tensor under its first name, with all its owners."""
    names: dict[int, str] = {}
    found: dict[str, list[Owned]] = {}
    for path, module in model.named_modules():
        for attribute, tensor in module.named_parameters(recurse=False):
            name = names.setdefault(id(tensor), f"{path}.{attribute}".lstrip("."))
            found.setdefault(name, []).append(Owned(tensor, module, attribute))
    return found


def classify(
    base: nn.Module,
    delta: nn.Module,
    target: nn.Module,
    *,
    growth: Collection[Growth],
    axes: Axes,
) -> dict[str, Entry]:
    """Return the entry of every parameter of the target.

    Args:
        base: the model at the base width, on the meta device, as are the others.
        delta: at a third width, so that growth can be told from rounding.
        target: at the width to be planned.
        growth: of each width, what it is at delta and at the target, over that at the base.
        axes: parameter name -> (axis of fan-out, axis of fan-in), for matrices that no module of
            torch owns.

    Raises:
        ValueError: the three have different parameters or nothing grows, a tensor is shared in two
            roles, or a parameter is undecidable; the message names it.
    """
    models = [owned(model) for model in (base, delta, target)]
    _same_names(models)
    unknown = set(axes) - set(models[2])
    if unknown:
        raise ValueError(f"axes names {min(unknown)!r}, and the model has no such parameter")
    entries = {}
    for name, owners in models[2].items():
        triple = Triple(*(tuple(model[name][0].tensor.shape) for model in models))
        _proportional(name, triple, growth)
        found = [_entry(name, one, triple, axes.get(name)) for one in owners]
        if any(entry != found[0] for entry in found):
            raise ValueError(_SHARED.format(name, " and as ".join(e.kind for e in found)))
        entries[name] = found[0]
    if not any(entry.kind == "hidden" for entry in entries.values()):
        raise ValueError(
            "no parameter grows on both sides between base and target: the keys in base are not "
            "the width of this model"
        )
    return entries


_SHARED = (
    "{} is one tensor that serves as {}: muP gives the two different scales, and one tensor has "
    "one. Untie it, and train two tensors"
)


def bottlenecks(entries: Mapping[str, Entry]) -> list[str]:
    """Return inner layers into a finite dimension: what is named like no last layer, by name.

    They are outputs by their shape (a low-rank modulation, keys and values of a fixed number of
    heads), and at initialisation fade as 1 / sqrt(m), as an output does.
    """
    outputs = [name for name, entry in entries.items() if entry.kind == "output"]
    return outputs[:-1]


def _same_names(models: list[dict[str, list[Owned]]]) -> None:
    for other in models[:2]:
        differ = set(other) ^ set(models[2])
        if differ:
            raise ValueError(
                f"{min(differ)!r} is a parameter at one width and not at another: the keys in base "
                "change more than the width"
            )
    for name in models[2]:
        dimensions = {model[name][0].tensor.ndim for model in models}
        if len(dimensions) > 1:
            raise ValueError(f"{name} has {sorted(dimensions)} dimensions at different widths")


def _proportional(name: str, triple: Triple, growth: Collection[Growth]) -> None:
    """Refuse a dimension of which a part grows and a part does not: two roles in one tensor.

    What was rounded, as some feed-forward layers are, fits no such line, and passes. Two widths
    that are one tell nothing.
    """
    for axis, (b, d, t) in enumerate(zip(*triple, strict=True)):
        for at_delta, at_target in growth:
            if 1 in (at_delta, at_target) or at_delta == at_target:
                continue
            grows = (d - b) / (at_delta - 1)
            stays = b - grows
            if grows > 0 and stays > 0 and t == stays + at_target * grows:
                raise ValueError(
                    f"{name}: dimension {axis} is {stays} + {grows} times the width over that of "
                    f"the base ({b} at the base, {d} at {at_delta} times its width, {t} at the "
                    "target): what grows and what stays have different scales, and one tensor has "
                    "one. Split it in two"
                )


def _entry(name: str, one: Owned, triple: Triple, given: tuple[int, int] | None) -> Entry:
    grows, shape = triple.grows, triple.target
    axes = given or _axes(one)
    if sum(grows) > 2:
        raise ValueError(
            f"{name} {list(shape)} grows in {sum(grows)} dimensions, and muP has rules for two: "
            "hold one of them, or split the tensor"
        )
    if axes is None:
        if sum(grows) > 1:
            raise ValueError(
                f"{name} {list(shape)} grows in two dimensions, and {type(one.owner).__name__} "
                "does not say which is its fan-in: give axes="
                f"{{{name!r}: (axis of fan-out, axis of fan-in)}}"
            )
        if not any(grows):
            return Entry(shape, "finite")
        return Entry(shape, "vector", m_out=triple.ratio(grows.index(True)))
    out, into = axes
    if sum(grows) > grows[out] + grows[into]:
        raise ValueError(f"{name} {list(shape)} grows in a dimension that is neither of its fans")
    kind: Kind = _KINDS[grows[out], grows[into]]
    m_in, m_out = triple.ratio(into), triple.ratio(out)
    fold = 1 / m_in if kind == "output" else 1.0
    return Entry(shape, kind, m_in, m_out, (shape[out], shape[into]), fold)


_KINDS: dict[tuple[bool, bool], Kind] = {
    (True, True): "hidden",
    (False, True): "output",
    (True, False): "input",
    (False, False): "finite",
}


def _axes(one: Owned) -> tuple[int, int] | None:
    """Where a weight has its (fan-out, fan-in); None for what is no matrix."""
    owner, attribute = one.owner, one.attribute
    if isinstance(owner, _ConvTransposeNd) and attribute == "weight":
        depthwise = owner.groups == owner.in_channels > 1
        return (0, 1) if depthwise else (1, 0)
    if isinstance(owner, (nn.Linear, _ConvNd)) and attribute == "weight":
        return 0, 1
    if isinstance(owner, (nn.RNNBase, nn.RNNCellBase)) and attribute.startswith("weight"):
        return 0, 1
    if isinstance(owner, nn.MultiheadAttention) and attribute.endswith("proj_weight"):
        return 0, 1
    return None
