"""The check against what is known to be right, and against every wrong parametrization."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from core.mup import plan
from core.mup.coordinates import Bands, Coordinates, compare, coord_check
from core.mup.depth import deepened, last_block
from core.mup.digits import draw
from core.mup.families import FAMILIES
from core.mup.parametrizations import WRONG

HEADS = (4, 8, 16, 32)


def check(name, parametrization, *, first=0, seeds=1, **how):
    family = FAMILIES[name]
    made = plan(family.model_class, family.config(heads=8, layers=2), base=family.base)
    return coord_check(
        made.under(parametrization),
        lambda model, seed: family.loss(model, draw(first + seed, 0, 16)),
        widths=HEADS,
        lr=2**-8,
        seeds=seeds,
        **how,
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_mup_is_flat_in_every_family(name):
    check(name, "mup", first=50).assert_flat()


@pytest.mark.parametrize("name", ["uvit", "mmdit"])
def test_the_standard_parametrization_is_not(name):
    assert check(name, "standard").failures()


@pytest.mark.slow
@pytest.mark.parametrize("parametrization", ["mup", *WRONG])
def test_the_verdict_is_right_for_each_of_three_seeds(parametrization):
    three = check("uvit", parametrization, seeds=3)
    for seed in range(3):
        one = {k: getattr(three, k)[seed : seed + 1] for k in ("size", "moved", "loss")}
        assert bool(replace(three, **one).failures()) == (parametrization != "mup")


@pytest.mark.parametrize("parametrization", WRONG)
@pytest.mark.parametrize("name", ["dit"])
def test_every_wrong_parametrization_fails(name, parametrization):
    with pytest.raises(AssertionError, match="not flat in the width"):
        check(name, parametrization).assert_flat()


def test_too_little_learning_passes_a_check_of_sizes_alone_and_fails_on_the_moves():
    lazy = check("uvit", "every lr / m")
    sizes = Bands(moved=np.inf, median=np.inf, readout=np.inf)
    lazy.assert_flat(sizes)
    assert "mean|x_t - x_0|" in lazy.failures()[0]


class Toy(nn.Module):
    """y = V W relu(U x): input, hidden, output, so that every recorded number has a formula."""

    def __init__(self, width=8):
        super().__init__()
        self.U, self.W = nn.Linear(4, width, bias=False), nn.Linear(width, width, bias=False)
        self.V = nn.Linear(width, 2, bias=False)

    def forward(self, x):
        return self.V(self.W(torch.relu(self.U(x))))


def inputs(seed):
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(seed))


def toy_loss(model, seed):
    return (model(inputs(seed)) - 1).square().mean()


def test_sizes_and_moves_are_those_of_a_training_by_hand():
    made = plan(Toy, {"width": 16}, base={"width": 8})
    seen = compare({16: made}, toy_loss, lr=0.1, seeds=1, steps=2)
    model: Any = made.build(seed=0)
    nn.init.zeros_(model.V.weight)
    optimizer = torch.optim.AdamW(made.groups(model, lr=0.1))
    sizes, outputs = [], []
    for _ in range(3):
        u = model.U(inputs(0))
        w = model.W(torch.relu(u))
        v = model.V(w)
        outputs.append([u.detach(), w.detach(), v.detach()])
        sizes.append([x.abs().mean().item() for x in outputs[-1]])
        optimizer.zero_grad()
        (v - 1).square().mean().backward()
        optimizer.step()
    moves = [
        [(x - x0).abs().mean().item() for x, x0 in zip(o, outputs[0], strict=True)] for o in outputs
    ]
    assert seen.modules == ("U", "W", "V")
    np.testing.assert_allclose(seen.size[0, 0], sizes, rtol=1e-5)
    np.testing.assert_allclose(seen.moved[0, 0], moves, rtol=1e-4, atol=1e-7)


def test_a_power_law_has_the_slope_of_its_exponent():
    widths = (2, 4, 8, 16)
    size = np.array([[[[w**0.75, 3.0, w**-0.5]] * 3 for w in widths]])
    flat = Coordinates(widths, ("a", "b", "out"), size, 2 * size, np.ones((1, 4, 3)))
    np.testing.assert_allclose(flat.slopes("size"), [[0.75, 0, -0.5]] * 3, atol=1e-12)
    np.testing.assert_allclose(flat.slopes("moved"), [[0.75, 0, -0.5]] * 3, atol=1e-12)
    assert flat.excess() == pytest.approx(0.375 / 0.12)  # the median of a and b
    assert flat.failures()[1].startswith("mean|x_t - x_0| of out after 1 steps has slope -0.50")


def test_the_slopes_of_a_step_fit_a_terminal_below_their_headings():
    widths = (2, 4, 8, 16)
    size = np.array([[[[w**-10.25, 3.0, w**0.5]] * 3 for w in widths]])
    moved = size.copy()
    moved[:, :, 0] = 0  # before any update
    text = Coordinates(widths, ("a", "b", "out"), size, moved, np.ones((1, 4, 3))).as_text()
    heading, first, *_, last = text.splitlines()
    assert {len(line) for line in (heading, first, last)} == {80}
    assert first.split() == ["0", "+0.00", "-10.25", "+0.50", "-"]
    assert last.split() == ["2", *["+0.00", "-10.25", "+0.50"] * 2]


def test_a_width_that_diverges_is_a_failure_not_a_gap():
    bad = Coordinates(
        (2, 4),
        ("a", "out"),
        np.full((1, 2, 3, 2), np.nan),
        np.ones((1, 2, 3, 2)),
        np.ones((1, 2, 3)),
    )
    assert bad.diverged == (2, 4)
    assert bad.excess() == np.inf
    assert "infinite or nan at width 2, 4" in bad.failures()[0]


def test_the_statistics_of_a_step_come_back_in_one_transfer(monkeypatch):
    transfers = []
    tolist, item = torch.Tensor.tolist, torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: transfers.append("list") or tolist(t))
    made = plan(Toy, {"width": 16}, base={"width": 8})
    monkeypatch.setattr(torch.Tensor, "item", lambda t: transfers.append("item") or item(t))
    compare({16: made}, toy_loss, lr=0.1, seeds=1, steps=2)
    assert transfers.count("list") == 3  # one a step, before any update and after each of two


def test_an_attention_factor_is_taken_off_the_queries_that_carry_it():
    family = FAMILIES["dit"]
    made = plan(
        family.model_class,
        family.config(heads=4, layers=1, head_dim=64),
        base={"attention_head_dim": 16},
    )
    seen = coord_check(
        made,
        lambda m, s: family.loss(m, draw(s, 0, 8)),
        widths=(16, 32, 64, 128),
        lr=2**-8,
        seeds=1,
    )
    seen.assert_flat()


def test_blocks_of_another_depth_are_compared_by_what_they_share():
    family = FAMILIES["dit"]
    made = plan(family.model_class, family.config(heads=8, layers=1), base=family.base)
    made = made.at(num_attention_heads=4)
    plans = {L: deepened(made, L, base_layers=1, alpha=1.0) for L in (1, 2)}
    seen = compare(
        plans, lambda m, s: family.loss(m, draw(s, 0, 4)), lr=2**-8, seeds=1, rename=last_block
    )
    assert "last block" in seen.modules
    assert not any(name.startswith("transformer_blocks.1") for name in seen.modules)
    assert seen.widths == (1, 2)


def test_too_little_to_tell_is_refused():
    made = plan(Toy, {"width": 16}, base={"width": 8})
    with pytest.raises(ValueError, match="four different widths"):
        coord_check(made, toy_loss, widths=(8, 16, 32), lr=0.1)
    with pytest.raises(ValueError, match="two steps and one seed"):
        coord_check(made, toy_loss, widths=(8, 16, 32, 64), lr=0.1, steps=1)


@pytest.mark.parametrize(
    ("lr", "loss"),
    [(0.0, toy_loss), (0.1, lambda model, seed: (model(inputs(seed)) * 0).sum())],
    ids=["no rate", "a loss that depends on nothing"],
)
def test_where_nothing_moves_there_is_nothing_to_tell(lr, loss):
    made = plan(Toy, {"width": 16}, base={"width": 8})
    with pytest.raises(
        ValueError, match=f"no module below the readout moved in 3 steps at {lr=:g}:"
    ):
        coord_check(made, loss, widths=(8, 16, 32, 64), lr=lr, seeds=1)


def test_a_model_without_a_readout_is_refused():
    made = plan(
        nn.Linear,
        {"in_features": 16, "out_features": 16},
        base={"in_features": 8, "out_features": 8},
    )
    with pytest.raises(ValueError, match="no readout"):
        compare({16: made}, lambda m, s: m(torch.ones(2, 16)).mean(), lr=0.1)
