"""Preconditioning and sampler, against diffusers and against denoisers that are known exactly."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import kstest, norm

from core.multisource.edm import Edm, sample

EDM = Edm(sigma_data=0.5)


def gaussian_denoiser(x, sigma, mean, s):
    """The posterior mean of N(mean, s^2 I) seen under noise."""
    return mean + s**2 / (s**2 + sigma**2) * (x - mean)


def mixture_denoiser(x, sigma, means, s):
    """The posterior mean of an equal mixture of N(m, s^2), pixel by pixel, `means` `[J]`."""
    total = s**2 + sigma**2
    posterior = torch.softmax(-((x[..., None] - means) ** 2) / (2 * total[..., None]), -1)
    each = gaussian_denoiser(x[..., None], sigma[..., None], means, s)
    return (posterior * each).sum(-1)


def as_network(denoiser, edm=EDM):
    """The F whose preconditioned output is `denoiser(x, sigma, y)`."""

    def network(x_in, c_noise, y):
        sigma = (4 * c_noise).exp().reshape(*c_noise.shape, *[1] * (x_in.ndim - 2))
        c = edm.coefficients(sigma)
        x = x_in / c.c_in
        return (denoiser(x, sigma, y) - c.c_skip * x) / c.c_out

    return network


def euler(edm=EDM):
    from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler

    return EDMEulerScheduler(sigma_data=edm.sigma_data)


@pytest.mark.parametrize("sigma_data", [0.5, 1.7])
def test_preconditioning_is_that_of_diffusers(sigma_data):
    edm, theirs = Edm(sigma_data), euler(Edm(sigma_data))
    sigma = torch.logspace(-3, 2, 7)
    x, F = torch.randn(7), torch.randn(7)
    c = edm.coefficients(sigma)
    torch.testing.assert_close(c.c_in * x, theirs.precondition_inputs(x, sigma))
    torch.testing.assert_close(c.c_noise, theirs.precondition_noise(sigma))
    torch.testing.assert_close(c.c_skip * x + c.c_out * F, theirs.precondition_outputs(x, F, sigma))


def test_a_noised_image_enters_and_its_target_leaves_with_unit_variance():
    x = 0.5 * torch.randn(1, 5, 40_000)
    sigma = torch.logspace(-2, 1, 5)[None]
    noised = x + sigma[..., None] * torch.randn_like(x)
    c = EDM.coefficients(sigma[..., None])
    target = (x - c.c_skip * noised) / c.c_out
    # a variance of 40,000 normals has a relative sd of 0.7 %: allow five
    for found in (c.c_in * noised, target):
        torch.testing.assert_close(found.var(-1), torch.ones(1, 5), rtol=0.035, atol=0)


def test_a_preconditioned_network_gives_its_denoiser_back():
    x, sigma = torch.randn(2, 3, 1, 4, 4), torch.rand(2, 3) + 0.1
    network = as_network(lambda x, sigma, y: gaussian_denoiser(x, sigma, 0.3, 0.2))
    y = torch.zeros(2, 3, dtype=torch.long)
    expected = gaussian_denoiser(x, sigma.view(2, 3, 1, 1, 1), 0.3, 0.2)
    torch.testing.assert_close(EDM.denoised(network, x, sigma, y), expected)


@pytest.mark.parametrize("s", [0.1, 0.5, 2.0])
def test_the_exact_denoiser_of_a_gaussian_has_the_loss_of_theory(s):
    x, noise = s * torch.randn(1, 6, 20_000), torch.randn(1, 6, 20_000)
    sigma = torch.logspace(-1, 1, 6)[None]
    network = as_network(lambda x, sigma, y: gaussian_denoiser(x, sigma, 0.0, s))
    found = EDM.loss(network, x, noise, sigma, torch.zeros(1, 6, dtype=torch.long))
    # the posterior variance times the weight; at s = sigma_data it is one at every level
    posterior = s**2 * sigma**2 / (s**2 + sigma**2)
    expected = posterior * (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    # a mean of 20,000 squared normals has a relative sd of 1 %: allow five
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0)


def test_another_denoiser_has_a_greater_loss():
    x, noise = 0.2 * torch.randn(1, 1, 50_000), torch.randn(1, 1, 50_000)
    sigma, y = torch.full((1, 1), 0.3), torch.zeros(1, 1, dtype=torch.long)
    losses = [
        EDM.loss(
            as_network(lambda x, sigma, y, m=m: gaussian_denoiser(x, sigma, m, 0.2)),
            x,
            noise,
            sigma,
            y,
        ).item()
        for m in (0.0, 0.1)
    ]
    # off by m: the denoiser is off by m sigma^2 / (s^2 + sigma^2)
    excess = (0.1 * 0.09 / 0.13) ** 2 * (0.09 + 0.25) / (0.3 * 0.5) ** 2
    assert losses[1] - losses[0] == pytest.approx(excess, rel=0.05)


def test_noise_levels_are_log_normal():
    levels = EDM.levels(torch.from_numpy(norm.ppf([0.1, 0.5, 0.9])))
    expected = [math.exp(EDM.P_mean + EDM.P_std * norm.ppf(p)) for p in (0.1, 0.5, 0.9)]
    torch.testing.assert_close(levels, torch.tensor(expected, dtype=torch.float64))


def test_an_image_comes_out_where_the_ode_of_a_gaussian_ends():
    means = torch.tensor([-0.4, 0.6])
    network = as_network(lambda x, sigma, y: gaussian_denoiser(x, sigma, means[y][..., None], 0.3))
    y = torch.tensor([[0, 1, 1]])
    start = torch.randn(1, 3, 10)
    # dx/dsigma = (x - D) / sigma: what is off the mean shrinks as sqrt(s^2 + sigma^2)
    off = EDM.sigma_max * start - means[y][..., None]
    expected = means[y][..., None] + off * 0.3 / math.sqrt(0.3**2 + EDM.sigma_max**2)
    errors = [
        (sample(EDM, network, start, y, steps=steps) - expected).abs().max()
        for steps in (32, 64, 128)
    ]
    assert errors[0] < 0.015 * 0.3 * start.abs().max()
    # of second order: a quarter each time; of first it would be a half
    assert all(fine < coarse / 3.5 for coarse, fine in pairwise(errors))


def test_euler_of_diffusers_on_a_gaussian_is_a_product():
    network = as_network(lambda x, sigma, y: gaussian_denoiser(x, sigma, 0.1, 0.3))
    theirs = euler()
    start = torch.randn(1, 2, 5)
    x = sample(EDM, network, start, torch.zeros(1, 2, dtype=torch.long), steps=9, scheduler=theirs)
    sigma = theirs.sigmas.double()
    factor = (1 + (sigma[1:] - sigma[:-1]) * sigma[:-1] / (0.3**2 + sigma[:-1] ** 2)).prod()
    expected = 0.1 + (80 * start.double() - 0.1) * factor
    torch.testing.assert_close(x.double(), expected, rtol=1e-4, atol=1e-4)


def test_samples_of_an_exact_mixture_follow_it():
    means = torch.tensor([-0.5, 0.1, 0.8])
    network = as_network(lambda x, sigma, y: mixture_denoiser(x, sigma, means, 0.08))
    start = torch.randn(1, 4000, 1, generator=torch.Generator().manual_seed(3))
    x = sample(EDM, network, start, torch.zeros(1, 4000, dtype=torch.long), steps=64)

    def distribution(value):
        return sum(norm.cdf(value, float(m), 0.08) for m in means) / 3

    # Kolmogorov's distance of 4,000 draws exceeds 0.0257 once in a hundred; the rest is of the ODE
    assert kstest(x.flatten().numpy(), distribution).statistic < 0.0257 + 0.01


def test_a_scheduler_of_another_scale_is_refused():
    start, y = torch.randn(1, 1, 4), torch.zeros(1, 1, dtype=torch.long)
    with pytest.raises(ValueError, match=r"sigma_data=0\.5"):
        sample(EDM, as_network(lambda x, s, y: x), start, y, scheduler=euler(Edm(1.0)))


def test_a_single_step_is_refused():
    with pytest.raises(ValueError, match="at least 2 steps"):
        sample(EDM, as_network(lambda x, s, y: x), torch.zeros(1, 1, 4), torch.zeros(1, 1), steps=1)
