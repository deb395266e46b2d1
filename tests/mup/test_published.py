from itertools import pairwise
from math import inf, isfinite

import pytest

from core.mup import published


def test_the_default_arm_is_one_set_of_runs_read_three_times():
    setting = published.Setting()
    arms = [
        next(s for s in published.sweeps(panel) if s.at == at)
        for panel, at in (
            ("width", setting.width),
            ("batch", setting.batch),
            ("iterations", setting.iterations),
        )
    ]
    for readings in zip(*(arm.fid for arm in arms), strict=True):
        exploded = {isfinite(fid) for fid in readings}
        assert len(exploded) == 1
        if exploded == {True}:
            assert max(readings) - min(readings) <= arms[0].error + 1e-9


def test_more_width_more_batch_and_more_training_help_at_every_rate():
    """An order that no single misread point would keep."""
    for panel in ("width", "batch", "iterations"):
        rows = published.sweeps(panel)
        for low, high in pairwise(rows):
            finite = [(a, b) for a, b in zip(low.fid, high.fid, strict=True) if isfinite(b)]
            assert low.at < high.at
            assert all(a > b for a, b in finite)


def test_the_optimum_is_two_to_the_minus_ten_in_seven_of_nine():
    best = [sweep.best for sweep in published.FIGURE_3]
    assert best.count(-10) == 7
    assert {(s.panel, s.at): s.best for s in published.FIGURE_3 if s.best != -10} == {
        ("batch", 128): -11,
        ("iterations", 100_000): -9,
    }


def test_six_of_nine_optima_are_at_the_edge_of_what_could_be_seen():
    free = [(s.panel, s.at) for s in published.FIGURE_3 if not s.censored]
    assert free == [("batch", 128), ("batch", 512), ("iterations", 150_000)]


def test_what_exploded_is_larger_than_any_fid():
    exploded = [fid for sweep in published.FIGURE_3 for fid in sweep.fid if not isfinite(fid)]
    assert exploded == [inf] * 6  # a NaN would have no place in an order
    assert all(len(sweep.fid) == len(published.LOG2_RATES) for sweep in published.FIGURE_3)


def test_a_panel_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="width, batch and iterations, got 'depth'"):
        published.sweeps("depth")


def test_epochs_and_iterations_of_the_readme_agree():
    run = published.FinalRun()
    assert run.millions(run.epochs) == pytest.approx(2.4, rel=2e-3)
    assert run.millions(run.baseline_epochs) == pytest.approx(7.0, rel=2e-3)
    assert run.millions(40) == pytest.approx(published.Setting().iterations / 1e6, rel=2e-3)
    assert run.heads * published.Setting().head_dim == run.width
    assert run.hidden_rate == pytest.approx(2.44e-4, rel=1e-3)


def test_the_final_curves_fall_and_mup_is_below_throughout():
    base, mup = published.DIT_XL_2, published.DIT_XL_2_MUP
    assert sorted(base.fid, reverse=True) == list(base.fid)
    assert sorted(mup.fid, reverse=True) == list(mup.fid)
    assert base.millions[:6] == mup.millions
    assert all(m < b for m, b in zip(mup.fid, base.fid, strict=False))


def test_steps_and_epochs_of_pixart_give_one_data_set():
    """Eleven million images are said of SA-1B."""
    p = published.PixArt()
    proxy = p.proxy_batch * p.proxy_steps / p.proxy_epochs
    target = p.target_batch * p.target_steps / p.target_epochs
    assert proxy == pytest.approx(target, rel=0.02)
    assert proxy == pytest.approx(11e6, rel=0.02)


def test_every_metric_of_the_large_runs_is_better_under_mup():
    for table in (published.PIXART_AFTER_30_EPOCHS, published.MMDIT_18B):
        for metric, (before, after) in table.items():
            assert (after < before) == metric.startswith("FID")
