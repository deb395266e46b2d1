"""Ours against the package of the authors of muP itself: kinds, factors, spread, trajectories.

U-ViT, three times as wide as the base: a power of two would hide what is squared or rooted. The
package's network has its `MuReadout`, whose weight is W~ = m W where ours is W.
"""

from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.mup import plan, uvit
from core.mup.digits import draw
from core.mup.families import FAMILIES

mup: Any = pytest.importorskip(
    "mup", reason="needs PYTHONPATH=_build/mup-1.0.0, which make test unpacks"
)

FAMILY = FAMILIES["uvit"]
M = 3
PLAN = FAMILY.plan(heads=12, layers=2, head_dim=4)
WIDER_HEADS = plan(  # attention is divided by d, not by its root
    FAMILY.model_class,
    FAMILY.config(heads=2, layers=2, head_dim=12),
    base={"attention_head_dim": 4},
)
STEPS = 8


def adapted(config):
    """U-ViT with the package's readout."""
    made: Any = FAMILY.model_class(**config)
    made.proj_out = mup.MuReadout(made.proj_out.in_features, made.proj_out.out_features)
    return made


def packaged(planned, *, rescale):
    (key,) = planned.given
    base, delta = (planned.at(**{key: planned.base_config[key] * n}).config for n in (1, 2))
    made = adapted(planned.config)
    return mup.set_base_shapes(made, adapted(base), rescale, delta=adapted(delta))


def pair(planned):
    """Our model and the package's, of equal outputs, in float64."""
    ours = planned.build(seed=1).double()
    theirs = packaged(planned, rescale=False).double()
    state = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    state["proj_out.weight"] *= M
    for name in state:
        if name.endswith("to_q.weight") and planned is WIDER_HEADS:
            state[name] *= M**0.5  # ours carry the factor of attention
    theirs.load_state_dict(state)
    return ours, theirs


def batch(step):
    """Every label occurs: without a gradient, Adam with an epsilon of zero is 0 / 0."""
    made = draw(0, step, 20).to("cpu", torch.float64)
    return made._replace(y=torch.arange(20) % 10)


def in_attention(planned):
    """The reference's factor, sqrt(d_base) / d: at the base what everybody divides by."""
    if planned is not WIDER_HEADS:
        return nullcontext()
    scaled = partial(F.scaled_dot_product_attention, scale=4**0.5 / 12)
    return mock.patch.object(uvit.F, "scaled_dot_product_attention", scaled)


def difference(ours, theirs, optimizers, planned=PLAN, clip=None, decay=None):
    """Train both; the largest difference of two losses, over the steps.

    `decay` is the share of a weight that a step takes off, whatever the learning rate.
    """
    worst, losses = [], []
    for step in range(STEPS):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            with in_attention(planned) if model is theirs else nullcontext():
                loss = FAMILY.loss(model, batch(step))
            optimizer.zero_grad()
            loss.backward()
            if clip is not None and model is ours:
                assert planned.clip_grad_norm_(model, clip) > clip
            elif clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if decay is not None:
                for p in model.parameters():
                    p.data.mul_(1 - decay)
            losses.append(loss.detach())
        worst.append((losses[0] - losses[1]).abs())
    assert torch.stack(worst).isfinite().all()
    assert losses[1] < 0.98 * FAMILY.loss(pair(planned)[0], batch(0))  # it does train
    return max(worst).item()


# float64 at losses near 1; hundreds of roundings
SAME = 1e-12


def test_each_parameter_is_of_the_kind_that_the_package_says():
    theirs = packaged(PLAN, rescale=False)
    for name, p in theirs.named_parameters():
        entry, shape = PLAN.entries[name], p.infshape
        kind = {0: ("finite",), 1: ("input", "vector", "output"), 2: ("hidden",)}[shape.ninf()]
        assert entry.kind in kind, name
        assert (entry.kind == "output") == (name == "proj_out.weight")
        if entry.kind in ("hidden", "output"):
            assert entry.m_in == shape.width_mult(), name
        if entry.kind in ("hidden", "input"):
            assert entry.m_out == shape[0].width_mult(), name
        if entry.kind == "vector":
            assert entry.m_out == shape.width_mult(), name


