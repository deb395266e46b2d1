r"""The factor of attention where the head dimension grows: 1/d instead of 1/sqrt(d).

With more heads of the same dimension d, logits keep their size and there is nothing to do. If d
itself grows, training correlates q and k, and q.k grows as d, not as sqrt(d): muP divides by d
(arXiv:2203.03466v2, Section 5.1). Relative to the base that is one more factor sqrt(d_base / d) on
the logits, which here the queries carry: their projection, or, where queries are normalised, the
gain of that norm, since a norm forgets the scale of its input.

Attention is known by its parts, as diffusers names them: `heads`, `to_q`, `add_q_proj`, `norm_q`,
`norm_added_q`.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import sqrt

from torch import nn

from core.mup.rules import Entry

# a projection of queries, and the norm that follows it
QUERIES = (("to_q", "norm_q"), ("add_q_proj", "norm_added_q"))


def fold_attention(
    entries: dict[str, Entry], base: nn.Module, target: nn.Module
) -> dict[str, Entry]:
    """Return the entries with the factor of attention in the queries of every attention.

    Raises:
        ValueError: a head dimension grows and the queries cannot carry the factor: they are a part
            of a fused projection, or their norm has no gain.
    """
    factors = {}
    modules = dict(base.named_modules())
    for path, module in target.named_modules():
        before, after = _head_dim(modules[path]), _head_dim(module)
        if after and before and after != before:
            factors.update(dict.fromkeys(_carriers(path, module), sqrt(before / after)))
    return {
        name: replace(entry, fold=entry.fold * factors.get(name, 1.0))
        for name, entry in entries.items()
    }


def _head_dim(module: nn.Module) -> int | None:
    heads = getattr(module, "heads", None)
    projection = getattr(module, "to_q", None) or getattr(module, "to_qkv", None)
    if not isinstance(heads, int) or not isinstance(projection, nn.Linear):
        return None
    return projection.out_features // heads


def _carriers(path: str, module: nn.Module) -> Iterator[str]:
    """Names of the parameters that carry the factor."""
    if getattr(module, "to_qkv", None) is not None:
        raise ValueError(
            f"{path}.to_qkv.weight: the head dimension grows, and the factor of attention belongs "
            "to the queries alone, a third of this tensor: unfuse the projection, or hold the head "
            "dimension and scale the number of heads"
        )
    for projection, norm in QUERIES:
        layer, after = getattr(module, projection, None), getattr(module, norm, None)
        if layer is None:
            continue
        carrier = f"{path}.{norm if after is not None else projection}"
        names = [name for name, _ in (layer if after is None else after).named_parameters()]
        if not names:
            raise ValueError(
                f"{carrier} has no gain, and forgets the scale of what it normalises: the head "
                "dimension grows, and nothing can carry the factor of attention. Hold the head "
                "dimension and scale the number of heads"
            )
        yield from (f"{carrier}.{name}" for name in names)
