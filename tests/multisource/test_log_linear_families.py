import itertools
import math

import numpy as np
import pytest
import torch

from core.multisource.bounds import bound_ratio, effective_similarity
from core.multisource.log_linear_families import (
    autoregressive,
    draw_counts,
    draw_truth,
    energy_based,
)
from core.train.seeds import generator


def test_the_autoregressive_probabilities_are_products_of_sigmoids(rng):
    D, family = 4, autoregressive(4, 0.5, rng)
    theta = draw_truth(family, 2, rng)
    p = family.probabilities(theta)
    for k, (s, x) in itertools.product(range(2), enumerate(itertools.product([0, 1], repeat=D))):
        product, used = 1.0, 0
        for d in range(D):
            b, *W = theta[k, used : used + 1 + d].tolist()
            used += 1 + d
            one = 1 / (1 + math.exp(-b - float(np.dot(W, x[:d]))))
            product *= one if x[d] else 1 - one
        assert p[k, s] == pytest.approx(product, rel=1e-12)


def test_the_energy_based_probabilities_are_normalised_exponentials():
    family = energy_based(5, 2, 3)
    theta = torch.from_numpy(generator(1).standard_normal((2, 8)))
    x = (np.arange(5) + 0.5) / 5
    u = np.zeros((2, 5, 5))
    modes = [(a, b) for a in range(3) for b in range(3)][1:]
    for m, (a, b) in enumerate(modes):
        waves = np.outer(np.cos(np.pi * a * x), np.cos(np.pi * b * x))
        u += theta[:, m].numpy()[:, None, None] * waves
    wanted = np.exp(u).reshape(2, -1)
    wanted /= wanted.sum(1, keepdims=True)
    assert family.probabilities(theta).numpy() == pytest.approx(wanted, rel=1e-12)
    assert family.beta_sim == 3 / 8


@pytest.mark.parametrize(
    "make", [lambda rng: autoregressive(5, 0.4, rng), lambda _: energy_based(6, 2, 3)]
)
def test_scores_are_derivatives_of_log_probabilities(rng, make):
    family = make(rng)
    theta = draw_truth(family, 2, rng)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda t: family.probabilities(t).log()))(theta)
    torch.testing.assert_close(family.scores(theta), jacobian)


@pytest.mark.parametrize("K", [1, 4])
def test_dimensions_are_numbers_of_parameters(rng, K):
    family = autoregressive(6, 1.0, rng)
    theta = draw_truth(family, K, rng)
    assert family.law(theta, multi=True).dim == 15 + 6 * K
    assert family.law(theta, multi=False).dim == 21 * K
    assert family.beta_sim == 15 / 21


@pytest.mark.parametrize(
    ("name", "K", "n"),
    [("autoregressive", 3, 5000), ("autoregressive", 6, 20_000), ("energy", 4, 4000)],
)
def test_errors_follow_the_fisher_law(name, K, n):
    """Within 2 %, the next order of the law, and four standard errors of less than 1 %."""
    rng = generator(7, K)
    family = autoregressive(6, 1.0, rng) if name == "autoregressive" else energy_based(24, 3, 10)
    theta = draw_truth(family, K, rng, scale=0.7)
    p = family.probabilities(theta)
    counts = draw_counts(p, n, 150, rng)
    laws = [family.law(theta, multi=multi) for multi in (True, False)]
    for multi, law in zip((True, False), laws, strict=True):
        R = (family.fit(counts, multi=multi) - p).abs().sum(2).mean(1) / 2
        off = abs(float(R.mean()) - law.error(n))
        assert off < 4 * float(R.std()) / math.sqrt(150) + 0.02 * law.error(n)
        assert law.constant <= law.most
    # what parameters are counted for and what they do are not the same, but near
    beta = effective_similarity(laws[0].constant, laws[1].constant, K)
    assert beta == pytest.approx(family.beta_sim, abs=0.15)
    assert laws[0].constant / laws[1].constant >= bound_ratio(K, 1.0)


def test_where_nothing_is_shared_both_ways_are_one(rng):
    family = autoregressive(4, 0.0, rng)
    theta = draw_truth(family, 3, rng)
    counts = draw_counts(family.probabilities(theta), 900, 4, rng)
    both = [family.fit(counts, multi=multi) for multi in (True, False)]
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=1e-9)
    laws = [family.law(theta, multi=multi).constant for multi in (True, False)]
    assert laws[0] == pytest.approx(laws[1], rel=1e-9)


def test_what_is_drawn_has_the_probabilities(rng):
    p = torch.from_numpy(rng.dirichlet(np.ones(4), size=3))
    counts = draw_counts(p, 600, 2000, rng)
    assert (counts.sum((1, 2)) == 600).all()
    # a count of 600 p / 3 over 2000 draws
    spread = (200 * p / 2000).sqrt()
    assert ((counts.double().mean(0) - 200 * p).abs() < 4.5 * spread).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: autoregressive(17, 0.5, rng), "D <= 16"),
        (lambda rng: autoregressive(4, 1.5, rng), r"shared in \[0, 1\]"),
        (lambda rng: energy_based(8, 2, 9), "0 <= shared <= 8"),
        (lambda rng: energy_based(8, 2, 4).fit(torch.zeros(1, 2, 64), multi=True), "without data"),
    ],
)
def test_what_is_no_family_is_refused(rng, call, message):
    with pytest.raises(ValueError, match=message):
        call(rng)
