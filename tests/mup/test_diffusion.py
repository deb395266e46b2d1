"""The loss against torch's distributions, and against the exact posterior by Bayes' rule."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from core.mup.diffusion import losses, noised
from core.mup.digits import alpha_bar

BETA = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
KEPT = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar()])  # KEPT[t + 1] after step t


def some(B=6, C=2, channels=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, B, C, 3, 3, generator=generator, dtype=torch.float64)
    output = torch.randn(B, channels, 3, 3, generator=generator, dtype=torch.float64)
    return x.clamp(-1, 1), noise, output.clamp(-1, 1)


def q(x_t, x, t):
    """q(x_{t-1} | x_t, x_0) by Bayes' rule: the product of two normal densities in x_{t-1}."""
    alpha, before = 1 - BETA[t], KEPT[t]
    precision = alpha / BETA[t] + 1 / (1 - before)
    mean = (alpha.sqrt() * x_t / BETA[t] + before.sqrt() * x / (1 - before)) / precision
    return Normal(mean, precision.rsqrt())


def test_noise_is_mixed_in_as_the_schedule_says():
    x, noise, _ = some()
    t = torch.tensor([0, 1, 10, 500, 998, 999])
    x_t = noised(x, t, noise)
    for i, time in enumerate(t):
        kept = torch.prod(1 - BETA[: time + 1])
        expected = kept.sqrt() * x[i] + (1 - kept).sqrt() * noise[i]
        # the schedule's constants are float32
        torch.testing.assert_close(x_t[i], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("t", [1, 2, 50, 999])
def test_the_bound_is_the_divergence_of_the_reverse_steps_in_bits(t):
    x, noise, output = some()
    time = torch.full((6,), t)
    found = losses(output, x, time, noise)
    x_t, kept = noised(x, time, noise), KEPT[t + 1]
    told, v = output.chunk(2, dim=1)
    x_told = (x_t - (1 - kept).sqrt() * told) / kept.sqrt()
    true = q(x_t, x, t)
    log_var = (v + 1) / 2 * BETA[t].log() + (1 - v) / 2 * 2 * true.scale.log()
    expected = kl_divergence(true, Normal(q(x_t, x_told, t).loc, (log_var / 2).exp()))
    expected = expected.flatten(1).mean(1) / math.log(2)
    # constants in float32, and the difference of two means near one another
    torch.testing.assert_close(found.bound, expected, rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(found.noise, (told - noise).square().flatten(1).mean(1))


def test_at_the_last_step_the_bound_is_the_likelihood_of_a_step_of_8_bits():
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    x = levels.view(1, 1, 16, 16)
    noise = torch.zeros_like(x)
    output = torch.cat([torch.zeros_like(x), torch.full_like(x, 0.3)], dim=1)
    found = losses(output, x, torch.tensor([0]), noise).bound
    tilde = BETA[1] * (1 - KEPT[1]) / (1 - KEPT[2])
    sd = (0.65 * BETA[0].log() + 0.35 * tilde.log()).div(2).exp()
    normal = Normal(x, sd)  # noise and prediction are zero: the mean is x
    above = torch.where(x > 0.999, 1.0, normal.cdf(x + 1 / 255))
    below = torch.where(x < -0.999, 0.0, normal.cdf(x - 1 / 255))
    expected = -(above - below).log2().mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_probabilities_of_all_steps_of_8_bits_make_one():
    from core.mup.diffusion import _log_likelihood

    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean in (-1.2, 0.013, 0.9):
        log_sd = torch.tensor(-1.5, dtype=torch.float64)
        total = _log_likelihood(levels, torch.tensor(mean), log_sd).exp().sum()
        assert total.item() == pytest.approx(1.0, abs=1e-9)


def test_the_bound_trains_the_variance_and_not_the_noise():
    x, noise, output = some()
    output.requires_grad_()
    (grad,) = torch.autograd.grad(
        losses(output, x, torch.arange(6) * 150, noise).bound.sum(), output
    )
    assert grad[:, :2].abs().max() == 0
    assert (grad[:, 2:] != 0).all()


def test_without_a_variance_there_is_no_bound():
    x, noise, output = some(channels=2)
    found = losses(output, x, torch.arange(6), noise)
    assert found.bound.tolist() == [0] * 6
    zero = losses(torch.zeros_like(output), x, torch.arange(6), noise)
    torch.testing.assert_close(zero.noise, noise.square().mean((1, 2, 3)))


def test_an_output_of_other_channels_is_refused():
    x, noise, output = some(channels=3)
    with pytest.raises(ValueError, match=r"want an output of 2 channels, or 4 .*, got 3"):
        losses(output, x, torch.arange(6), noise)
