"""The depth rule against a model whose forward pass multiplies its branches."""

from typing import Any

import pytest
import torch

from core.mup import plan
from core.mup.depth import deepened
from core.mup.digits import draw
from core.mup.families import FAMILIES

FAMILY = FAMILIES["dit"]


def made(layers, **how):
    base = plan(FAMILY.model_class, FAMILY.config(heads=8, layers=1), base=FAMILY.base)
    return deepened(base.at(num_attention_heads=4), layers, base_layers=1, **how)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_the_folded_branch_trains_as_one_multiplied_in_the_forward_pass(alpha):
    layers, lr, eps = 3, 2**-8, 1e-8
    ours = made(layers, alpha=alpha)
    folded = ours.build(seed=3).double()
    reference: Any = ours.build(seed=3).double()
    f = layers**-alpha
    groups = []
    for name, p in reference.named_parameters():
        inside = name.startswith("transformer_blocks.")
        if inside and (".attn1.to_out.0." in name or ".ff.net.2." in name):
            p.data /= f
        groups.append({"params": [p], "lr": lr * (layers ** (alpha - 1) if inside else 1.0)})
    for block in reference.transformer_blocks:
        for end in (block.attn1.to_out[0], block.ff.net[2]):
            end.register_forward_hook(lambda m, i, output: f * output)
    pairs = [
        (folded, torch.optim.AdamW(ours.groups(folded, lr=lr, eps=eps))),
        (reference, torch.optim.AdamW(groups, weight_decay=0.0, eps=eps)),
    ]
    for step in range(10):
        batch = draw(0, step, 8).to("cpu", torch.float64)
        losses = []
        for model, optimizer in pairs:
            loss = FAMILY.loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_without_alpha_nothing_is_scaled():
    entries = made(4, alpha=None).entries
    assert {(e.rate, e.fold) for n, e in entries.items() if n.startswith("transformer_blocks")} == {
        (1, 1)
    }


def test_other_blocks_are_refused():
    flux = FAMILIES["uvit"]
    other = plan(flux.model_class, flux.config(heads=8, layers=2), base=flux.base)
    with pytest.raises(ValueError, match="blocks like those of diffusers' DiT"):
        deepened(other, 5, base_layers=3, alpha=1.0)
