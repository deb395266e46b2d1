"""Models that are trained at once against each trained alone, in float64."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from core.mup.digits import Batch, draw
from core.mup.ensemble import Ensemble
from core.mup.families import FAMILIES

FAMILY = FAMILIES["uvit"]
DOUBLE = ("cpu", torch.float64)
RATES = (2**-7, 2**-8, 2**-6)


def planned(heads=12, **how):
    return FAMILY.plan(heads=heads, layers=1, head_dim=4, **how)


def members(made, count=3):
    return [made.build(seed=seed).double() for seed in range(count)]


def stacked(step, seeds):
    batches = [draw(seed, step, 4).to(*DOUBLE) for seed in seeds]
    return Batch(*(torch.stack(parts) for parts in zip(*batches, strict=True)))


def alone(made, seed, lr, steps, *, clip=None, warmup=1, decay=0.1):
    """One member, by torch's own loop."""
    model = made.build(seed=seed).double()
    optimizer = torch.optim.AdamW(made.groups(model, lr=lr, weight_decay=decay))
    rates = [group["lr"] for group in optimizer.param_groups]
    losses = []
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1, (step + 1) / warmup)
        loss = FAMILY.loss(model, draw(seed, step, 4).to(*DOUBLE))
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            made.clip_grad_norm_(model, clip)
        optimizer.step()
        losses.append(loss.item())
    return losses, model


def test_each_member_is_a_run_of_its_own():
    made = planned()
    models = members(made)
    groups = [made.groups(m, lr=lr, weight_decay=0.1) for m, lr in zip(models, RATES, strict=True)]
    ensemble = Ensemble(models, groups)
    seen = [ensemble.step(FAMILY.loss, stacked(step, range(3))) for step in range(6)]
    held = draw(9, 9, 5).to(*DOUBLE)
    values = ensemble.evaluate(FAMILY.loss, held)
    for member, lr in enumerate(RATES):
        losses, model = alone(made, member, lr, 6)
        torch.testing.assert_close([s[member].item() for s in seen], losses, rtol=1e-10, atol=0)
        assert values[member].item() == pytest.approx(FAMILY.loss(model, held).item(), rel=1e-10)
        for name, weight in ensemble.parameters_of(member).items():
            torch.testing.assert_close(weight, model.get_parameter(name), rtol=1e-9, atol=1e-12)


def test_clipping_and_warm_up_are_each_members_own():
    made = planned()
    models = members(made)
    folds = {name: entry.fold for name, entry in made.entries.items()}
    assert set(folds.values()) == {1, 1 / 3}  # a readout, whose gradient counts a third
    groups = [made.groups(m, lr=lr, weight_decay=0.1) for m, lr in zip(models, RATES, strict=True)]
    ensemble = Ensemble(models, groups, folds=folds)
    clips, warmups, seen = (0.3, torch.inf, 2.0), (4, 1, 2), []
    for step in range(6):
        rates = torch.tensor([min(1, (step + 1) / w) for w in warmups], dtype=torch.float64)
        batch = stacked(step, range(3))
        seen.append(
            ensemble.step(FAMILY.loss, batch, rates=rates, max_norm=torch.tensor(clips).double())
        )
    for member, lr in enumerate(RATES):
        losses, _ = alone(made, member, lr, 6, clip=clips[member], warmup=warmups[member])
        # torch adds 1e-6 to a norm, and so does this: rounding alone is left
        torch.testing.assert_close([s[member].item() for s in seen], losses, rtol=1e-10, atol=0)


def test_a_member_that_diverges_is_nan_alone():
    made = planned(heads=4)
    models = members(made)
    groups = [made.groups(m, lr=lr) for m, lr in zip(models, (2**-7, 1e200, 2**-8), strict=True)]
    ensemble = Ensemble(models, groups)
    losses = [ensemble.step(FAMILY.loss, stacked(step, range(3))) for step in range(5)][-1]
    assert losses.isnan().tolist() == [False, True, False]
    expected, _ = alone(made, 2, 2**-8, 5, decay=0)
    assert losses[2].item() == pytest.approx(expected[-1], rel=1e-10)


