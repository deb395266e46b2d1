r"""The factor of attention where the head dimension grows: 1/d instead of 1/sqrt(d).

With more heads of the same dimension d, logits keep their size and there is nothing to do. If d
itself grows, training correlates q and k, and q.k grows as d, not as sqrt(d): muP divides by d
(arXiv:2203.03466v2, Section 5.1). Relative to the base that is one more factor sqrt(d_base / d) on
the logits, which here the queries carry: their projection, or, where queries are normalised, the
gain of that norm, since a norm forgets the scale of its input.

Attention is known by its parts, as diffusers names them: `heads`, `to_q`, `add_q_proj`, `norm_q`,
`norm_added_q`.
"""

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
