"""Figures compared: what an eye sees counts, and what it does not see does not."""

import pytest

from core.batch.figures import TOLERANCE, differences


def panel(y="1 2 3", *, scale="linear", span="0 10", title="", label="y", **series):
    axes = {"y": {"label": label, "scale": scale, "range": span}}
    line = {"kind": "line", "n": len(y.split()), "y": y, **series}
    return {"title": title, "axes": axes, "series": [line]}


def told(before, after, **options):
    return [str(found) for found in differences([before], [after], **options)]


@pytest.mark.parametrize(
    ("y", "moved"), [("1 2 3.09", False), ("1 2 3.11", True), ("1 1.89 3", True), ("1 2 nan", True)]
)
def test_a_hundredth_of_the_axis_is_seen(y, moved):
    assert TOLERANCE == 0.01
    assert bool(told(panel(), panel(y))) == moved


def test_it_names_what_moved_most():
    before, after = panel("1 2 3", label="loss"), panel("1 5 4", label="loss")
    assert told(before, after) == ["line of 3, y: 2 -> 5 (30% of the axis)"]


def test_each_series_has_its_line_and_each_panel_its_number():
    two = panel() | {
        "series": [panel()["series"][0], panel(label="b")["series"][0] | {"y": "7 7 7"}]
    }
    other = panel() | {"series": [{**line, "y": "0 0 0"} for line in two["series"]]}
    found = [str(one) for one in differences([panel(), two], [panel(), other])]
    assert [line.partition(",")[0] for line in found] == ["panel 2", "panel 2"]


def test_on_a_logarithmic_axis_a_factor_is_a_distance():
    log = {"scale": "log", "span": "1e-8 1e2"}
    assert not told(panel("1e-6", **log), panel("1.2e-6", **log))
    assert told(panel("1e-6", **log), panel("1.3e-6", **log))  # a tenth of a decade of ten
    linear = {"span": "1e-8 1e2"}
    assert not told(panel("1e-6", **linear), panel("1e-3", **linear))


def test_what_lies_outside_of_the_axis_is_at_its_edge():
    assert not told(panel("50"), panel("1e30"))
    assert not told(panel("inf"), panel("99"))
    assert told(panel("-5"), panel("5"))
    log = {"scale": "log", "span": "1e-8 1"}
    assert not told(panel("0", **log), panel("1e-17", **log))


def test_an_axis_may_run_downward():
    down = {"span": "10 0"}
    assert told(panel("3", **down), panel("4", **down))
    assert not told(panel("3", **down), panel("3.05", **down))


def test_on_an_axis_of_no_length_only_the_same_is_the_same():
    point = {"span": "2 2"}
    assert not told(panel("2", **point), panel("2", **point))
    assert told(panel("2", **point), panel("2.00001", **point))


def test_what_is_left_out_is_seen_in_the_quantiles():
    before = panel("1 2 3", quantiles="1 2 3")
    assert told(before, panel("1 2 3", quantiles="1 2 8")) == [
        "line of 3, quantiles of y: 3 -> 8 (50% of the axis)"
    ]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (panel(title="new"), "title:  -> new"),
        (panel(label="z"), "y: y, linear -> z, linear"),
        (panel(scale="log"), "y: y, linear -> y, log"),
        (panel("1 2"), "series: line of 3 -> line of 2"),
        (panel("1 2 3") | {"series": []}, "series: line of 3 -> none"),
        (panel(kind="bars"), "series: line of 3 -> bars of 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_figure_is_no_figure_that_moved(other, said):
    assert told(panel(), other) == [said]


def test_panels_are_counted():
    assert [str(one) for one in differences([panel()], [])] == ["panels: 1 -> 0"]


def test_the_tolerance_can_be_asked_for():
    assert not told(panel("1 2 3"), panel("1 2 4"), tolerance=0.2)
    assert told(panel("1 2 3"), panel("1 2 3.001"), tolerance=0)
