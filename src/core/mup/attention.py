r"""The factor of attention where the head dimension grows: 1/d instead of 1/sqrt(d).

With more heads of the same dimension d, logits keep their size and there is nothing to do. If d
itself grows, training correlates q and k, and q.k grows as d, not as sqrt(d): muP divides by d
(arXiv:2203.03466v2, Section 5.1). Relative to the base that is one more factor sqrt(d_base / d) on
the logits, which here the queries carry: their projection, or, where queries are normalised, the
gain of that norm, since a norm forgets the scale of its input.

Attention is known by its parts, as diffusers names them: `heads`, `to_q`, `add_q_proj`, `norm_q`,
`norm_added_q`. Where the dimension of a head grows in an attention with other parts, such as a
projection to queries, keys and values at once, the plan is refused: nobody is to carry the factor.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from core.mup.rules import Entry

if TYPE_CHECKING:
    from core.mup.plan import Plan

# a projection of queries, and the norm that follows it
QUERIES = {"to_q": "norm_q", "add_q_proj": "norm_added_q"}
# layers and norms that have to do with queries, under whatever name
QUERY = re.compile(r"(^|_)(q|qkv|query)(_|$)")
HEADS = ("heads", "num_heads", "num_attention_heads", "n_heads")


def fold_attention(
    entries: dict[str, Entry], base: nn.Module, target: nn.Module
) -> dict[str, Entry]:
    """Return the entries with the factor of attention in the queries of every attention.

    Raises:
        ValueError: a head dimension grows and the queries cannot carry the factor: they are a part
            of a fused projection, have other names, or their norm has no gain.
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
    """Return what grows with the dimension of a head; where queries have a layer, it is that."""
    if isinstance(module, nn.MultiheadAttention):
        return module.head_dim
    # of the module itself: a model of diffusers answers with its configuration too, and warns
    heads = [n for name in HEADS if type(n := vars(module).get(name)) is int and n > 0]
    layers = [layer for name, layer in _queries(module) if isinstance(layer, nn.Linear)]
    return layers[0].out_features // heads[0] if layers and heads else None


def _queries(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, child) for name, child in module.named_children() if QUERY.search(name)]


def _carriers(path: str, module: nn.Module) -> Iterator[str]:
    """Names of the parameters that carry the factor."""
    known = {*QUERIES, *QUERIES.values()}
    other = [name for name, _ in _queries(module) if name not in known]
    if isinstance(module, nn.MultiheadAttention):
        other = ["in_proj_weight"]
    if other:
        raise ValueError(
            f"{path}.{other[0]}".lstrip(".") + ": the head dimension grows, and the factor of "
            "attention belongs to the queries alone, which are a part of this tensor or have an "
            f"unknown form: give them a layer of their own ({', '.join(QUERIES)}), or hold the "
            "head dimension and scale the number of heads"
        )
    for projection, norm in QUERIES.items():
        layer, after = getattr(module, projection, None), getattr(module, norm, None)
        if layer is None:
            continue
        carrier = f"{path}.{norm if after is not None else projection}".lstrip(".")
        names = [name for name, _ in (layer if after is None else after).named_parameters()]
        if not names:
            raise ValueError(
                f"{carrier} has no gain, and forgets the scale of what it normalises: the head "
                "dimension grows, and nothing can carry the factor of attention. Hold the head "
                "dimension and scale the number of heads"
            )
        yield from (f"{carrier}.{name}" for name in names)


def logit_moves(
    plan: "Plan",
    loss: Callable[[nn.Module, int], Tensor],
    *,
    lr: float,
    steps: int,
    seed: int = 0,
) -> float:
    """Train with AdamW on one batch; return how far the logits q.k / sqrt(d) move, on average.

    The mean over heads, pairs of tokens and attention layers of |logit after - logit before|.

    Args:
        plan: of a model whose attentions have `heads`, `to_q` and `to_k`, without a norm.
        loss: called with the model and the seed.
        lr: the base's learning rate.
        steps: updates.
        seed: of the weights.
    """
    model = plan.build(seed=seed)
    optimizer = torch.optim.AdamW(plan.groups(model, lr=lr), fused=True)
    layers = {name: m for name, m in model.named_modules() if _head_dim(m)}
    seen: dict[str, Tensor] = {}
    for name, layer in layers.items():
        for part in ("to_q", "to_k"):
            getattr(layer, part).register_forward_hook(
                lambda m, i, output, key=f"{name}.{part}": seen.update({key: output.detach()})
            )
    logits = []
    for _ in range(steps + 1):
        value = loss(model, seed)
        logits.append([_logits(seen, name, layer) for name, layer in layers.items()])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    changes = [(b - a).abs().mean() for a, b in zip(logits[0], logits[-1], strict=True)]
    return float(torch.stack(changes).mean())


def _logits(seen: Mapping[str, Tensor], name: str, layer: Any) -> Tensor:
    heads, d = layer.heads, _head_dim(layer) or 1
    q, k = (
        seen[f"{name}.{part}"].unflatten(-1, (heads, d)).transpose(-3, -2)  # [B, H, T, d]
        for part in ("to_q", "to_k")
    )
    return q @ k.mT / d**0.5
