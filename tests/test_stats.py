"""Student's interval: that of scipy's test, as wide as it says, and honest about one value."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from core.stats import half_width, student


@pytest.mark.parametrize("N", [2, 3, 17])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_is_that_of_the_t_test(rng, N, confidence):
    values = rng.standard_normal(N)
    theirs = ttest_1samp(values, 0).confidence_interval(confidence)
    ours = student(values, confidence)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert ours.mean == pytest.approx(np.mean(values))


def test_of_two_values_it_is_known_in_closed_form():
    # one degree of freedom is Cauchy's distribution, and its quantile a tangent
    t = math.tan(math.pi * 0.475)
    assert student([1.0, 3.0]) == pytest.approx((2.0, t))  # s = sqrt(2)
    assert half_width(5.0, 2) == pytest.approx(t * 5 / math.sqrt(2))


def test_it_covers_as_often_as_it_says(rng):
    hits = [(f := student(rng.normal(2, 3, 4))).low <= 2 <= f.high for _ in range(2000)]
    assert np.mean(hits) == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 2000))


def test_one_value_is_not_certain():
    found = student([3.5])
    assert found == (3.5, math.inf)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert half_width(0.0, 1) == math.inf


def test_values_that_are_all_the_same_have_a_point():
    assert student([3.5, 3.5]) == (3.5, 0.0)


@pytest.mark.parametrize("values", [[], 1.0, [[1.0, 2.0]]])
def test_what_is_no_row_of_values_is_refused(values):
    with pytest.raises(ValueError, match=r"want values \[N\], one or more"):
        student(values)
