from itertools import product

import numpy as np
import pytest
import torch
from scipy.special import expit
from worlds import pair, terms_of_a_pair, tiny_model

from core.vrpo.exact import all_masks, mean, probabilities, split
from core.vrpo.gradient import PairGradients, gram
from core.vrpo.packing import pack

L, M = 2, 3
BETA = 0.7


@pytest.fixture(scope="module")
def world():
    """Margins of two tiny models, and made-up gradients of five parameters."""
    vectors = np.random.default_rng(0).standard_normal((2 * M, 5))
    return PairGradients(vectors @ vectors.T, terms_of_a_pair(L), BETA), vectors


def every_outcome(world, vectors, n, shared, estimate):
    """Mean and total variance of a gradient estimate, by running through all draws."""
    p = probabilities(L)
    draws = list(product(range(M), repeat=n))
    chances = {d: p[list(d)].prod() for d in draws}
    total, second = np.zeros(vectors.shape[1]), 0.0
    references = [(None, None, 1.0)] if shared else [
        (a, b, chances[a] * chances[b]) for a in draws for b in draws
    ]  # fmt: skip
    for w, l in product(draws, draws):
        for rw, rl, q in references:
            g = estimate(list(w), list(l), list(rw or w), list(rl or l))
            chance = chances[w] * chances[l] * q
            total += chance * g
            second += chance * (g @ g)
    return total, second - total @ total


def score(world, w, l, rw, rl):
    pw, pl, bw, bl = (f[0] for f in world.terms)
    return BETA * (pw[w].mean() - bw[rw].mean() - pl[l].mean() + bl[rl].mean())


def of_score(vectors, w, l):
    w, l = np.array(w), np.array(l)
    return BETA * (vectors[w].mean(0) - vectors[M + l].mean(0))


@pytest.mark.parametrize(("n", "shared"), [(1, True), (2, True), (3, True), (1, False), (2, False)])
def test_the_plain_gradient_is_that_of_every_outcome(world, n, shared):
    world, vectors = world

    def estimate(w, l, rw, rl):
        return -expit(-score(world, w, l, rw, rl)) * of_score(vectors, w, l)

    average, variance = every_outcome(world, vectors, n, shared, estimate)
    found = world.plain(n, shared=shared)
    true = world.exact() @ vectors
    # 1e-5: interpolation on the grid of scores
    assert found.true == pytest.approx(np.linalg.norm(true), rel=1e-10)
    assert found.variance == pytest.approx(variance, rel=1e-5)
    assert found.bias == pytest.approx(np.linalg.norm(average - true), rel=1e-4, abs=1e-7)
    assert found.mean == pytest.approx(np.linalg.norm(average), rel=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_the_cross_fitted_gradient_is_that_of_every_outcome(world, shared):
    world, vectors = world

    def estimate(w, l, rw, rl):
        a, b = ((w[k], l[k], rw[k], rl[k]) for k in (0, 1))
        scores = [score(world, *([i] for i in half)) for half in (a, b)]
        slopes = [of_score(vectors, [half[0]], [half[1]]) for half in (a, b)]
        return -(expit(-scores[0]) * slopes[1] + expit(-scores[1]) * slopes[0]) / 2

    average, variance = every_outcome(world, vectors, 2, shared, estimate)
    found = world.cross_fitted(2, shared=shared)
    true = world.exact() @ vectors
    assert found.variance == pytest.approx(variance, rel=1e-5)
    assert found.bias == pytest.approx(np.linalg.norm(average - true), rel=1e-4, abs=1e-7)
    assert found.cosine == pytest.approx(1, abs=1e-12)


def test_the_exact_gradient_is_autograds():
    model, (x, responses) = tiny_model(1), pair(L)
    terms = terms_of_a_pair(L)
    parameters = list(model.parameters())
    p = torch.from_numpy(probabilities(L))
    elbo = []
    for y in responses:
        packed = pack([x] * M, [y] * M, list(all_masks(L)), mask_id=7)
        elbo.append((p * L / all_masks(L).sum(1)) @ model(packed))
    s = BETA * (elbo[0] - elbo[1] - float(mean(terms.reference_w[0]) - mean(terms.reference_l[0])))
    gradient = torch.autograd.grad(-torch.nn.functional.logsigmoid(s), parameters)
    expected = float(torch.cat([g.flatten() for g in gradient]).norm())
    found = PairGradients(gram(model, x, responses), terms, BETA)
    assert found.plain(1).true == pytest.approx(expected, rel=1e-9)


def test_the_parts_of_the_gradients_variance_are_those_of_each_coordinate(world):
    world, vectors = world
    V_t, V_y = world.split()
    for k in range(2):
        found = split(vectors[k * M : (k + 1) * M].T)  # a parameter a row
        assert V_t[k] == pytest.approx(found.V_t.sum(), rel=1e-10)
        assert V_y[k] == pytest.approx(found.V_y.sum(), rel=1e-10)


def test_an_odd_number_of_draws_has_no_halves(world):
    with pytest.raises(ValueError, match="even number"):
        world[0].cross_fitted(3)
