import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

from core.lab import COLOURS, figure, heat_maps


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def luminance(colour):
    """Relative luminance of WCAG 2.1, from the definition."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize(("columns", "width"), [(1, 6), (2, 9), (3, 9)])
def test_a_figure_has_its_panels_and_the_width_of_the_page(columns, width):
    fig, axes = figure(columns, height=3)
    assert len(axes) == columns
    assert tuple(fig.get_size_inches()) == (width, 3)


def test_a_figure_stays_readable_on_a_dark_page():
    fig, (ax,) = figure()
    assert fig.get_facecolor() == ax.get_facecolor() == (1, 1, 1, 1)


def test_a_figure_has_no_box_around_it():
    _, (ax,) = figure()
    assert not ax.spines["top"].get_visible()
    assert not ax.spines["right"].get_visible()


@pytest.mark.parametrize("name", ["exact", "measured", "limit", "paper"])
def test_the_main_inks_stand_out_from_white(name):
    """Three to one is what WCAG 2.1 asks of graphics (1.4.11)."""
    assert 1.05 / (luminance(COLOURS[name]) + 0.05) >= 3


def test_unnamed_lines_take_named_colours():
    figure()
    cycle = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert set(cycle) == set(COLOURS.values())


@pytest.mark.parametrize(
    "wrong", [{"columns": 0}, {"height": 0}, {"height": float("nan")}], ids=str
)
def test_an_impossible_figure_is_refused(wrong):
    with pytest.raises(ValueError, match="columns >= 1 and height > 0"):
        figure(**wrong)


def test_the_lab_costs_nothing_until_used():
    heavy = "{'matplotlib', 'IPython', 'myst_nb', 'numpy', 'torch'}"
    code = f"import sys, core.lab; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_heat_maps_share_one_scale_about_zero():
    heat_maps({"small": [[0.0, 1.0]], "large": [[-4.0, 2.0]]})
    scales = [ax.images[0].get_clim() for ax in plt.gcf().axes if ax.images]
    assert scales[:2] == [(-4.0, 4.0), (-4.0, 4.0)]


def test_on_a_log_scale_an_exact_zero_stays_blank():
    heat_maps({"sizes": [[0.0, -1e-3], [10.0, 1e-300]]}, log=True)
    image = np.ma.asarray(plt.gcf().axes[0].images[0].get_array())
    assert np.ma.getmaskarray(image).tolist() == [[True, False], [False, False]]
    assert image[0, 1] == 1e-3


@pytest.mark.parametrize("bad", [{}, {"nan": [[float("nan")]]}])
def test_heat_maps_refuse_what_has_no_colour(bad):
    with pytest.raises(ValueError, match="want finite matrices"):
        heat_maps(bad)
