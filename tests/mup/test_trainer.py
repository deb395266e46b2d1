"""A step is what it says; ranks train as one process; the moving average and the groups are right.

The loss itself is in `test_diffusion.py`; that a run goes on to the bit is in `test_train.py`.
"""

import dataclasses
import subprocess
import sys
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from core.mup import plan
from core.mup.batches import split
from core.mup.diffusion import losses, noised
from core.mup.dit import EMBEDDER, SharedDiT
from core.mup.trainer import Recipe, Trainer, learning_rate
from core.train.checkpoint import checkpoints, load, save
from core.train.distributed import SINGLE, World, inner, shard
from core.train.folder import Diverged

CONFIG: dict[str, Any] = {
    "num_attention_heads": 6,  # three times the base: a power of two hides errors
    "attention_head_dim": 4,
    "in_channels": 2,
    "out_channels": 4,
    "num_layers": 2,
    "sample_size": 4,
    "num_embeds_ada_norm": 3,
}
PLAN = plan(SharedDiT, CONFIG, base={"num_attention_heads": 2})
RECIPE = Recipe(steps=20, batch=5, learning_rate=1e-2, mean_decay=0.9, seed=4)


class Some:
    """Images that are drawn anew each time, as latents are; float64."""

    def __init__(self, count=12):
        self.labels = torch.arange(count) % 3

    def __len__(self):
        return len(self.labels)

    def draw(self, row, rng):
        return torch.from_numpy(rng.normal(row, 1, (2, 4, 4))) / len(self)


def built(seed=1):
    """A network whose readout and gates are not zero."""
    return PLAN.build("torch", seed=seed).double().eval()


def trainer(recipe=RECIPE, kind: Any = "none", world=SINGLE, model=None, data=None):
    model = built() if model is None else model

    def shared(one):
        blocks = one.transformer_blocks
        return shard(one, kind, world, blocks=[blocks[0].get_submodule(EMBEDDER), *blocks])

    mean = shared(deepcopy(model).requires_grad_(False))
    data = Some() if data is None else data
    return Trainer(shared(model), mean, PLAN, data, recipe, held_out=3, world=world)


def changed(**fields):
    return dataclasses.replace(RECIPE, **fields)


def whole(tensors):
    full = [t.full_tensor() if hasattr(t, "full_tensor") else t for t in tensors]
    return torch.cat([t.detach().flatten() for t in full])


def gradient(here):
    return whole([p.grad for p in inner(here.model).parameters()])


def weights(model):
    return whole(inner(model).parameters())


def test_groups_have_the_rates_of_mup_at_three_times_the_base():
    found = trainer(changed(warmup=4))
    found.step()
    rates = {
        name: group["lr"] / 1e-2 * 4
        for group in found.optimizer.param_groups
        for name in group["names"]
    }
    assert rates.keys() == dict(built().named_parameters()).keys()
    hidden = "transformer_blocks.1.attn1.to_q.weight"
    assert rates[hidden] == pytest.approx(1 / 3)
    assert rates["transformer_blocks.0.norm1.linear.weight"] == pytest.approx(1 / 3)
    assert rates["proj_out_2.weight"] == pytest.approx(1 / 3)  # its forward factor is folded in
    emb = f"transformer_blocks.0.{EMBEDDER}."
    for finite in (
        "pos_embed.proj.weight",
        f"{emb}timestep_embedder.linear_1.weight",
        f"{emb}class_embedder.embedding_table.weight",
        "transformer_blocks.1.attn1.to_q.bias",
        "proj_out_2.bias",
    ):
        assert rates[finite] == pytest.approx(1.0)


