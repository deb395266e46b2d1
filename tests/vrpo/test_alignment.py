import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from core.vrpo import alignment
from core.vrpo.alignment import Looked, Noiseless, align, judge
from core.vrpo.draws import Design
from core.vrpo.exact import all_masks, counts, probabilities
from core.vrpo.objective import Terms, dpo
from core.vrpo.packing import pack
from core.vrpo.reference import Live
from core.vrpo.scoring import Chunks, batch_at
from core.vrpo.sorting import DIGITS, MASK, sorting_world, sums_of
from core.vrpo.trainer import SINGLE, Recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world():
    return sorting_world(3, steps=20, batch=16, train=6, held_out=4)


@pytest.fixture(scope="module")
def moved(world):
    """A policy away from the reference, with its outcome."""
    return align(world, Design(2), seed=1, steps=6, batch=3, learning_rate=3e-3)


@pytest.mark.parametrize("shared", [True, False])
def test_scores_looked_up_are_those_of_the_live_reference(world, shared):
    design = Design(3, shared=shared)
    batch = batch_at(world.train, 1, size=4, design=design, seed=2, world=SINGLE)
    live = Live(world.reference, Chunks(MASK, None, CPU))
    torch.testing.assert_close(Looked(world.train_sums)(batch), live(batch), rtol=1e-5, atol=1e-5)


def elbo(model, prompt, y):
    """The exact ELBO with its gradient."""
    M = len(all_masks(DIGITS))
    S = model(pack([prompt] * M, [y] * M, list(all_masks(DIGITS)), mask_id=MASK)).double()
    return torch.from_numpy(probabilities(DIGITS) * DIGITS / counts(DIGITS)) @ S


def exact_loss(world, policy, pairs, beta=0.2, supervised=0.0):
    total = torch.zeros((), dtype=torch.float64)
    for p in pairs:
        w, l = (
            elbo(policy, p.prompt, y) - elbo(world.reference, p.prompt, y).detach()
            for y in (p.chosen, p.rejected)
        )
        total = total - logsigmoid(beta * (w - l))
        total = total - supervised * elbo(policy, p.prompt, p.chosen) / DIGITS
    return total / len(pairs)


def test_the_gradient_from_all_masks_is_the_exact_one(world, moved):
    policy = copy.deepcopy(moved[0])
    recipe = Recipe(4, batch=3, design=Design(63), at_once=None, seed=5)
    trainer = Noiseless(
        policy, world.train, recipe, reference=Looked(world.train_sums), mask_id=MASK
    )
    pairs = trainer.batch().pairs
    trainer.gradient()
    found = torch.cat([p.grad.flatten() for p in policy.parameters()])
    policy.zero_grad()
    exact_loss(world, policy, pairs, supervised=0.05).backward()
    expected = torch.cat([p.grad.flatten() for p in policy.parameters()])
    # float32 sums over 378 sequences
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_a_run_is_judged_by_the_exact_loss(world, moved):
    policy, outcome = moved
    with torch.no_grad():
        expected = float(exact_loss(world, policy, world.held_out))
    assert outcome.loss == pytest.approx(expected, rel=1e-5)
    assert len(outcome.curve) == 6
    assert outcome.passes == 2 * 2 * 3 * 6


@pytest.mark.parametrize("shared", [True, False])
def test_the_plotted_loss_is_the_mean_of_loss_estimates(world, moved, shared):
    design = Design(2, shared=shared)
    sums = sums_of(moved[0], world.held_out)
    _, plotted = judge(world, sums, design, beta=0.2)
    losses = []
    for seed in range(1500):
        batch = batch_at(world.held_out, 0, size=4, design=design, seed=seed, world=SINGLE)
        weights = {
            k: torch.stack([torch.stack([d.weights for d in getattr(b, k)]) for b in batch.draws])
            for k in ("policy", "reference")
        }
        tables = [_renumbered(x, world.train) for x in (sums, world.held_out_sums)]
        as_reference = [b._replace(reference=b.policy) for b in batch.draws]
        a = weights["policy"] * Looked(tables[0])(batch._replace(draws=as_reference))
        b = weights["reference"] * Looked(tables[1])(batch)
        terms = Terms(a[:, 0], a[:, 1], b[:, 0], b[:, 1])
        losses.append(float(dpo(terms, design, beta=0.2).loss.mean()))
    error = np.std(losses) / np.sqrt(len(losses))
    assert abs(np.mean(losses) - plotted) < 4.5 * error


def _renumbered(sums, train):
    """Held-out pairs are numbered after the others."""
    return torch.cat([torch.zeros(len(train), *sums.shape[1:]), sums])


def test_designs_whose_law_is_not_known_have_no_plotted_loss(world):
    _, plotted = judge(world, world.held_out_sums, Design(4, counts="systematic"), beta=0.2)
    assert np.isnan(plotted)
    score, exact = judge(world, world.held_out_sums, None, beta=0.2)
    np.testing.assert_allclose(score, 0, atol=1e-12)
    assert exact == pytest.approx(np.log(2))


def test_more_training_on_exact_gradients_lowers_the_loss_of_its_own_pairs(world):
    curve = alignment.align(world, None, seed=0, steps=8, batch=6, learning_rate=1e-3)[1].curve
    assert curve[0] == pytest.approx(np.log(2), abs=1e-6)
    assert curve[-1] < curve[0]