def test_members_of_one_model_share_its_weights_and_leave_it_alone():
    made = planned(heads=4)
    model = made.build(seed=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ensemble = Ensemble([model, model], [made.groups(model, lr=r) for r in (2**-6, 2**-8)])
    batch = Batch(*(x.float() if x.is_floating_point() else x for x in stacked(0, (5, 5))))
    first = ensemble.step(FAMILY.loss, batch)
    assert first[0] == first[1]
    second = ensemble.step(FAMILY.loss, batch)
    assert second[0] != second[1]
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])


def test_dropout_is_off_while_it_is_evaluated():
    model = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5), nn.Linear(50, 1))
    group = [{"names": list(dict(model.named_parameters())), "params": [], "lr": 0.0}]
    ensemble = Ensemble([model, model], [group, group])

    def loss(m, x):
        return m(x).square().mean()

    x = torch.randn(4, 3)
    expected = loss(model.eval(), x).item()
    assert ensemble.evaluate(loss, x).tolist() == pytest.approx([expected] * 2)
    assert ensemble.losses(loss, torch.stack([x, x]))[0].item() != pytest.approx(expected)


def test_any_optimizer_that_treats_each_number_by_itself_will_do():
    made = planned(heads=8)
    models = members(made, 2)
    groups = [made.groups(m, lr=0.02, optimizer="sgd") for m in models]
    ensemble = Ensemble(models, groups, partial(torch.optim.SGD, momentum=0.9))
    losses = [ensemble.step(FAMILY.loss, stacked(step, range(2))) for step in range(4)][-1]
    model = made.build(seed=1).double()
    optimizer: Any = torch.optim.SGD(made.groups(model, lr=0.02, optimizer="sgd"), momentum=0.9)
    expected = []
    for step in range(4):
        loss = FAMILY.loss(model, draw(1, step, 4).to(*DOUBLE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert losses[1].item() == pytest.approx(expected[-1], rel=1e-10)


def test_what_is_no_ensemble_is_refused():
    small, large = planned(heads=4), planned(heads=8)
    one, other = small.build(), large.build()
    groups = small.groups(one, lr=0.1)
    with pytest.raises(ValueError, match="at least one model, got 0 and 0"):
        Ensemble([], [])
    with pytest.raises(ValueError, match="at least one model, got 2 and 1"):
        Ensemble([one, one], [groups])
    with pytest.raises(ValueError, match=r"models of one shape, and .* comes as"):
        Ensemble([one, other], [groups, large.groups(other, lr=0.1)])
    with pytest.raises(ValueError, match="in one of its groups, got wrong: "):
        Ensemble([one], [[{**groups[0], "names": groups[0]["names"][1:]}]])
    with pytest.raises(ValueError, match="a name that comes twice"):
        Ensemble([one], [[*groups, groups[0]]])


def test_models_with_other_names_or_buffers_are_refused():
    layers = [nn.Linear(3, 2), nn.Linear(3, 2, bias=False)]
    groups = [
        [{"names": list(dict(m.named_parameters())), "params": [], "lr": 0.1}] for m in layers
    ]
    with pytest.raises(ValueError, match="got different names"):
        Ensemble(layers, groups)
    norms = [nn.BatchNorm1d(3), nn.BatchNorm1d(3)]
    norms[1].running_mean = torch.ones(3)
    groups = [[{"names": ["weight", "bias"], "params": [], "lr": 0.1}]] * 2
    with pytest.raises(ValueError, match="share their buffers, and 'running_mean' differs"):
        Ensemble(norms, groups)


def test_a_tensor_of_its_own_shape_may_be_a_scalar():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.gain * x

    model = Scaled()
    ensemble = Ensemble([model], [[{"names": ["gain"], "params": [], "lr": 0.5}]])
    loss = ensemble.step(lambda m, x: m(x).sum(), torch.ones(1, 3))
    assert loss.item() == 6
    assert ensemble.parameters_of(0)["gain"].shape == ()
