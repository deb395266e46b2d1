"""Two passes against one, and a step's figures against what the definitions give."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from core.train.distributed import SINGLE
from core.vrpo.draws import Design, draw_pair
from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.objective import Terms
from core.vrpo.packing import pack
from core.vrpo.preferences import Preference
from core.vrpo.reference import Live
from core.vrpo.scoring import Chunks, batch_at
from core.vrpo.trainer import Recipe, Trainer, learning_rate, score_variance

CONFIG = Config(vocab_size=13, d_model=16, n_layers=2, n_heads=2, mlp_hidden=24, mask_id=12)
RECIPE = Recipe(steps=20, batch=3, design=Design(n_t=4), learning_rate=1e-2, at_once=1, seed=5)


def tiny(seed, dtype=torch.float64):
    return MaskedDiffusionLM.initialised(CONFIG, seed).to(dtype)


def some_pairs(count, seed=0):
    rng = np.random.default_rng(seed)

    def tokens(low, high):
        return torch.from_numpy(rng.integers(0, 12, rng.integers(low, high)))

    return [Preference(tokens(0, 5), tokens(1, 8), tokens(1, 8), i) for i in range(count)]


PAIRS = some_pairs(7)


def trainer(recipe=RECIPE, policy=None, data=PAIRS):
    policy = tiny(1) if policy is None else policy
    reference = Live(tiny(2), Chunks(CONFIG.mask_id, recipe.at_once, torch.device("cpu")))
    return Trainer(policy, data, recipe, reference=reference, mask_id=CONFIG.mask_id)


def changed(**fields):
    return dataclasses.replace(RECIPE, **fields)


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def plain_loss(policy, reference, batch, recipe):
    """The loss as the paper writes it, one sequence at a time, differentiated by autograd."""

    def elbo(model, pair, response, drawn):
        terms = [
            weight * model(pack([pair.prompt], [response], [mask], mask_id=CONFIG.mask_id))[0]
            for mask, weight in zip(drawn.masks, drawn.weights, strict=True)
        ]
        return torch.stack(terms).mean()

    losses = []
    for pair, drawn in zip(batch.pairs, batch.draws, strict=True):
        w, l = (
            elbo(policy, pair, y, d)
            for y, d in zip((pair.chosen, pair.rejected), drawn.policy, strict=True)
        )
        with torch.no_grad():
            both = zip((pair.chosen, pair.rejected), drawn.reference, strict=True)
            rw, rl = (elbo(reference, pair, y, d) for y, d in both)
        s_hat = recipe.beta * ((w - rw) - (l - rl))
        losses.append(-logsigmoid(s_hat) - recipe.supervised * w / len(pair.chosen))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("at_once", [1, 3, 5, 24, 100, None])
@pytest.mark.parametrize("design", [Design(n_t=4), Design(n_t=2, n_y=2, shared=False)], ids=str)
def test_the_gradient_is_that_of_the_loss_whatever_runs_at_once(at_once, design):
    recipe = changed(at_once=at_once, design=design, seed=11)
    here = trainer(recipe)
    found = here.gradient()
    policy = tiny(1)
    loss = plain_loss(policy, tiny(2), here.batch(), recipe)
    loss.backward()
    # sums of a few hundred float64 terms of size one
    torch.testing.assert_close(gradients(here.policy), gradients(policy), rtol=0, atol=1e-12)
    whole = found["loss"] + recipe.supervised * found["supervised"]
    assert whole == pytest.approx(loss.item(), abs=1e-12)


def most_kept(data, recipe):
    """The most bytes that autograd keeps at one time while the gradient of a batch is made."""
    here, held = trainer(recipe, data=data), {"now": 0, "most": 0}
    weights = {p.untyped_storage().data_ptr() for p in here.policy.parameters()}

    class Kept:
        def __init__(self, x):
            self.x = x
            self.size = 0 if x.untyped_storage().data_ptr() in weights else x.nbytes
            held["now"] += self.size
            held["most"] = max(held["most"], held["now"])

        def __del__(self):
            held["now"] -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.x):
        here.gradient()
    assert held["now"] == 0
    return held["most"]


def test_two_passes_keep_what_one_sequence_needs_whatever_the_budget():
    # responses of one token: all sequences are alike, so that kept bytes can be compared exactly
    one = torch.arange(1)
    data = [Preference(torch.arange(6), one, one, i) for i in range(2)]

    def kept(n, at_once):
        return most_kept(data, changed(design=Design(n_t=n), at_once=at_once, batch=2))

    alone = kept(1, 1)
    assert kept(8, 1) == kept(2, 1) == alone > 0
    assert kept(8, 2) == kept(1, 2) > 1.5 * alone
    # in one pass it is 2 pairs x 2 responses x 8 masks; rotations do not grow with them
    assert kept(8, None) > 20 * alone


def test_the_figures_are_those_of_the_definitions():
    recipe = changed(design=Design(n_t=4), at_once=None)
    here = trainer(recipe)
    found, batch = here.gradient(), here.batch()
    margins = []
    for pair, drawn in zip(batch.pairs, batch.draws, strict=True):
        sides = []
        for y, draws in zip((pair.chosen, pair.rejected), drawn.policy, strict=True):
            read = pack([pair.prompt] * 4, [y] * 4, list(draws.masks), mask_id=CONFIG.mask_id)
            with torch.no_grad():
                sides.append(draws.weights * (tiny(1)(read) - tiny(2)(read)))
        margins.append(0.2 * torch.stack(sides))
    margins = torch.stack(margins)  # [B, 2, n]
    s_hat = margins.mean(2) @ torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert found["score"] == pytest.approx(s_hat.mean().item())
    assert all(s_hat != 0)
    assert found["accuracy"] == (s_hat > 0).double().mean().item()
    assert found["loss"] == pytest.approx(-logsigmoid(s_hat).mean().item())
    # the variance of a mean of four
    spread = (margins[:, 0] - margins[:, 1]).var(1) / 4
    assert found["score_variance"] == pytest.approx(spread.mean().item())
    a, b = margins[..., :2].mean(2), margins[..., 2:].mean(2)
    halves = sum(logsigmoid(half[:, 0] - half[:, 1]) for half in (a, b)) / 2
    assert found["jackknife"] == pytest.approx((halves - 2 * logsigmoid(s_hat)).mean().item())


@pytest.mark.parametrize(
    "design",
    [
        Design(n_t=4),
        Design(n_t=2, n_y=2),
        Design(n_t=4, across_pair=True),
        Design(n_t=4, shared=False),
        Design(n_t=4, shared=False, across_pair=True),
        Design(n_t=4, counts="systematic", sets=2),
    ],
    ids=str,
)
def test_the_variance_of_the_score_is_estimated_without_bias(design):
    table = torch.randn(2, 2, 6, dtype=torch.float64)
    recipe, runs = changed(design=design, beta=1.0), 4000

    def S(masks, per_token):
        return masks @ per_token[: masks.shape[1]] - masks.sum(1) ** 2 * per_token[0].exp()

    terms = []
    for run in range(runs):
        drawn = draw_pair(design, (6, 4), 3, run)
        # any function of a mask will do for S; this one varies between counts and within them
        terms.append(
            [
                d.weights * S(d.masks.double(), table[model, side])
                for model, both in enumerate((drawn.policy, drawn.reference))
                for side, d in enumerate(both)
            ]
        )
    terms = Terms(*(torch.stack(x) for x in zip(*terms, strict=True)))
    found, score = score_variance(terms, recipe), terms.score(1.0)
    # standard errors of a mean, and of a variance with kurtosis k: sqrt((k - 1) / runs)
    kurtosis = ((score - score.mean()) ** 4).mean() / score.var() ** 2
    error = (found.var() / runs + score.var() ** 2 * (kurtosis - 1) / runs).sqrt()
    assert abs(found.mean() - score.var()) < 4 * error


def test_a_design_that_does_not_tell_has_no_variance():
    found = trainer(changed(design=Design(n_t=4, counts="systematic"))).gradient()
    assert found["score_variance"] is None
    assert found["jackknife"] is None
    assert trainer(changed(design=Design(n_t=1))).gradient()["score_variance"] is None


def test_a_policy_that_is_its_reference_has_score_zero_and_is_right_by_halves():
    found = trainer(policy=tiny(2)).gradient()
    assert found["score"] == 0.0
    assert found["accuracy"] == 0.5
    assert found["loss"] == pytest.approx(np.log(2), abs=1e-15)


def test_training_learns_the_preference():
    here = trainer(changed(steps=60, at_once=None))
    found = [here.step() for _ in range(60)]
    first, last = found[:7], found[-7:]  # no less than two epochs
    assert np.mean([f.accuracy for f in last]) == 1.0
    assert np.mean([f.loss for f in last]) < np.mean([f.loss for f in first]) / 2
    assert np.mean([f.supervised for f in last]) < np.mean([f.supervised for f in first])


def test_a_step_is_a_step_of_adamw_with_the_gradient_clipped():
    recipe = changed(clip=0.01, warmup=4)
    here, policy = trainer(recipe), tiny(1)
    here.gradient()
    raw = gradients(here.policy)
    found = here.step()
    assert found.gradient_norm == pytest.approx(raw.norm().item())
    assert found.learning_rate == pytest.approx(1e-2 / 4)
    start = torch.nn.utils.parameters_to_vector(policy.parameters())
    g = raw * 0.01 / (raw.norm() + 1e-6)  # torch's clipping
    # the first step of Adam divides the gradient by its own size; decay is apart from it
    rate = 1e-2 / 4
    expected = start * (1 - rate * 0.01) - rate * g / (g.abs() + 1e-8)
    stepped = torch.nn.utils.parameters_to_vector(here.policy.parameters())
    torch.testing.assert_close(stepped, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_five_steps_are_those_of_adamw_written_out(decay):
    recipe = changed(warmup=3, weight_decay=decay, betas=(0.7, 0.95))
    here, policy = trainer(recipe), tiny(1)
    x = torch.nn.utils.parameters_to_vector(policy.parameters()).detach()
    m, v = torch.zeros_like(x), torch.zeros_like(x)
    for k in range(1, 6):
        here.gradient()  # the step's own: its masks have names
        g, rate = gradients(here.policy), learning_rate(here.done, recipe)
        m, v = 0.7 * m + 0.3 * g, 0.95 * v + 0.05 * g**2
        x = x * (1 - rate * decay)
        x = x - rate * (m / (1 - 0.7**k)) / ((v / (1 - 0.95**k)).sqrt() + 1e-8)
        here.step()
    stepped = torch.nn.utils.parameters_to_vector(here.policy.parameters()).detach()
    # five steps of 1e-2 at most, in float64, on gradients from 1e-8 up
    torch.testing.assert_close(stepped, x, rtol=0, atol=1e-10)


def test_the_papers_constants_reach_the_optimizer():
    (group,) = trainer(Recipe(steps=1)).optimizer.param_groups
    assert group["betas"] == (0.9, 0.95)
    assert group["weight_decay"] == 0.01


def test_the_learning_rate_rises_and_falls_as_a_cosine():
    recipe = changed(steps=115, warmup=15, learning_rate=5e-7)
    rates = np.array([learning_rate(step, recipe) for step in range(115)])
    assert rates[0] == pytest.approx(5e-7 / 15)
    assert rates[14] == rates[15] == rates.max() == 5e-7
    assert rates[65] == pytest.approx(2.5e-7)
    assert 0 < rates[-1] < 1e-3 * 5e-7
    assert learning_rate(115, recipe) == 0.0


def test_an_epoch_sees_every_pair_once_and_each_epoch_has_its_own_order_and_masks():
    def epoch(number):
        steps = [
            batch_at(PAIRS, 3 * number + i, size=3, design=RECIPE.design, seed=0, world=SINGLE)
            for i in range(3)
        ]
        assert [b.size for b in steps] == [3, 3, 1]
        return [p.example for b in steps for p in b.pairs], steps

    (first, a), (second, b) = epoch(0), epoch(1)
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second

    def masks(steps, example):
        return next(
            drawn.policy[0].masks
            for step in steps
            for pair, drawn in zip(step.pairs, step.draws, strict=True)
            if pair.example == example
        )

    longest = max(PAIRS, key=lambda p: len(p.chosen)).example
    assert not torch.equal(masks(a, longest), masks(b, longest))
    pair = PAIRS[longest]
    expected = draw_pair(RECIPE.design, (len(pair.chosen), len(pair.rejected)), 0, 1, longest)
    assert torch.equal(masks(b, longest), expected.policy[0].masks)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"steps": 0}, "want steps >= 1, a whole number, got 0"),
        ({"batch": 0}, "want batch >= 1"),
        ({"at_once": 0}, "want at_once >= 1"),
        ({"beta": 0.0}, "want beta > 0, got 0.0"),
        ({"learning_rate": float("nan")}, "want learning_rate > 0, got nan"),
        ({"clip": -1.0}, "want clip > 0"),
        ({"supervised": -1.0}, "want supervised >= 0"),
        ({"seed": -1}, "want seed >= 0"),
        ({"gradient": "cross-fitted", "design": Design(n_t=3)}, "two independent halves"),
        ({"design": Design(form="time")}, "want a design of the count form.*infinite variance"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        changed(**fields)


def test_scores_that_are_no_numbers_are_refused_by_line_and_change_nothing():
    policy = tiny(1)
    data = [dataclasses.replace(p, where=f"prefs.jsonl:{p.example + 1}") for p in PAIRS[:2]]
    here = trainer(changed(batch=2), policy, data)
    with torch.no_grad():
        policy.wte.weight[CONFIG.mask_id] = torch.nan
    before = {name: p.clone() for name, p in policy.named_parameters()}
    with pytest.raises(ValueError, match=r"nan or infinity from the policy at prefs\.jsonl:\d"):
        here.step()
    for name, p in policy.named_parameters():
        torch.testing.assert_close(p, before[name], rtol=0, atol=0, equal_nan=True)
    assert here.done == 0


def test_a_policy_that_is_all_frozen_is_refused():
    with pytest.raises(ValueError, match="all frozen"):
        trainer(policy=tiny(1).requires_grad_(False))


def test_no_data_is_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        trainer(data=[])
