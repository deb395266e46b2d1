"""What is kept of a figure, against the numbers that were drawn."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import LogNorm

from core.batch.records import schema
from core.lab import figure, heat_maps
from core.lab.figure_numbers import FEWEST, KEPT, POINTS, numbers_of, series_of


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def kept(fig):
    """The series of a figure of one panel, its numbers read back."""
    (panel,) = numbers_of(fig)
    return [
        {key: np.array(text.split(), float) if key in NUMBERS else text for key, text in s.items()}
        for s in panel["series"]
    ]


NUMBERS = ("x", "y", "colour", "quantiles")


def drawn(draw):
    fig, (ax,) = figure()
    draw(ax)
    return kept(fig)


CASES = {
    "line": (lambda ax: ax.plot([1, 2, 3], [4, np.nan, 6]), [1, 2, 3], [4, np.nan, 6]),
    "points": (lambda ax: ax.scatter([1, 2], [3, 4]), [1, 2], [3, 4]),
    "bars": (lambda ax: ax.bar([1, 2], [3, 5], width=1), [0.5, 1.5, 1.5, 2.5], [0, 3, 0, 5]),
    "segments": (lambda ax: ax.hlines([7, 8], 1, 2), [1, 2, 1, 2], [7, 7, 8, 8]),
    "area": (
        lambda ax: ax.fill_between([1, 2], [3, 3], [4, 5]),
        [1, 1, 2, 2, 2, 1, 1],
        [4, 3, 3, 5, 5, 4, 4],
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_what_was_drawn_is_kept(kind):
    draw, x, y = CASES[kind]
    (series,) = drawn(draw)
    assert series["kind"] == kind
    assert series["n"] == len(x)
    assert set(zip(series["x"], map(str, series["y"]), strict=True)) == set(
        zip(x, map(str, np.array(y, float)), strict=True)
    )


def test_error_bars_are_kept_with_their_ends():
    points, bars = drawn(lambda ax: ax.errorbar([1, 2], [3, 4], yerr=0.5))
    assert points["y"].tolist() == [3, 4]
    assert sorted(bars["y"]) == [2.5, 3.5, 3.5, 4.5]


def test_a_line_from_edge_to_edge_has_no_place_along_it():
    across, up, band = drawn(lambda ax: [ax.axhline(2), ax.axvline(3), ax.axhspan(4, 5)])
    assert across["y"].tolist() == [2, 2]
    assert up["x"].tolist() == [3, 3]
    assert band["y"].tolist() == [4, 5]
    assert "x" not in across
    assert "y" not in up
    assert "x" not in band


def test_what_is_not_in_the_units_of_the_data_is_left_out():
    assert drawn(lambda ax: ax.plot([0, 1], [0, 1], transform=ax.transAxes)) == []
    assert drawn(lambda ax: ax.plot([], [], label="only in the legend")) == []


def test_the_label_is_that_of_the_legend():
    named, nameless = drawn(lambda ax: [ax.plot([1], [1], label="exact"), ax.plot([1], [1])])
    assert named["label"] == "exact"
    assert "label" not in nameless


def test_a_panel_says_how_its_axes_place_numbers():
    fig, axes = figure(2)
    axes[0].plot([1, 10], [1, 2])
    axes[0].set(title="left", xlabel="n", xscale="log", ylim=(0, 4))
    left, right = numbers_of(fig)
    assert (left["title"], right["title"]) == ("left", "")
    assert (left["axes"]["x"]["label"], left["axes"]["x"]["scale"]) == ("n", "log")
    assert left["axes"]["y"]["range"] == "0 4"


def test_an_image_is_kept_by_its_colours_and_a_bar_of_colour_is_no_panel():
    heat_maps({"a": [[0.0, -1.0], [2.0, 4.0]], "b": [[0.5]]}, log=True)
    a, b = numbers_of(plt.gcf())
    assert a["series"] == [{"kind": "image", "n": 4, "colour": "nan 1 2 4"}]
    assert a["axes"]["colour"] == {"label": "", "scale": "log", "range": "0.5 4"}
    assert b["title"] == "b"


def test_a_mesh_and_points_of_many_colours_are_kept_by_their_colours():
    (mesh,) = drawn(lambda ax: ax.pcolormesh([[1.0, 10.0]], norm=LogNorm()))
    assert (mesh["kind"], mesh["colour"].tolist()) == ("image", [1, 10])
    (points,) = drawn(lambda ax: ax.scatter([1, 2], [3, 4], c=[0.1, 0.2]))
    assert (points["y"].tolist(), points["colour"].tolist()) == ([3, 4], [0.1, 0.2])


def test_of_a_long_series_points_at_even_steps_and_quantiles_are_kept():
    rng = np.random.default_rng(0)
    y = rng.standard_normal(2401)
    series = series_of("line", "", {"x": np.arange(2401), "y": y})
    x = np.array(series["x"].split(), float)
    assert series["n"] == 2401
    assert len(x) == KEPT
    assert set(np.diff(x)) == {2400 / (KEPT - 1)}
    np.testing.assert_allclose(np.array(series["y"].split(), float), y[x.astype(int)], rtol=1e-5)
    spread = np.array(series["quantiles"].split(), float)
    np.testing.assert_allclose(spread[[0, 4, -1]], [y.min(), np.median(y), y.max()], rtol=1e-5)


def test_a_panel_of_many_lines_stays_small():
    fig, (ax,) = figure()
    for i in range(400):
        ax.plot(np.linspace(0, np.pi * i, 200))
    (panel,) = numbers_of(fig)
    assert {len(series["x"].split()) for series in panel["series"]} == {FEWEST}
    assert len(json.dumps(panel)) < 50 * POINTS


def test_numbers_have_six_digits():
    assert (
        series_of("line", "", {"y": [1 / 3, 1e-9, 123456789]})["y"] == "0.333333 1e-09 1.23457e+08"
    )


def test_the_kinds_are_those_of_the_schema():
    kinds = schema()["$defs"]["panel"]["properties"]["series"]["items"]["properties"]["kind"]
    assert {*CASES, "image", "clip"} == set(kinds["enum"])
