import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from core.vrpo.draws import Design
from core.vrpo.objective import Terms, dpo, supervised_slopes

BETA = 0.2


def terms(B=3, n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Terms(
        *(3 * torch.randn(B, n, generator=generator, dtype=torch.float64) for _ in range(4))
    )


def test_the_slopes_are_the_gradient_of_the_mean_loss():
    t = terms()
    w, l = t.policy_w.requires_grad_(), t.policy_l.requires_grad_()
    score = BETA * ((w - t.reference_w).mean(1) - (l - t.reference_l).mean(1))
    expected = torch.autograd.grad(-logsigmoid(score).mean(), [w, l])
    found = dpo(Terms(*(x.detach() for x in t)), Design(n_t=4), beta=BETA)
    torch.testing.assert_close(found.slope_w, expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(found.slope_l, expected[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(found.loss.mean(), -logsigmoid(score).mean().detach())


def test_cross_fitted_slopes_weigh_one_half_by_the_score_of_the_other():
    t = terms(B=1, n=4)
    a, b = t.score(BETA, slice(0, 2)), t.score(BETA, slice(2, 4))
    found = dpo(t, Design(n_t=4), beta=BETA, gradient="cross-fitted").slope_w[0]
    expected = -BETA / 4 * torch.sigmoid(-torch.cat([b, b, a, a]))
    torch.testing.assert_close(found, expected)


def exact_mean_loss(values, n, loss):
    """The mean loss estimate when each of n draws of the chosen margin is one of `values`."""
    grids = torch.cartesian_prod(*[values] * n).reshape(-1, n)
    zero = torch.zeros_like(grids)
    found = dpo(Terms(grids, zero, zero, zero), Design(n_t=n), beta=1.0, loss=loss)
    return found.loss.mean()


def test_the_jackknife_takes_away_the_first_order_of_the_bias():
    values = torch.tensor([-0.3, 0.0, 0.9], dtype=torch.float64)  # skewed: then d is no accident
    truth = -logsigmoid(values.mean())
    bias = {
        (n, loss): float(exact_mean_loss(values, n, loss) - truth)
        for n in (2, 4, 8)
        for loss in ("plain", "jackknife")
    }
    for n in (4, 8):
        assert abs(bias[n, "jackknife"]) < 0.3 * abs(bias[n, "plain"])
    # order 1 / n against order 1 / n^2
    assert bias[8, "plain"] / bias[4, "plain"] == pytest.approx(1 / 2, rel=0.1)
    assert bias[8, "jackknife"] / bias[4, "jackknife"] == pytest.approx(1 / 4, rel=0.3)


def test_the_plain_loss_is_biased_by_an_eighth_of_the_variance_at_most():
    values = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    truth = -logsigmoid(values.mean())
    for n in (1, 2, 4):
        bias = float(exact_mean_loss(values, n, "plain") - truth)
        assert 0 < bias <= float(values.var(correction=0)) / n / 8


def test_supervised_slopes_are_the_gradient_of_the_mean_elbo_per_token():
    t, lengths = terms(), torch.tensor([2, 5, 7])
    w = t.policy_w.requires_grad_()
    (expected,) = torch.autograd.grad(-0.05 * (w.mean(1) / lengths).mean(), [w])
    torch.testing.assert_close(supervised_slopes(t, lengths, weight=0.05), expected)


def test_terms_that_are_not_finite_are_refused_by_name():
    t = terms()
    t.reference_l[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"reference_l of pair\(s\) \[1\]"):
        dpo(t, Design(n_t=4), beta=BETA)


@pytest.mark.parametrize(
    ("design", "options", "message"),
    [
        (Design(n_t=4), {"beta": 0.0}, "beta > 0"),
        (Design(n_t=8), {"beta": 1.0}, r"four arrays \[B, 8\]"),
        (Design(n_t=4), {"beta": 1.0, "loss": "debiased"}, "'jackknife'"),
        (Design(n_t=4, counts="systematic"), {"beta": 1.0, "loss": "jackknife"}, "sets=2"),
        (Design(n_t=1, n_y=4), {"beta": 1.0, "gradient": "cross-fitted"}, "even n_t"),
    ],
    ids=str,
)
def test_what_cannot_be_estimated_is_refused(design, options, message):
    with pytest.raises(ValueError, match=message):
        dpo(terms(), design, **options)
