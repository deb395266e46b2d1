"""Training: averages, early stopping, keyed draws, and a world whose best loss is known."""

import numpy as np
import pytest
import torch
from torch import nn

from core.multisource.denoiser import Denoiser, Together
from core.multisource.denoiser_training import (
    GAMMA,
    HeldOut,
    Member,
    Recipe,
    blend,
    started,
    train,
)
from core.multisource.edm import Edm
from core.multisource.examples import Examples, Sources

SHAPE = (1, 2, 2)
QUICK = Recipe(steps=6, batch=4, every=2, levels=3)


def build():
    return Denoiser(SHAPE, 2, width=8, blocks=1)


def world(n=6, s=0.5, seed=0, held_out=4):
    """Two sources of normal images, whose means are far from each other."""
    rng = torch.Generator().manual_seed(seed)

    def draw(m, mean):
        return mean + s * torch.randn(m, *SHAPE, generator=rng)

    return Sources.labelled(
        "ab", [tuple(draw(m, mean) for m in (n, held_out, held_out)) for mean in (-1.0, 1.0)]
    )


def pooled(sources, run=0):
    return Member(run, 0, Examples.joined(sources.train), Examples.joined(sources.validation))


def alone(sources, k, run=0):
    return Member(run, k + 1, sources.train[k], sources.validation[k])


def weights(networks, e=0):
    return torch.cat([p[e].flatten().detach() for p in networks.parameters.values()])


def test_an_average_weighs_step_t_by_a_power_of_t():
    steps = [Together([build()]) for _ in range(9)]
    for step in steps:
        nn.init.normal_(step.parameters["last.weight"])
    average = steps[0].copy()
    for t, step in enumerate(steps, start=1):
        blend(average, step, t)
    # the recursion, unrolled: step t carries t^(gamma+1) - (t-1)^(gamma+1)
    t = torch.arange(10, dtype=torch.float64) ** (GAMMA + 1)
    share = t.diff() / t[-1]
    expected = (share[:, None] * torch.stack([weights(step) for step in steps])).sum(0)
    torch.testing.assert_close(weights(average), expected.float(), rtol=1e-4, atol=1e-5)


def test_the_average_is_as_wide_as_the_paper_draws_with():
    # relative deviation of a density t^gamma on [0, 1], around its mean, as EDM2 defines it
    t = np.linspace(0, 1, 200_001)
    density = t**GAMMA / (t**GAMMA).sum()
    width = np.sqrt((density * t**2).sum() - (density * t).sum() ** 2)
    assert width == pytest.approx(0.05, abs=1e-4)