@pytest.mark.parametrize(
    ("rule", "theirs"), [("adamw", "MuAdamW"), ("adam", "MuAdam"), ("sgd", "MuSGD")]
)
def test_with_the_factor_in_the_forward_pass_the_groups_are_the_packages(rule, theirs):
    settings: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}
    model = packaged(PLAN, rescale=False)
    groups = PLAN.under("forward factor").groups(model, optimizer=rule, **settings)
    optimizer = getattr(mup, theirs)(model.parameters(), **settings)

    def by_parameter(groups):
        return {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}

    expected = by_parameter(optimizer.param_groups)
    found = by_parameter(groups)
    assert found.keys() == expected.keys()
    for name, p in model.named_parameters():
        assert found[id(p)] == pytest.approx(expected[id(p)], rel=1e-14), name


def test_the_spread_of_each_parameter_is_that_of_the_package():
    """Its torch initialisation, rescaled as `set_base_shapes` does; of six draws each."""
    torch.manual_seed(7)
    theirs = [dict(packaged(PLAN, rescale=True).named_parameters()) for _ in range(6)]
    ours = [dict(PLAN.build(seed=s).named_parameters()) for s in range(6)]
    for name, entry in PLAN.entries.items():
        a, b = (torch.stack([draw[name].detach() for draw in both]) for both in (ours, theirs))
        if name == "proj_out.weight":
            b = b / M
        if a.std() == 0:
            assert torch.equal(a, b), name
            continue
        # each spread has a relative sd of at most 1 / sqrt(2 size): five of the difference
        allowed = 5 / a.numel() ** 0.5
        assert allowed < 0.6 or entry.kind == "finite"  # the square root of three is 0.73 off
        assert (a.square().mean() / b.square().mean()).sqrt().log().abs() < allowed, name


@pytest.mark.parametrize("clip", [None, 0.05], ids=["", "clipped"])
@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-4])
@pytest.mark.parametrize("planned", [PLAN, WIDER_HEADS], ids=["more heads", "wider heads"])
def test_adamw_is_one_trajectory_for_every_epsilon_clipped_or_not(planned, eps, clip):
    ours, theirs = pair(planned)
    settings: dict[str, Any] = {"lr": 2**-7, "weight_decay": 0.1, "eps": eps}
    optimizers = (
        torch.optim.AdamW(planned.groups(ours, **settings)),
        mup.MuAdamW(theirs.parameters(), **settings),
    )
    assert difference(ours, theirs, optimizers, planned, clip) <= SAME
    readout = ours.get_parameter("proj_out.weight") * M
    torch.testing.assert_close(readout, theirs.proj_out.weight, rtol=0, atol=1e-11)


@pytest.mark.parametrize("clip", [None, 0.05], ids=["", "clipped"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_one_trajectory_with_momentum_and_decay(momentum, clip):
    ours, theirs = pair(PLAN)
    settings: dict[str, Any] = {"lr": 2**-4, "weight_decay": 0.01}
    optimizers = (
        torch.optim.SGD(PLAN.groups(ours, optimizer="sgd", **settings), momentum=momentum),
        mup.MuSGD(theirs.parameters(), momentum=momentum, **settings),
    )
    assert difference(ours, theirs, optimizers, clip=clip) <= SAME


def test_adam_with_decay_in_the_gradient_is_one_trajectory():
    ours, theirs = pair(PLAN)
    settings: dict[str, Any] = {"lr": 2**-7, "weight_decay": 0.01}
    optimizers = (
        torch.optim.Adam(PLAN.groups(ours, optimizer="adam", **settings)),
        mup.MuAdam(theirs.parameters(), **settings),
    )
    assert difference(ours, theirs, optimizers) <= SAME


def test_decay_apart_from_the_learning_rate_is_one_trajectory():
    ours, theirs = pair(PLAN)
    groups = PLAN.groups(ours, optimizer="decoupled", lr=2**-7, weight_decay=0.01)
    assert {group["weight_decay"] for group in groups} == {0.01}
    optimizers = (
        torch.optim.AdamW([{**group, "weight_decay": 0.0} for group in groups]),
        mup.MuAdamW(theirs.parameters(), lr=2**-7, weight_decay=0.0),
    )
    assert difference(ours, theirs, optimizers, decay=0.01) <= SAME


@pytest.mark.parametrize("wrong", ["hidden lr / sqrt(m)", "output lr not scaled", "standard"])
def test_a_wrong_rule_would_be_seen(wrong):
    ours, theirs = pair(PLAN)
    settings: dict[str, Any] = {"lr": 2**-7, "weight_decay": 0.1}
    optimizers = (
        torch.optim.AdamW(PLAN.under(wrong).groups(ours, **settings)),
        mup.MuAdamW(theirs.parameters(), **settings),
    )
    assert difference(ours, theirs, optimizers) > 1e-3
