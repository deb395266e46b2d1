"""Frechet distance against closed forms, and the test for copies against scipy's."""

import numpy as np
import pytest
import torch
from scipy.fft import idctn
from scipy.linalg import sqrtm
from scipy.stats import mannwhitneyu

from core.multisource.frechet import copied, features, frechet_distance, nearest


def test_of_one_feature_it_is_a_distance_of_means_and_deviations(rng):
    a, b = rng.normal(1, 2, (50, 1)), rng.normal(-1, 3, (70, 1))
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_of_many_features_it_is_the_published_formula(rng):
    a, b = rng.standard_normal((40, 6)) @ rng.standard_normal((6, 6)), rng.standard_normal((30, 6))
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = np.real(sqrtm(ca @ cb))
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca + cb - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_a_sample_is_at_no_distance_from_itself_and_a_shift_at_its_square(rng):
    a = rng.standard_normal((9, 16))  # fewer rows than features
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + 0.5) == pytest.approx(16 * 0.25, abs=1e-6)


def test_features_are_the_lowest_frequencies():
    coefficients = np.zeros((3, 1, 8, 8))
    low = np.random.default_rng(1).standard_normal((3, 4, 4))
    coefficients[:, 0, :4, :4] = low
    coefficients[:, 0, 6, 2] = 5.0  # a high one, which is left out
    images = torch.from_numpy(idctn(coefficients, axes=(2, 3), norm="ortho"))
    np.testing.assert_allclose(features(images), low.reshape(3, 16), atol=1e-12)


def test_distances_to_the_nearest_are_those_of_a_search(rng):
    a, b = torch.from_numpy(rng.random((7, 1, 3, 3))), torch.from_numpy(rng.random((5, 1, 3, 3)))
    expected = [min(float((x - y).norm()) for y in b) for x in a]
    np.testing.assert_allclose(nearest(a, b), expected, rtol=1e-12)


def test_copying_is_mann_and_whitneys_test(rng):
    train, samples, fresh = (torch.from_numpy(rng.standard_normal((n, 4))) for n in (10, 31, 17))
    found = copied(samples, train, fresh)
    ours, theirs = nearest(samples, train), nearest(fresh, train)
    theirs_statistic = mannwhitneyu(
        theirs, ours, alternative="greater", method="asymptotic", use_continuity=False
    )
    assert found.share == pytest.approx(theirs_statistic.statistic / (31 * 17), rel=1e-12)
    from scipy.stats import norm

    assert norm.sf(found.z) == pytest.approx(theirs_statistic.pvalue, rel=1e-9)


def test_copies_are_all_copied_and_fresh_images_are_not(rng):
    train, fresh = (torch.from_numpy(rng.standard_normal((40, 9))) for _ in range(2))
    assert copied(train[:25], train, fresh).share == 1
    others = torch.from_numpy(rng.standard_normal((400, 9)))
    assert abs(copied(others, train, fresh).z) < 4


def test_too_little_to_compare_is_refused(rng):
    with pytest.raises(ValueError, match="at least two rows"):
        frechet_distance(rng.random((1, 3)), rng.random((5, 3)))
    with pytest.raises(ValueError, match=r"\(5, 3\), \(5, 4\)"):
        frechet_distance(rng.random((5, 3)), rng.random((5, 4)))
    with pytest.raises(ValueError, match="held-out"):
        copied(torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(0, 2))