def test_members_do_not_meet():
    members = [pooled(world(seed=run), run) for run in (0, 1)]
    both = train(build, members, QUICK, seed=3, sources=2)
    for e, member in enumerate(members):
        one = train(build, [member], QUICK, seed=3, sources=2)
        torch.testing.assert_close(weights(both.last, e), weights(one.last), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(both.curve[:, e], one.curve[:, 0], rtol=1e-4)
    assert not torch.allclose(weights(both.last, 0), weights(both.last, 1))


def test_a_training_is_named_by_its_seed():
    member = [alone(world(), 0)]
    one, again, other = (train(build, member, QUICK, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(weights(one.last), weights(again.last))
    assert not torch.allclose(weights(one.last), weights(other.last))


def test_training_leaves_torchs_own_seed_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train(build, [alone(world(), 0)], QUICK, seed=3)
    assert torch.equal(torch.rand(1), expected)


def test_members_of_a_run_begin_with_the_same_weights():
    sources = world()
    start = started(build, [pooled(sources), alone(sources, 1), alone(sources, 0, run=1)], 2)
    assert torch.equal(weights(start, 0), weights(start, 1))
    assert not torch.equal(weights(start, 0), weights(start, 2))


def test_an_example_meets_the_same_noise_alone_and_pooled():
    sources = world()
    seen = {}

    class Spy(nn.Module):
        one_by_one = True

        def __init__(self, into):
            super().__init__()
            self.w, self.into = nn.Parameter(torch.zeros(1)), into

        def forward(self, x, c_noise, y):
            rows = torch.cat([x.flatten(1), c_noise[:, None]], 1)[y == 1]
            self.into.update(tuple(row.tolist()) for row in rows.detach())
            return x * self.w

    once = Recipe(steps=1, batch=6, every=1, levels=1)  # a pass of six images
    for name, member, n in (("pooled", pooled(sources), 2), ("alone", alone(sources, 1), 1)):
        seen[name] = set()
        train(lambda name=name: Spy(seen[name]), [member], once, seed=1, sources=n)
    # six in training and four in validation, in another order
    assert len(seen["alone"]) == 10
    assert seen["pooled"] == seen["alone"]


def test_early_stopping_keeps_the_look_with_the_least_loss():
    # six images of noise: learnt by heart, the validation loss rises after a while
    sources = world(n=6)
    recipe = Recipe(steps=240, batch=6, every=20, learning_rate=0.02, levels=4)
    members = [alone(sources, 0), alone(sources, 1), alone(sources, 0, run=1)]
    found = train(lambda: Denoiser(SHAPE, 2, width=64), members, recipe, seed=1)
    assert found.curve.shape == (12, 3)
    np.testing.assert_array_equal(found.stops, 20 * (1 + found.curve.argmin(0)))
    assert found.stops.min() < 240
    held_out = HeldOut([m.validation for m in members], [m.run for m in members], recipe, 1)
    losses = held_out.losses(Edm(), found.best).mean(1)
    np.testing.assert_allclose(losses, found.curve.min(0), rtol=1e-5)
    losses = held_out.losses(Edm(), found.last).mean(1)
    np.testing.assert_allclose(losses, found.curve[-1], rtol=1e-5)


def test_with_many_images_training_comes_near_the_best_denoiser():
    # sources are normal with sd sigma_data: the loss of the exact denoiser is one at every level
    sources = world(n=3000, held_out=500)
    recipe = Recipe(steps=300, batch=32, every=100, learning_rate=0.01)
    found = train(
        lambda: Denoiser(SHAPE, 2, width=32), [pooled(sources)], recipe, seed=1, sources=2
    )
    tests = [Examples.joined(sources.test)]
    held_out = HeldOut(tests, [0], recipe, 1)

    def exact(x_in, c_noise, y):
        sigma = (4 * c_noise).exp()[..., None, None, None]
        c = Edm().coefficients(sigma)
        mean = (2.0 * y - 1)[..., None, None, None]
        x = x_in / c.c_in
        return (mean + 0.25 / (0.25 + sigma**2) * (x - mean) - c.c_skip * x) / c.c_out

    best = held_out.losses(Edm(), exact).mean()
    ours = held_out.losses(Edm(), found.best).mean()
    blind = held_out.losses(Edm(), lambda x, c_noise, y: 0 * x).mean()
    # 1000 images of 4 pixels at 8 levels: 32,000 squared normals, relative sd 0.8 %
    assert best == pytest.approx(1, abs=0.032)
    assert best < ours < best + 0.03 * (blind - best)


def test_a_held_out_image_is_looked_at_once_in_each_part_of_the_levels():
    part = world(held_out=50).test[0]
    z = HeldOut([part], [0], Recipe(levels=5), 1).z
    u = torch.special.ndtr(z[:, 0])
    assert z.shape == (5, 1, 50)
    for i in range(5):
        assert ((u[i] >= i / 5) & (u[i] <= (i + 1) / 5)).all()


def test_held_out_sets_of_two_sizes_are_refused():
    sources = world()
    with pytest.raises(ValueError, match=r"held-out sets of one size, got \[4, 8\]"):
        train(build, [pooled(sources), alone(sources, 0)], QUICK, seed=1)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batch": 0}, {"every": 0}, {"levels": 0}, {"learning_rate": 0.0}]
)
def test_a_recipe_that_does_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=r"want .* got"):
        Recipe(**wrong)
