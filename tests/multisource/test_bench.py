"""The bench's parts; its numbers are printed, not tested."""

import math

from core.multisource import bench
from core.multisource.published import settings


def test_the_study_has_the_figures_settings_and_two_more():
    assert len(bench.study()) == 17
    assert bench.study()[:15] == [s for panel in settings().values() for s in panel]


def test_small_comparisons_have_finite_numbers():
    for found in (bench.tree(D=6, K=2), bench.networks(K=2, steps=1, rounds=1)):
        assert all(math.isfinite(float(value)) for value in found.values())
        assert all(float(value) > 0 for value in found.values())
