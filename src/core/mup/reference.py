"""muP as the reference package has it, beside ours: the factor in the forward pass.

`unfolded` gives a model whose layers multiply what ours carry in their tensors, and `gap` trains
both. They are one trajectory if Adam's epsilon and the clip norm are scaled as `rules.py` says.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from core.mup.plan import Plan

Loss = Callable[[nn.Module, int], Tensor]
"""Model and step -> the loss of that step's batch."""


@torch.no_grad()
def unfolded(plan: Plan, model: nn.Module) -> nn.Module:
    """Return a copy that computes the same, with every factor in the forward pass.

    Its optimizer takes the groups of `plan.under("forward factor")`.

    Args:
        plan: of the model, under muP.
        model: with the plan's parameters, unwrapped. Each folded tensor is a linear layer's.

    Raises:
        ValueError: another module carries a factor.
    """
    made = copy.deepcopy(model)
    for name, entry in plan.entries.items():
        path, _, attribute = name.rpartition(".")
        if entry.fold == 1 or attribute != "weight":
            continue
        layer = made.get_submodule(path)
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{name}: want a linear layer to unfold, got {type(layer).__name__}")
        layer.weight.div_(entry.fold)
        bias = plan.entries.get(f"{path}.bias")
        if bias is not None and bias.fold == entry.fold:
            layer.bias.div_(entry.fold)
            layer.register_forward_hook(lambda m, i, y, f=entry.fold: f * y)
        else:  # a readout: its bias is added after the factor
            layer.register_forward_pre_hook(lambda m, x, f=entry.fold: (f * x[0],))
    return made


def gap(
    plan: Plan,
    loss: Loss,
    *,
    steps: int,
    lr: float,
    weight_decay: float = 0.0,
    eps: float = 1e-8,
    clip: float | None = None,
    scaled: bool = True,
    seed: int = 0,
) -> float:
    """Train the plan's model and its unfolded copy with AdamW in float64, and compare.

    Args:
        plan: under muP.
        loss: called with a model and a step.
        steps: updates.
        lr: the base's learning rate.
        weight_decay: the base's, times the learning rate as AdamW has it.
        eps: of Adam, above zero: a label that no batch has drawn has no gradient.
        clip: bound of the gradient's norm, if any.
        scaled: whether epsilon and the clip norm are scaled with the fold, as they must be.
        seed: of the initialisation.

    Returns:
        The largest difference of the two losses over the steps.

    Raises:
        ValueError: a loss is not finite.
    """
    ours = plan.build(seed=seed).double()
    theirs = unfolded(plan, ours)
    settings: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "eps": eps}
    groups = plan.groups(ours, **settings)
    if not scaled:
        groups = [{**group, "eps": eps} for group in groups]
    reference = plan.under("forward factor").groups(theirs, **settings)
    pairs = [(m, torch.optim.AdamW(g)) for m, g in ((ours, groups), (theirs, reference))]
    worst = 0.0
    for step in range(steps):
        values = []
        for model, optimizer in pairs:
            value = loss(model, step)
            optimizer.zero_grad()
            value.backward()
            if clip is not None and scaled and model is ours:
                plan.clip_grad_norm_(model, clip)
            elif clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            values.append(value.item())
        if not all(map(torch.isfinite, map(torch.tensor, values))):
            raise ValueError(f"a loss is not finite after {step} steps: {values}")
        worst = max(worst, abs(values[0] - values[1]))
    return worst