@pytest.mark.parametrize("at_once", [None, 1, 2])
def test_the_gradient_is_that_of_the_mean_loss_whatever_runs_at_once(at_once):
    here = trainer(changed(at_once=at_once))
    loss, bound = here.gradient()
    model, batch = built(), here.batches(0)
    x_t = noised(batch.x, batch.t, batch.noise)
    found = losses(model(x_t, batch.t, batch.y).sample, batch.x, batch.t, batch.noise)
    (found.noise + found.bound).mean().backward()
    expected = whole([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradient(here), expected, rtol=0, atol=1e-12)
    assert loss == pytest.approx(found.noise.mean().item(), abs=1e-12)
    assert bound == pytest.approx(found.bound.mean().item(), abs=1e-12)


def test_three_steps_are_those_of_adamw_written_out():
    recipe = changed(weight_decay=0.1, clip=0.05, warmup=2, eps=1e-4)
    here, model = trainer(recipe), built()
    entries = PLAN.entries
    x = {name: p.detach().clone() for name, p in model.named_parameters()}
    m, v = ({name: torch.zeros_like(p) for name, p in x.items()} for _ in range(2))
    for k in range(1, 4):
        here.gradient()
        g = {n: p.grad.clone() for n, p in here.model.named_parameters() if p.grad is not None}
        norm = sum((entries[n].fold * gn).square().sum() for n, gn in g.items()) ** 0.5
        figures = here.step()
        assert figures.gradient_norm == pytest.approx(float(norm))
        assert norm > 0.05
        for name in x:
            rule = entries[name].multipliers("adamw")
            lr = 1e-2 * min(1, k / 2) * rule.lr
            clipped = g[name] * 0.05 / (norm + 1e-6)
            m[name] = 0.9 * m[name] + 0.1 * clipped
            v[name] = 0.999 * v[name] + 0.001 * clipped**2
            ratio = (m[name] / (1 - 0.9**k)) / ((v[name] / (1 - 0.999**k)).sqrt() + 1e-4 * rule.eps)
            x[name] = x[name] * (1 - lr * 0.1 * rule.weight_decay) - lr * ratio
    for name, p in here.model.named_parameters():
        torch.testing.assert_close(p.detach(), x[name], rtol=0, atol=1e-10)


def test_the_moving_average_is_that_of_all_weights_there_were():
    here = trainer()
    seen = [weights(here.model)]
    for _ in range(3):
        here.step()
        seen.append(weights(here.model))
    d = 0.9
    expected = d**3 * seen[0] + (1 - d) * (d**2 * seen[1] + d * seen[2] + seen[3])
    torch.testing.assert_close(weights(here.mean), expected, rtol=0, atol=1e-14)


def test_the_learning_rate_rises_and_stays():
    rates = [learning_rate(step, changed(warmup=4)) for step in range(6)]
    assert rates == pytest.approx([2.5e-3, 5e-3, 7.5e-3, 1e-2, 1e-2, 1e-2])
    assert learning_rate(0, RECIPE) == 1e-2


def test_images_have_names_and_those_held_out_are_never_drawn():
    rows, held_out = split(12, 3)
    assert sorted(rows + held_out) == list(range(12))
    seen = []

    class Watched(Some):
        def draw(self, row, rng):
            seen.append(row)
            return super().draw(row, rng)

    here = trainer(data=Watched())
    batches = [here.batches._batch(step) for step in range(4)]  # two epochs of 5 and 4
    assert [batch.size for batch in batches] == [5, 4, 5, 4]
    assert sorted(seen[:9]) == sorted(seen[9:]) == sorted(rows)
    assert seen[:9] != seen[9:]
    again = trainer(changed(batch=9)).batches._batch(0)
    first = {row: (x, t) for row, x, t in zip(seen, batches[0].x, batches[0].t, strict=False)}
    order = trainer(changed(batch=9)).batches.rows
    found = {float(x.sum()): int(t) for x, t in zip(again.x, again.t, strict=True)}
    assert order == rows
    # another batch size: the same image has the same latent and time in an epoch
    assert all(found[float(x.sum())] == int(t) for x, t in first.values())
    other = trainer(changed(seed=5)).batches._batch(0)
    assert not torch.equal(other.noise, batches[0].noise)


def test_labels_are_dropped_as_often_as_asked_for():
    class Many(Some):
        def draw(self, row, rng):
            return torch.zeros(1, 1, 1, dtype=torch.float64)

    here = trainer(changed(batch=3997, label_dropout=0.1), data=Many(4000))
    dropped = (here.batches(0).y == 3).double().mean().item()
    assert abs(dropped - 0.1) < 4 * (0.09 / 3997) ** 0.5
    t = here.batches(0).t.double()
    assert abs(t.mean() - 499.5) < 4 * 288.7 / 3997**0.5
    none = trainer(changed(batch=3997, label_dropout=0.0), data=Many(4000))
    assert (none.batches(0).y < 3).all()


def test_held_out_images_have_fixed_noise_whatever_the_seed_and_the_batch():
    found = [
        trainer(recipe).evaluate(built())
        for recipe in (RECIPE, changed(seed=9), changed(batch=2), changed(at_once=1))
    ]
    assert all(one == pytest.approx(found[0], rel=1e-12) for one in found)
    batch = trainer().batches.of_held_out(range(3))
    assert [int(t) * 3 // 1000 for t in batch.t] == [0, 1, 2]
    # a network that predicts nothing has the mean square of the noise
    zero = built()
    with torch.no_grad():
        for name in ("weight", "bias"):
            zero.get_parameter(f"proj_out_2.{name}").zero_()
    expected = batch.noise.square().mean().item()
    assert trainer().evaluate(zero).loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("what", ["weights", "data"])
def test_what_is_no_number_ends_the_run_and_changes_nothing(what):
    model, data = built(), Some()
    if what == "weights":
        with torch.no_grad():
            model.get_parameter("proj_out_2.bias").fill_(torch.inf)
    else:
        data.draw = lambda row, rng: torch.full((2, 4, 4), torch.nan, dtype=torch.float64)
    here = trainer(model=model, data=data)
    before = weights(here.model)
    with pytest.raises(Diverged, match=r"the loss of step 1 is (nan|inf), at a base learning rate"):
        here.step()
    torch.testing.assert_close(weights(here.model), before, rtol=0, atol=0, equal_nan=True)
    assert here.done == 0
    with pytest.raises(Diverged, match="held-out images cost"):
        here.evaluate(here.model)


def test_bfloat16_computes_in_it_and_keeps_float32_weights():
    model = PLAN.build("torch", seed=1)

    class Single(Some):
        def draw(self, row, rng):
            return super().draw(row, rng).float()

    plain, half = (
        trainer(changed(bfloat16=b), model=deepcopy(model), data=Single()) for b in (False, True)
    )
    (exact, _), (rounded, _) = plain.gradient(), half.gradient()
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.03)  # 8 bits, some layers
    assert gradient(half).dtype == torch.float32
    assert (gradient(half) - gradient(plain)).norm() < 0.1 * gradient(plain).norm()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"steps": 0}, "want steps >= 1, a whole number, got 0"),
        ({"batch": 0}, "want batch >= 1"),
        ({"at_once": 0}, "want at_once >= 1"),
        ({"learning_rate": float("nan")}, "want learning_rate > 0, got nan"),
        ({"clip": 0.0}, "want clip > 0"),
        ({"warmup": -1}, "want warmup >= 0"),
        ({"weight_decay": -1.0}, "want weight_decay >= 0"),
        ({"label_dropout": 1.0}, "want label_dropout from 0 and below 1"),
        ({"mean_decay": 1.0}, "want mean_decay from 0 and below 1, got 1.0"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        changed(**fields)


@pytest.mark.parametrize("held_out", [0, 12, 13])
def test_too_many_images_held_out_are_refused(held_out):
    with pytest.raises(ValueError, match=f"want 1 to 11 images held out of 12, got {held_out}"):
        split(12, held_out)


def steps_of(kind, world):
    """Gradient of the first two batches, held-out loss, and weights and their mean after four."""
    found = []
    for step in (0, 1):  # five images and four, for two ranks
        here = trainer(kind=kind, world=world)
        here.done = step
        found += [torch.tensor(here.gradient()), gradient(here)]
    here = trainer(changed(clip=0.05, at_once=2), kind, world)
    figures = [here.step() for _ in range(4)]
    held_out = [*here.evaluate(here.model), *here.evaluate(here.mean)]
    return [
        *found,
        torch.tensor([*figures[-1], *held_out]),
        weights(here.model),
        weights(here.mean),
    ]


def gone_on(kind, world, folder):
    """Weights and their mean after two steps of a checkpoint's run, kept again and read again."""
    here = trainer(kind=kind, world=world)
    asked: dict[str, Any] = {"run": {"seed": 4}, "beside": {"mean": here.mean}}
    (before,) = checkpoints(folder)
    here.done = load(before, here.model, here.optimizer, **asked)
    for _ in range(2):
        here.step()
    save(folder / kind, here.done, here.model, here.optimizer, world=world, **asked)
    return [weights(here.model), weights(here.mean)]


def of_rank(rank, folder):
    """What one of two ranks does; this file is the program of the second."""
    distributed.init_process_group(
        "gloo", f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=100)
    )
    world, kinds = World(rank, 2), ("ddp", "fsdp2")
    found = {kind: [*steps_of(kind, world), *gone_on(kind, world, folder)] for kind in kinds}
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_train_as_one_process_with_ddp_and_fsdp2(tmp_path):
    here = trainer()
    for _ in range(3):
        here.step()
    asked: dict[str, Any] = {"run": {"seed": 4}, "beside": {"mean": here.mean}}
    save(tmp_path, 3, here.model, here.optimizer, world=SINGLE, **asked)
    for _ in range(2):
        here.step()
    expected = [*steps_of("none", SINGLE), weights(here.model), weights(here.mean)]
    other = subprocess.Popen([sys.executable, __file__, "1", tmp_path])
    of_rank(0, tmp_path)
    assert other.wait(100) == 0
    for rank in (0, 1):
        for kind, found in torch.load(tmp_path / f"{rank}.pt").items():
            for here, there in zip(found, expected, strict=True):
                # float64 sums in another order; Adam divides by gradients down to 1e-8
                assert (here - there).norm() <= 1e-6 * there.norm(), kind
    for kind in ("ddp", "fsdp2"):
        alone = trainer()
        asked["beside"] = {"mean": alone.mean}
        load(checkpoints(tmp_path / kind)[0], alone.model, alone.optimizer, **asked)
        torch.testing.assert_close(weights(alone.model), expected[-2], rtol=0, atol=1e-8)
        torch.testing.assert_close(weights(alone.mean), expected[-1], rtol=0, atol=1e-8)


if __name__ == "__main__":
    of_rank(int(sys.argv[1]), Path(sys.argv[2]))
