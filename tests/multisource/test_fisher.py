import math

import numpy as np
import pytest
import torch

from core.multisource.fisher import (
    fisher_law,
    histogram_law,
    shared_design,
    single_design,
)
from core.multisource.gaussians import limit_constant
from core.train.seeds import generator


def saturated_scores(p):
    """Scores of log p by the logits of all outcomes: rank N - 1."""
    N = p.shape[1]
    return torch.eye(N, dtype=torch.float64) - p[:, None, :].expand(-1, N, -1)


@pytest.mark.parametrize("weights", [None, [0.5, 0.3, 0.2]])
def test_without_a_model_the_law_is_that_of_frequencies(rng, weights):
    p = torch.from_numpy(rng.dirichlet(np.ones(7), size=3))
    w = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    found, known = fisher_law(p, saturated_scores(p), weights=w), histogram_law(p, w)
    assert found.dim == known.dim == 3 * 6
    assert found.constant == pytest.approx(known.constant, rel=1e-12)


def test_frequencies_err_as_the_law_says():
    rng = generator(3)
    p, n = rng.dirichlet(np.ones(20), size=2), 20_000
    n_k = rng.multinomial(n, [0.5, 0.5], size=3000)
    hat = np.stack([rng.multinomial(n_k[:, k], p[k]) for k in range(2)], 1) / n_k[..., None]
    tv = abs(hat - p).sum(2).mean(1) / 2
    law = histogram_law(torch.from_numpy(p)).error(n)
    # beyond the law: terms of relative order 1 / (n p), of outcomes of p ~ 0.01
    assert abs(tv.mean() - law) < 4 * tv.std() / math.sqrt(3000) + 0.005 * law


@pytest.mark.parametrize(("K", "d", "d1"), [(1, 3, 1), (4, 3, 1), (5, 2, 2)])
def test_gaussians_have_the_constant_of_their_mean_length(K, d, d1):
    """On a grid of whole sds the score of a mean is x - mu; the law is then an integral."""
    z, w = np.polynomial.hermite_e.hermegauss(24)
    x = torch.from_numpy(np.stack(np.meshgrid(*[z] * d, indexing="ij"), -1).reshape(-1, d))
    p = torch.from_numpy(np.prod(np.meshgrid(*[w / w.sum()] * d, indexing="ij"), 0).ravel())
    shared = torch.arange(d) >= d1
    laws = [
        fisher_law(p.expand(K, -1), x.expand(K, -1, -1), design)
        for design in (shared_design(K, shared), None)
    ]
    assert [law.dim for law in laws] == [(K - 1) * d1 + d, K * d]
    # one by one: sqrt(K) times the mean length of z over sqrt(2 pi); its kink costs the rule 0.5 %
    assert laws[1].constant == pytest.approx(limit_constant(d) * math.sqrt(K * d), rel=5e-3)
    length = (K * x[:, :d1].square().sum(1) + x[:, d1:].square().sum(1)).sqrt()
    assert laws[0].constant == pytest.approx(float(p @ length) / math.sqrt(2 * math.pi), rel=1e-9)
    assert all(law.constant <= law.most for law in laws)


def test_designs_say_what_belongs_to_whom():
    design = shared_design(3, torch.tensor([True, False, True]))
    theta = torch.arange(1.0, 6.0, dtype=torch.float64)  # two shared, then one of each source
    assert (design @ theta).tolist() == [[1, 3, 2], [1, 4, 2], [1, 5, 2]]
    assert (single_design(2, 2) @ torch.arange(4.0).double()).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: fisher_law(p, torch.zeros(2, 4, 2)), r"want scores \[2, 3, m\]"),
        (lambda p: fisher_law(2 * p, torch.zeros(2, 3, 2)), "a sum of 2"),
        (lambda p: fisher_law(p, torch.ones(2, 3, 2), weights=torch.ones(2)), "a sum of 2"),
    ],
)
def test_what_has_no_law_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.full((2, 3), 1 / 3, dtype=torch.float64))
