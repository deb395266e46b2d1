"""The factors of each optimizer: a table written by hand, and Muon's own update, measured."""

import math
from dataclasses import replace

import pytest
import torch

from core.mup.rules import OPTIMIZERS, Entry, check_optimizer

M, N = 3.0, 2.0  # fan-in and fan-out grow differently, or an exchange of the two would pass
ENTRIES = {
    "input": Entry((8, 5), "input", m_out=N, fans=(8, 5)),
    "hidden": Entry((8, 12), "hidden", M, N, (8, 12)),
    "output": Entry((5, 12), "output", M, 1.0, (5, 12), fold=1 / M),
    "vector": Entry((8,), "vector", m_out=N),
    "finite": Entry((5,), "finite"),
}


@pytest.mark.parametrize(
    ("kind", "init"),
    [("input", 1), ("hidden", M**-0.5), ("output", 1 / M), ("vector", 1), ("finite", 1)],
)
def test_the_spread_at_initialisation(kind, init):
    assert ENTRIES[kind].init == pytest.approx(init)


# learning rate, decay, epsilon; arXiv:2203.03466v2, Table 3, with an output's factor in its weight
TABLE = {
    "adamw": {"input": (1, 1, 1), "hidden": (1 / M, M, 1), "output": (1 / M, M, M)},
    "decoupled": {"input": (1, 1, 1), "hidden": (1 / M, 1, 1), "output": (1 / M, 1, M)},
    "adam": {"input": (1, 1, 1), "hidden": (1 / M, M, 1), "output": (1 / M, M**2, M)},
    "sgd": {"input": (N, 1 / N, 1), "hidden": (N / M, M / N, 1), "output": (1 / M, M, 1)},
}


@pytest.mark.parametrize("optimizer", TABLE)
def test_the_factors_are_those_of_the_table(optimizer):
    rows = TABLE[optimizer]
    rows = {**rows, "vector": rows["input"], "finite": (1, 1, 1)}
    for kind, expected in rows.items():
        assert ENTRIES[kind].multipliers(optimizer) == pytest.approx(expected), kind


@pytest.mark.parametrize("optimizer", TABLE)
@pytest.mark.parametrize("kind", ENTRIES)
def test_a_further_rate_is_of_the_learning_rate_and_keeps_their_product_with_the_decay(
    kind, optimizer
):
    plain = ENTRIES[kind].multipliers(optimizer)
    rated = replace(ENTRIES[kind], rate=0.5).multipliers(optimizer)
    assert rated.lr == pytest.approx(plain.lr / 2)
    assert rated.eps == plain.eps
    kept = plain.weight_decay if optimizer == "decoupled" else 2 * plain.weight_decay
    assert rated.weight_decay == pytest.approx(kept)


def muon_moves(n, optimizer, make):
    """One step of torch's Muon: how far a layer's output moves on the input that it learned from.

    The gradient of a linear layer is an outer product of what comes back and what came in, both
    with entries of order one here; a constant of Muon's iteration is the same at all sizes.
    """
    out, into = make(n)
    base = make(16)
    entry = Entry((out, into), "hidden", into / base[1], out / base[0], (out, into))
    generator = torch.Generator().manual_seed(0)
    x, back = (torch.randn(size, generator=generator) for size in (into, out))
    weight = torch.nn.Parameter(torch.zeros(out, into))
    weight.grad = torch.outer(back, x)
    adjust = {"muon": "original", "muon-rms": "match_rms_adamw"}[optimizer]
    lr = entry.multipliers(optimizer).lr
    torch.optim.Muon([weight], lr=lr, weight_decay=0.0, adjust_lr_fn=adjust).step()
    return (weight @ x).square().mean().sqrt().item()


SHAPES = {
    "square": lambda n: (n, n),
    "wider": lambda n: (4 * n, n),
    "narrower": lambda n: (n, 4 * n),
    "by a square": lambda n: (n * n // 16, n),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("optimizer", ["muon", "muon-rms"])
def test_what_muon_updates_moves_as_far_at_every_width(optimizer, shape):
    moves = [muon_moves(n, optimizer, SHAPES[shape]) for n in (16, 48, 144)]
    # |x| / sqrt(n) of n normals has a relative sd of 1 / sqrt(2 n): 18 % at 16; without the rule
    # a square by match_rms_adamw is off by 1.7 at each width, and a growing shape by as much
    assert max(moves) / min(moves) < 1.4


def test_muon_as_torch_has_it_would_not():
    """Its adjustment for AdamW's learning rates grows with the width: what the rule takes away."""
    entry = Entry((48, 48), "hidden", 3.0, 3.0, (48, 48))
    assert entry.multipliers("muon-rms").lr == pytest.approx(1 / math.sqrt(3))
    assert entry.multipliers("muon").lr == 1


def test_muon_decays_by_the_base_s_share_a_step():
    """torch decays by lr x weight_decay before its adjustment."""
    for optimizer in ("muon", "muon-rms"):
        factor = Entry((48, 96), "hidden", 6.0, 3.0, (48, 96)).multipliers(optimizer)
        assert factor.lr * factor.weight_decay == pytest.approx(1)
        weight = torch.nn.Parameter(torch.ones(48, 96))
        weight.grad = torch.zeros(48, 96)
        lr, decay = 0.1 * factor.lr, 0.2 * factor.weight_decay
        adjust = {"muon": "original", "muon-rms": "match_rms_adamw"}[optimizer]
        torch.optim.Muon([weight], lr=lr, weight_decay=decay, adjust_lr_fn=adjust).step()
        torch.testing.assert_close(weight.detach(), torch.full((48, 96), 1 - 0.02))


@pytest.mark.parametrize("entry", [ENTRIES["output"], Entry((4, 4, 3, 3), "hidden", 2, 2, (4, 4))])
def test_muon_takes_hidden_matrices_and_refuses_others(entry):
    assert not entry.muon
    with pytest.raises(ValueError, match=r"Muon takes hidden matrices, not \w+ \[.*beside='muon'"):
        entry.multipliers("muon")


def test_an_optimizer_without_a_rule_is_refused_with_those_that_have_one():
    with pytest.raises(ValueError, match="no muP rule for the optimizer 'lion'") as refused:
        check_optimizer("lion")
    assert all(repr(name) in str(refused.value) for name in OPTIMIZERS)
