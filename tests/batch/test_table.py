"""The table of many runs, and what is drawn from it, against pandas and formulas by hand."""

import copy
import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.special import stdtrit
from tiny_book import batch

from core.batch.plot import BLUE, groups_of, mean, plot_shares, plot_values, share
from core.batch.table import as_csv, numbers_in, rows_of, write_table
from core.command import Refused


@pytest.fixture(scope="module")
def runs(once):
    """Six made-up runs: two rates, three seeds each; one verdict differs."""
    good = json.loads((once / "book" / "tiny.json").read_text())
    good["provenance"]["commit"] = "c" * 40
    found = []
    for rate in (1.0, 2.0):
        for seed in range(3):
            record = copy.deepcopy(good)
            record["seed"] = record["parameters"]["seed"] = seed
            record["parameters"]["rate"] = rate
            record["claims"][0]["here"] = f"{rate * 10 + seed}, as asked"
            found.append((f"key{rate}{seed}", record))
    found[-1][1]["claims"][0]["verdict"] = "not seen"
    return found


@pytest.fixture(scope="module")
def rows(runs):
    return list(rows_of(runs))


def test_a_row_is_a_claim_of_a_run(rows):
    table = pd.read_csv(io.StringIO(as_csv(rows)))
    assert list(table.columns[:7]) == [
        *("chapter", "scale", "seed"),
        *("parameter.device", "parameter.name", "parameter.rate", "parameter.widths"),
    ]
    assert list(table["seed"]) == [0, 1, 2] * 2
    assert list(table["value"]) == [10.0, 11.0, 12.0, 20.0, 21.0, 22.0]
    assert set(table["parameter.widths"]) == {"[1, 2]"}
    assert list(table["verdict"]) == ["holds"] * 5 + ["not seen"]


def test_parquet_holds_the_same(rows, tmp_path):
    write_table(rows, tmp_path / "a.parquet")
    write_table(rows, tmp_path / "a.csv")
    parquet = pd.read_parquet(tmp_path / "a.parquet")
    text = pd.read_csv(tmp_path / "a.csv", dtype={"here": str, "paper": str})
    pd.testing.assert_frame_equal(parquet, text, check_dtype=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.parquet"]


def test_chapters_of_other_parameters_share_a_table(runs, tmp_path):
    other = copy.deepcopy(runs[0][1])
    other |= {
        "chapter": "other",
        "claims": [],
        "parameters": {"rate": "fast", "T": 8},
        "seed": None,
    }
    write_table(list(rows_of([*runs, ("k", other)])), tmp_path / "a.parquet")
    last = pd.read_parquet(tmp_path / "a.parquet").iloc[-1]
    assert (last["chapter"], last["parameter.rate"], last["parameter.T"]) == ("other", "fast", 8)
    assert last[["claim", "value", "seed", "parameter.name"]].isna().all()


@pytest.mark.parametrize(("name", "said"), [("a.txt", ".csv or .parquet"), ("no/a.csv", "No such")])
def test_a_table_that_cannot_be_written_is_refused(rows, tmp_path, name, said):
    with pytest.raises(Refused, match=said):
        write_table(rows, tmp_path / name)


@pytest.mark.parametrize(
    ("here", "numbers"),
    [
        ("0.1919 at T = 100", [0.1919, 100]),
        ("within 7e-13, relative", [7e-13]),
        ("counts 1,000 sequences", [1000]),
        ("-2.0% ± 3.6%", [-2.0, 3.6]),
        ("W3 beside +0.02", [0.02]),
        ("needs that card", []),
        (None, []),
    ],
)
def test_the_numbers_of_a_text(here, numbers):
    assert numbers_in(here) == numbers


def test_a_value_is_drawn_only_where_it_is_clear_which(rows):
    said = "at T = {seed} it is {seed}.5"
    several = [{**row, "here": said.format(seed=row["seed"]), "value": None} for row in rows]
    with pytest.raises(Refused, match=r"--number among the numbers of .*: 1: 0, 2: 0.5"):
        plot_values(several, "tiny-e1")
    with pytest.raises(Refused, match=r"1: 0, 2: 0.5"):
        plot_values(several, "tiny-e1", 3)
    (axes,) = plot_values(several, "tiny-e1", 2).axes
    dots = [np.array(line.get_xdata()) for line in axes.lines if line.get_color() == "black"]
    assert np.array(dots).tolist() == [[0.5, 1.5, 2.5]] * 2


def test_groups_differ_in_more_than_the_seed(rows):
    assert [(g.label, g.claim, len(g.rows)) for g in groups_of(rows)] == [
        ("rate=1.0", "tiny-e1", 3),
        ("rate=2.0", "tiny-e1", 3),
    ]


def test_the_interval_of_a_share_is_wilsons(rows):
    n, p, z = 6, 5 / 6, 1.959963984540054
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert share(rows) == pytest.approx((p, middle - half, middle + half))


def test_the_interval_of_a_mean_is_students():
    half = stdtrit(2, 0.975) * 1.0 / math.sqrt(3)  # the standard deviation of 10, 11, 12 is one
    assert mean([10.0, 11.0, 12.0]) == pytest.approx((11.0, 11.0 - half, 11.0 + half))
    assert mean([3.5]) == (3.5, -math.inf, math.inf)
    assert mean([3.5, 3.5]) == (3.5, 3.5, 3.5)


def test_figures_show_what_was_computed(rows):
    (axes,) = plot_shares(rows).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "tiny-e1 rate=1.0 (3)",
        "tiny-e1 rate=2.0 (3)",
    ]
    (axes,) = plot_values(rows, "tiny-e1").axes
    dots = [np.array(line.get_xdata()) for line in axes.lines if line.get_color() == "black"]
    assert np.array(dots).tolist() == [[10.0, 11.0, 12.0], [20.0, 21.0, 22.0]]


def test_a_mean_of_one_run_is_not_drawn_as_if_it_were_sure(rows):
    less = [row for row in rows if row["parameter.rate"] == 1.0 or row["seed"] == 0]
    for drawn, styles in ((rows, ["full", "full"]), (less, ["full", "none"])):
        figure = plot_values(drawn, "tiny-e1")
        blue = [line for line in figure.axes[0].lines if line.get_color() == BLUE]
        assert [line.get_fillstyle() for line in blue if line.get_marker() == "o"] == styles
        assert ("hollow: of one run" in figure.get_supxlabel()) == ("none" in styles)


def test_a_claim_that_is_not_there_is_refused(rows):
    with pytest.raises(Refused, match="no run has the claim 'tiny-e9': there are tiny-e1"):
        plot_values(rows, "tiny-e9")


def test_there_may_be_nothing_to_draw(book):
    (book / "out").mkdir()
    (book / "out" / "format.json").write_text('{"format": 1}')
    ended = batch(book, "plot", "out")
    assert (ended.returncode, ended.stderr) == (2, "refused: out: no result with a claim to draw\n")
