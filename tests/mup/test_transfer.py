"""Sweeps: common random numbers, one run against torch's own loop, and what a table shows."""

import numpy as np
import pytest
import torch
from torch import nn

from core.mup import plan
from core.mup.digits import draw, held_out
from core.mup.families import FAMILIES
from core.mup.optimum import Curve
from core.mup.transfer import Arm, Run, Sweep, Task, named, on_digits, train, transfer

UVIT = FAMILIES["uvit"]
SMALL = {"layers": 1, "head_dim": 4}


def arm(heads=4, parametrization="mup", **how):
    return Arm(
        UVIT.plan(heads=heads, **SMALL).under(parametrization), on_digits(UVIT, held=16), **how
    )


def by_hand(one, run, steps):
    """One run, by torch's own loop; its loss on what is held out."""
    model = one.plan.build(one.recipe, seed=run.seed)
    optimizer = torch.optim.AdamW(
        one.plan.groups(model, lr=run.lr, weight_decay=one.weight_decay), fused=True
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1, (step + 1) / max(1, run.warmup))
        loss = UVIT.loss(model, draw(run.seed, step, one.batch))
        optimizer.zero_grad()
        loss.backward()
        if np.isfinite(run.clip):
            one.plan.clip_grad_norm_(model, run.clip)
        optimizer.step()
    return UVIT.loss(model, held_out(16)).item()


def test_a_run_is_a_training_by_hand():
    one = arm(heads=12, batch=4, weight_decay=0.1)  # m = 3
    runs = [Run(2**-7, 0), Run(2**-6, 1, clip=0.5), Run(2**-7, 1, warmup=3)]
    found = train(one, runs, steps=(2, 5))
    assert found.shape == (2, 3)
    for i, run in enumerate(runs):
        for row, steps in enumerate((2, 5)):
            # float32, five steps of Adam: sums in another order
            assert found[row, i] == pytest.approx(by_hand(one, run, steps), rel=1e-3)


def test_how_many_are_trained_at_once_changes_nothing():
    one = arm(batch=4)
    runs = [Run(2.0**-r, seed) for r in (6, 7) for seed in (3, 4)]
    together, apart = train(one, runs, steps=(4,)), train(one, runs, steps=(4,), at_once=1)
    np.testing.assert_allclose(together, apart, rtol=1e-4)


def test_a_shorter_training_is_the_longer_one_on_its_way():
    one, runs = arm(batch=4), [Run(2**-7, 0)]
    np.testing.assert_allclose(train(one, runs, steps=(2, 6))[0], train(one, runs, steps=(2,))[0])


def test_every_arm_and_rate_sees_the_same_batches():
    asked = []

    def spied(seed, step, size):
        asked.append((seed, step, size))
        return draw(seed, step, size)

    task = on_digits(UVIT, held=8)._replace(draw=spied)
    plans = {h: UVIT.plan(heads=h, **SMALL) for h in (4, 8)}
    arms = named(task, {f"{h}": p for h, p in plans.items()}, batch=3)
    transfer(arms, log2_lrs=(-8, -7, -6), seeds=(5, 6), steps=(2,))
    assert asked.count((5, 0, 3)) == asked.count((6, 1, 3)) == 2  # once an arm, for three rates
    assert set(asked) == {(seed, step, 3) for seed in (5, 6) for step in (0, 1)}


def test_at_the_base_width_every_parametrization_is_one():
    arms = {p: arm(4, p, batch=4) for p in ("mup", "standard", "hidden init not scaled")}
    sweep = transfer(arms, log2_lrs=(-8, -7), seeds=(0,), steps=(3,))
    for curve in sweep.values():
        np.testing.assert_array_equal(curve.losses, sweep["mup"].losses)


def test_a_rule_of_initialisation_is_dropped_alone():
    made = UVIT.plan(heads=12, **SMALL)  # m = 3
    hidden, output = made.under("hidden init not scaled"), made.under("output init by fan-in")
    for name, right in made.entries.items():
        for wrong in (hidden.entries[name], output.entries[name]):
            assert wrong.multipliers("adamw").lr == pytest.approx(right.multipliers("adamw").lr)
        factor = 3**0.5 if right.kind == "hidden" else 1
        assert hidden.entries[name].init == pytest.approx(factor * right.init)
        factor = 3**0.5 if right.kind == "output" else 1  # 1/sqrt(m) for 1/m
        assert output.entries[name].init == pytest.approx(factor * right.init)


def test_what_diverged_is_infinite_or_nan_and_has_a_dash_in_the_table():
    sweep = transfer({"only": arm(batch=4)}, log2_lrs=(-8, 56, 120), seeds=(0, 1), steps=(3,))
    assert not np.isfinite(sweep["only"].losses[2]).any()
    assert sweep["only"].mean[2] == np.inf
    cells = sweep.as_text().splitlines()[1].split()
    assert cells[1].endswith("*")
    assert cells[3] == "-"


def test_the_table_has_every_row_and_says_which_optimum_is_a_bound():
    level = 0.2 + 0.01 * np.array([[4.0, 4.1], [1.0, 1.1], [0.0, 0.0], [1.0, 1.0]])
    curves = {
        "one": Curve((-9, -8, -7, -6), level),
        "another, longer": Curve((-9, -8, -7, -6), level[::-1].copy()),
        "falling": Curve((-9, -8, -7, -6), np.sort(level, axis=0)[::-1].copy()),
    }
    lines = Sweep(curves).as_text().splitlines()
    assert len(lines) == 4
    assert lines[0].split()[:4] == ["2^-9", "2^-8", "2^-7", "2^-6"]
    assert lines[1].split()[1:5] == ["0.2405", "0.2105", "0.2000*", "0.2100"]
    assert lines[2].startswith("another, longer")
    assert lines[3].endswith("(bounds in 2)")


def test_any_model_and_data_will_do():
    class Toy(nn.Module):
        def __init__(self, width=8):
            super().__init__()
            self.U, self.W = nn.Linear(4, width), nn.Linear(width, width)
            self.V = nn.Linear(width, 1)

        def forward(self, x):
            return self.V(torch.relu(self.W(torch.relu(self.U(x)))))

    def batch(seed, step, size):
        x = torch.randn(size, 4, generator=torch.Generator().manual_seed(1000 * seed + step))
        return {"x": x, "y": x[:, :1].abs()}

    task = Task(lambda m, b: (m(b["x"]) - b["y"]).square().mean(), batch, batch(99, 0, 64))
    made = plan(Toy, {"width": 32}, base={"width": 8})
    sweep = transfer(named(task, {"toy": made}), log2_lrs=(-9, -5), seeds=(0, 1), steps=(20, 40))
    assert list(sweep) == ["toy, 20 steps", "toy, 40 steps"]
    assert (sweep["toy, 40 steps"].losses < sweep["toy, 20 steps"].losses).all()
    assert (sweep["toy, 40 steps"].losses[1] < sweep["toy, 40 steps"].losses[0]).all()


@pytest.mark.parametrize("steps", [(), (0, 2), (4, 2), (2, 2)])
def test_lengths_that_do_not_rise_are_refused(steps):
    with pytest.raises(ValueError, match="rising steps from 1"):
        train(arm(), [Run(2**-7, 0)], steps=steps)


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="at least one run"):
        train(arm(), [], steps=(2,))
    with pytest.raises(ValueError, match="at least one arm"):
        transfer({}, log2_lrs=(-8, -7), seeds=(0,), steps=(2,))
