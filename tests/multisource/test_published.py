import pytest

from core.multisource.published import (
    FIGURE_1,
    SEEDS,
    mean_of_seeds,
    measure,
    measure_point_by_point,
    settings,
)


@pytest.mark.parametrize("panel", ["K", "n", "beta_sim"])
def test_the_figures_numbers_come_out_again(panel):
    """To 1e-6: the numbers are given to six places, and the code rounds in float32."""
    for setting, published in zip(settings()[panel], FIGURE_1[panel], strict=True):
        assert mean_of_seeds(setting) == pytest.approx(published, abs=1e-6)


def test_point_by_point_is_the_same():
    setting = settings()["K"][1]
    assert measure_point_by_point(setting, SEEDS[0]) == pytest.approx(
        measure(setting, SEEDS[0]), abs=1e-6
    )


def test_a_source_without_a_sample_is_refused():
    from core.multisource.gaussians import Setting

    with pytest.raises(ValueError, match="without data"):
        measure(Setting(40, 40), 0)
