import numpy as np
import pytest

from core.checks import at_least


def test_an_integer_of_any_kind_passes():
    at_least(1, d=1, N=np.int64(3))
    at_least(-2, shift=-2)


@pytest.mark.parametrize(
    ("count", "came"),
    [
        (0, "got N = 0"),
        (np.int64(0), "got N = 0"),
        (2.0, "got N = 2.0"),
        (float("nan"), "got N = nan"),
        (True, "got N = True"),
        (np.True_, "got N = True"),
        ("7", "got N = '7'"),
        (None, "got N = None"),
        (np.ones((2, 3), dtype=int), r"got N = an array \[2, 3\] that is not"),
    ],
    ids=repr,
)
def test_what_is_no_count_is_refused_and_said(count, came):
    with pytest.raises(ValueError, match=rf"^want N >= 1, an integer, {came}$"):
        at_least(1, N=count)


def test_the_reason_stands_beside_what_is_wanted():
    with pytest.raises(ValueError, match=r"^want K >= 2, an integer \(one is alone\), got K = 1$"):
        at_least(2, because="one is alone", n=5, K=1)
