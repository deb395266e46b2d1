"""The factor of attention: who carries it, that it is 1/d, and who cannot."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from core.mup import plan
from core.mup.attention import logit_moves
from core.mup.families import FAMILIES

M = 3.0
HEAD_DIM = {"attention_head_dim": 8}


def wider_heads(name, **config):
    family = FAMILIES[name]
    full = family.config(heads=2, layers=1, head_dim=24) | config
    return plan(family.model_class, full, base=HEAD_DIM)


def carriers(made):
    return {n: e.fold for n, e in made.mup.items() if e.fold != 1 and e.kind != "output"}


def test_more_heads_leave_attention_as_it_is():
    for family in FAMILIES.values():
        assert not carriers(family.plan(heads=12, layers=1))


def test_queries_carry_it_with_their_bias():
    expected = dict.fromkeys(("attn1.to_q.weight", "attn1.to_q.bias"), M**-0.5)
    assert carriers(wider_heads("dit")) == {
        f"transformer_blocks.0.{name}": pytest.approx(f) for name, f in expected.items()
    }


def test_where_queries_are_normalised_the_gain_carries_it():
    found = carriers(wider_heads("mmdit"))
    ends = {name.rpartition("attn.")[2] for name in found}
    assert ends == {"norm_q.weight", "norm_added_q.weight"}
    assert list(found.values()) == pytest.approx([M**-0.5] * 2)


@pytest.mark.parametrize("name", ["dit", "mmdit"])
def test_what_carries_it_makes_the_logits_those_of_one_over_d(name):
    """Of the same draw: logits over sqrt(d) with the factor are sqrt(d_base) / d without."""
    made = wider_heads(name)
    with_factor = made.build(seed=1)
    without = made.under("attention / sqrt(d)").build(seed=1)
    a, b = (dict(model.named_parameters()) for model in (with_factor, without))
    for parameter, tensor in a.items():
        factor = (8**0.5 / 24) * 24**0.5 if parameter in carriers(made) else 1.0
        torch.testing.assert_close(tensor, b[parameter] * factor)


class Attention(nn.Module):
    """One attention, with the parts that a test gives it."""

    def __init__(self, num_heads=2, head_dim=4, parts=("to_q", "to_k"), norm=None):
        super().__init__()
        self.heads = num_heads
        width = num_heads * head_dim
        for part in parts:
            self.add_module(part, nn.Linear(width, width * (3 if "qkv" in part else 1)))
        if norm:
            self.add_module(norm, nn.RMSNorm(head_dim, elementwise_affine=norm != "norm_q"))


class Torchs(nn.Module):
    def __init__(self, num_heads=2, head_dim=4):
        super().__init__()
        self.attn = nn.MultiheadAttention(num_heads * head_dim, num_heads)


REFUSED = {
    "fused": ({"parts": ("to_qkv",)}, r"^to_qkv: .*the queries alone"),
    "fused, other name": ({"parts": ("img_attn_qkv",)}, r"^img_attn_qkv: "),
    "with a feed-forward layer": ({"parts": ("to_qkv_mlp_proj",)}, "^to_qkv_mlp_proj: "),
    "other name": ({"parts": ("to_query", "to_key")}, "^to_query: .*to_q, add_q_proj"),
    "other norm": ({"norm": "q_rms_norm"}, "^q_rms_norm: "),
    "no gain": ({"norm": "norm_q"}, "^norm_q has no gain.*scale the number of heads"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_queries_that_cannot_carry_it_are_refused_by_name_and_grow_in_number(what):
    config, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        plan(Attention, config | {"head_dim": 12}, base={"head_dim": 4})
    assert not carriers(plan(Attention, config | {"num_heads": 6}, base={"num_heads": 2}))


def test_torchs_own_attention_is_refused_too():
    with pytest.raises(ValueError, match=r"^attn\.in_proj_weight: .*a part of this tensor"):
        plan(Torchs, {"head_dim": 12}, base={"head_dim": 4})
    assert plan(Torchs, {"num_heads": 6}, base={"num_heads": 2}).entries


def test_a_model_that_is_an_attention_carries_it_itself():
    made = plan(Attention, {"head_dim": 12}, base={"head_dim": 4})
    assert set(carriers(made)) == {"to_q.weight", "to_q.bias"}
    assert not made.warnings


def test_heads_that_grow_unseen_are_warned_of():
    class Hidden(nn.Module):
        def __init__(self, num_heads=2, head_dim=4):
            super().__init__()
            self.mix = nn.Linear(num_heads * head_dim, num_heads * head_dim)

    made = plan(Hidden, {"head_dim": 12}, base={"head_dim": 4})
    assert any("head_dim grows, and no attention was found" in told for told in made.warnings)
    assert not plan(Hidden, {"num_heads": 6}, base={"num_heads": 2}).warnings


class Scores(nn.Module):
    """The sum of q.k / sqrt(d) over heads and pairs of three tokens."""

    def __init__(self, num_heads=2, head_dim=4):
        super().__init__()
        self.attn = Attention(num_heads, head_dim)

    def forward(self, x):
        return written_out(self, x).square().mean()


def written_out(model: Any, x):
    heads, width = model.attn.heads, x.shape[-1]
    q, k = (layer(x).view(3, heads, -1) for layer in (model.attn.to_q, model.attn.to_k))
    return torch.einsum("ihd,jhd->hij", q, k) / (width // heads) ** 0.5


def test_how_far_logits_move_is_that_of_the_formula():
    made = plan(Scores, {"num_heads": 6}, base={"num_heads": 2})
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(2))
    moved = logit_moves(made, lambda model, seed: model(x), lr=0.01, steps=2, seed=4)
    model = made.build(seed=4)
    before = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(made.groups(model, lr=0.01))
    for _ in range(2):
        optimizer.zero_grad()
        model(x).backward()
        optimizer.step()
    with torch.no_grad():
        expected = (written_out(model, x) - written_out(before, x)).abs().mean()
    assert moved == pytest.approx(expected.item(), rel=1e-4)
