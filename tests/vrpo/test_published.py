from math import sqrt

import numpy as np
import pytest
from scipy import stats

from core.vrpo import published
from core.vrpo.exact import VarianceSplit


def test_the_gains_of_the_abstract_are_those_of_table_1():
    abstract = {"GSM8K": 4.7, "HumanEval": 3.0, "MBPP": 1.8, "IFEval": 4.0, "Arena-Hard": 4.3}
    gains = published.gains()
    assert {task: gains[task] for task in abstract} == abstract


def test_two_rows_of_results_are_listed_by_task():
    told = published.listed(published.TABLE_1["LLaDA Instruct"], published.TABLE_1["LLaDA 1.5"])
    assert told.startswith("GSM8K 78.6 to 83.3, Math 42.2 to 42.6, ")
    assert told.endswith(", MTBench 7.2 to 7.3")
    assert told.count(" to ") == 9
    with pytest.raises(ValueError, match="shorter"):
        published.listed((78.6,), published.TABLE_1["LLaDA 1.5"])


def test_the_printed_intervals_are_those_of_means_and_deviations():
    for row in published.TABLE_5.values():
        half = stats.t.ppf(0.975, 3 - 1) * row.deviation / sqrt(3)  # Student's, of three trainings
        # 2.48 times a deviation that is printed to 0.05, and the printing of mean and end
        assert row.high - row.mean == pytest.approx(half, abs=2.48 * 0.05 + 0.1)
        assert row.mean - row.low == pytest.approx(half, abs=2.48 * 0.05 + 0.1)


def test_three_of_six_intervals_lie_above_the_baseline():
    assert published.decided_by_seeds() == ["GSM8K", "HumanEval", "IFEval"]


def test_the_share_of_pre_training_grows_with_the_use_of_the_gpus():
    """405 hours at the peak of 989 TFLOP/s are 1.44e21; 6 N D with 2.3e12 tokens is 1.107e23."""
    assert published.compute_share(1.0) == pytest.approx(1.44e21 / 1.107e23, rel=0.01)
    assert published.compute_share(0.25) == pytest.approx(published.compute_share(1.0) / 4)


def test_a_table_that_obeys_lemma_5_is_consistent():
    """The bounds, on variances that are made by the lemma."""
    for parts in ((3.0, 5.0), (0.0, 2.0), (7.0, 0.0)):
        split = VarianceSplit(*np.array(parts))
        one = split.estimate(1)
        assert 4 * split.estimate(4) == pytest.approx(one)
        assert split.estimate(1, 4) <= one <= 4 * split.estimate(1, 4)
        two = split.estimate(2, 2)
        assert 2 * two <= one + 1e-12 <= 4 * two + 1e-9


def test_the_printed_cell_of_one_draw_is_outside_what_every_other_cell_forces():
    forced = published.forced_variances()
    # a tenth is granted for rounding
    assert not any(0.9 * f.low <= f.printed <= 1.1 * f.high for f in forced.values())
    assert forced["(4, 1)"].printed / forced["(4, 1)"].high == pytest.approx(5, rel=0.01)


def test_two_cells_do_not_fix_the_split():
    ratios = [V_t / V_y for V_t, V_y in published.splits_from_two_cells().values()]
    assert min(ratios) < 0 < 5 < max(ratios)
    for cells, parts in published.splits_from_two_cells().items():
        split = VarianceSplit(*np.array(parts))
        for key in cells:
            assert split.estimate(*key) == pytest.approx(published.cell(*key).score)


def test_without_noise_the_fit_is_one_fit():
    found = published.split_under_noise(0.0, np.random.default_rng(0), runs=3)
    np.testing.assert_allclose(found, [found[0]] * 3)
    np.testing.assert_allclose(found[0], [7.6, 0.94], rtol=0.02)
