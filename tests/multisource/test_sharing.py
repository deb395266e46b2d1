"""The comparison: who wins where the answer is known, and what its numbers are made of."""

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel
from torch import nn

from core.multisource.denoiser import Denoiser, UNet
from core.multisource.denoiser_training import HeldOut, Recipe
from core.multisource.edm import Edm
from core.multisource.examples import Sources
from core.multisource.frechet import features, frechet_distance
from core.multisource.memoriser import Memoriser
from core.multisource.sharing import compare, interval

SHAPE = (1, 4, 4)
QUICK = Recipe(steps=4, batch=4, every=2, levels=2)


def normal(run, means, *, n=5, held_out=12):
    """Sources of images around their means, that vary in three directions out of sixteen."""
    rng = torch.Generator().manual_seed(run)
    directions = torch.linalg.qr(torch.randn(16, 3, generator=torch.Generator().manual_seed(9)))[0]

    def draw(m, mean):
        return (mean + torch.randn(m, 3, generator=rng) @ directions.mT).view(m, *SHAPE)

    return Sources.labelled(
        [f"s{k}" for k in range(len(means))],
        [tuple(draw(m, mean) for m in (n, held_out, held_out)) for mean in means],
    )


def build(K=2):
    return lambda: Denoiser(SHAPE, K, width=32)


@pytest.fixture(scope="module")
def same_sources():
    """Four sources that do not differ, five images each: sharing can only help."""
    torch.manual_seed(0)
    splits = [normal(run, [0.0] * 4) for run in range(4)]
    recipe = Recipe(steps=200, batch=5, every=20, learning_rate=5e-3, levels=4)
    return splits, recipe, compare(splits, build(4), recipe, seed=1, samples=30)


def test_sharing_helps_where_the_sources_do_not_differ(same_sources):
    found = same_sources[2]
    assert found.advantage.low > 0
    assert found.multi.stopped.loss.mean() < found.single.stopped.loss.mean()


def test_samples_come_nearer_to_the_training_images_as_training_goes_on(same_sources):
    single = same_sources[2].single
    assert single.last.copied.mean() > single.stopped.copied.mean()


def test_losses_are_those_of_the_test_images(same_sources):
    splits, recipe, found = same_sources
    # network 4 r + k of the single family belongs to run r and source k
    for r, k in ((0, 0), (1, 3), (3, 2)):
        part = splits[r].test[k]
        member = found.single.trained.best.copy()
        e = 4 * r + k
        member.parameters = {name: p[e : e + 1] for name, p in member.parameters.items()}
        alone = HeldOut([part], [r], recipe, 1).losses(Edm(), member).mean()
        assert found.single.stopped.loss[r, k] == pytest.approx(alone, rel=1e-4)


def test_the_line_is_the_distance_from_training_to_test_images(same_sources):
    splits, _, found = same_sources
    for r, k in ((0, 1), (2, 3)):
        a, b = splits[r].train[k].images, splits[r].test[k].images
        assert found.copier.frechet[r, k] == pytest.approx(
            frechet_distance(features(a), features(b))
        )


def test_a_copier_has_the_greater_loss_of_fresh_images(same_sources):
    splits, recipe, found = same_sources
    assert (found.copier.loss > found.single.stopped.loss).all()
    alone = HeldOut([splits[2].test[1]], [2], recipe, 1)
    expected = alone.losses(Edm(), Memoriser(Edm(), [splits[2].train[1]])).mean()
    assert found.copier.loss[2, 1] == pytest.approx(expected, rel=1e-4)


def test_advantages_are_paired_by_run(same_sources):
    found = same_sources[2]
    multi, single = (f.stopped.loss.mean(1) for f in (found.multi, found.single))
    np.testing.assert_allclose(found.advantages, 1 - multi / single)
    assert found.advantage == interval(found.advantages)


def test_an_interval_is_that_of_the_paired_t_test(rng):
    a, b = rng.standard_normal((2, 9))
    theirs = ttest_rel(a, b).confidence_interval(0.9)
    ours = interval(a - b, 0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert ours.mean == pytest.approx(np.mean(a - b))


def test_an_interval_covers_as_often_as_it_says(rng):
    hits = [(f := interval(rng.normal(2, 3, 4))).low <= 2 <= f.high for _ in range(2000)]
    assert np.mean(hits) == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 2000))


def test_networks_that_were_still_improving_are_counted(same_sources):
    single = same_sources[2].single
    assert single.unfinished == np.mean(single.trained.stops == 200)
    assert 0 < single.unfinished < 1


def test_nothing_is_drawn_unless_asked():
    found = compare([normal(r, [0.0, 1.0]) for r in range(2)], build(), QUICK, seed=1)
    assert np.isnan(found.multi.stopped.frechet).all()
    assert np.isfinite(found.multi.stopped.loss).all()


def test_samples_are_of_the_source_that_was_asked_for():
    splits = [normal(run, [-1.0, 1.0], n=40) for run in range(2)]
    recipe = Recipe(steps=150, batch=20, every=50, learning_rate=5e-3)
    found = compare(splits, build(), recipe, seed=1, samples=40)
    # the two means are 2 apart in each of 16 pixels: another source is at 64 or more
    assert found.single.last.frechet.max() < 16
    assert found.multi.last.frechet.max() < 16


def test_both_families_take_as_many_images_of_a_source_in_a_step():
    seen = []

    class Spy(nn.Module):
        one_by_one = True

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, x, c_noise, y):
            if torch.is_grad_enabled():
                seen.append(len(x))
            return x * self.w

    recipe = Recipe(steps=1, batch=5, every=1, levels=1)
    compare([normal(0, [0.0, 1.0, 2.0])], Spy, recipe, seed=1)
    assert seen == [5, 5, 5, 15]


def test_sources_may_differ_in_size():
    part = normal(0, [0.0, 1.0], n=9)
    few = part.train[1]._replace(
        images=part.train[1].images[:2], labels=part.train[1].labels[:2], ids=part.train[1].ids[:2]
    )
    split = part._replace(train=(part.train[0], few))
    found = compare([split], build(), QUICK, seed=1, samples=5)
    assert found.single.stopped.loss.shape == found.copier.loss.shape == (1, 2)


def test_larger_images_and_diffusers_network_take_the_same_way():
    rng = torch.Generator().manual_seed(0)
    parts = [tuple(torch.randn(m, 3, 8, 8, generator=rng) for m in (4, 2, 3)) for _ in range(2)]
    split = Sources.labelled(["cat", "dog"], parts)
    recipe = Recipe(steps=1, batch=2, every=1, levels=1)
    found = compare([split], lambda: UNet((3, 8, 8), 2, channels=(32,)), recipe, seed=1)
    assert np.isfinite(found.multi.stopped.loss).all()


def test_one_source_is_refused():
    with pytest.raises(ValueError, match="K >= 2"):
        compare([normal(0, [0.0])], build(1), QUICK, seed=1)


def test_splits_of_other_sources_are_refused():
    splits = [normal(0, [0.0, 1.0]), normal(1, [0.0, 1.0, 2.0])]
    with pytest.raises(ValueError, match="splits of the same sources, got 2"):
        compare(splits, build(), QUICK, seed=1)


def test_one_run_has_no_interval():
    with pytest.raises(ValueError, match="at least two runs"):
        interval(np.array([1.0]))
