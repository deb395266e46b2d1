"""Claims over seeds, as figures: how often a verdict comes out, and by how much a value varies."""

from itertools import groupby
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

from scipy import stats

from core.batch.table import Row, numbers_in
from core.command import Refused
from core.stats import student

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIDENCE = 0.95
BLUE = "#0072B2"


class Estimate(NamedTuple):
    """A mean with its 95 % interval; of one value that has no ends."""

    at: float
    low: float
    high: float

    @property
    def open(self) -> bool:
        """Return whether nothing is known of how sure it is."""
        return not isfinite(self.high - self.low)


class Group(NamedTuple):
    """Runs that differ in their seed alone, seen at one claim."""

    label: str
    claim: str
    rows: list[Row]


def groups_of(rows: list[Row]) -> list[Group]:
    """Return the rows by claim and setting; the label names what settings differ in."""
    rows = [row for row in rows if row["claim"] is not None]
    varied = [name for name in _settings(rows) if len({str(row.get(name)) for row in rows}) > 1]

    def place(row: Row) -> tuple[str, ...]:
        return row["chapter"], row["claim"], *(str(row.get(name)) for name in varied)

    found = [list(group) for _, group in groupby(sorted(rows, key=place), place)]
    return [Group(_label(group[0], varied), group[0]["claim"], group) for group in found]


def share(rows: list[Row]) -> Estimate:
    """Return in which share of runs the verdict is the expected one, with Wilson's interval."""
    as_expected = sum(row["verdict"] == row["expected"] for row in rows)
    tried = stats.binomtest(as_expected, len(rows))
    low, high = tried.proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(as_expected / len(rows), low, high)


def mean(values: list[float]) -> Estimate:
    """Return the mean with Student's interval."""
    found = student(values, CONFIDENCE)
    return Estimate(found.mean, found.low, found.high)


def plot_shares(rows: list[Row]) -> "Figure":
    """Draw, for each claim, in which share of runs its verdict came out as expected."""
    groups = groups_of(rows)
    labels = [f"{g.claim} {g.label}".strip() + f" ({len(g.rows)})" for g in groups]
    figure = _intervals([share(group.rows) for group in groups], labels)
    (axes,) = figure.axes
    figure.supxlabel("share of runs with the expected verdict, 95 % interval", size="medium")
    axes.set_xlim(-0.02, 1.02)
    return figure


def plot_values(rows: list[Row], claim: str, number: int | None = None) -> "Figure":
    """Draw a number of what came out for one claim: each seed, and their mean.

    A mean of one run is hollow: it has no interval.

    Args:
        rows: of the table.
        claim: its id.
        number: which one in its text, from 1; None: the only one.

    Raises:
        Refused: no run has the claim, or its text does not say which number is meant.
    """
    groups = [group for group in groups_of(rows) if group.claim == claim]
    if not groups:
        known = ", ".join(sorted({row["claim"] for row in rows if row["claim"]})) or "none"
        raise Refused(f"no run has the claim {claim!r}: there are {known}")
    found = [[number_of(claim, r["here"], number) for r in group.rows] for group in groups]
    labels = [group.label or group.rows[0]["scale"] for group in groups]
    means = [mean(values) for values in found]
    figure = _intervals(means, labels)
    (axes,) = figure.axes
    for height, values in enumerate(found):
        axes.plot(values, [height] * len(values), "o", color="black", alpha=0.3, markersize=4)
    which = claim if number is None else f"{claim}, number {number}"
    hollow = " (hollow: of one run, none)" if any(each.open for each in means) else ""
    told = f"{which}: each run, and their mean with 95 % interval{hollow}"
    figure.supxlabel(told, size="medium")
    return figure


def number_of(claim: str, here: str, number: int | None) -> float:
    """Return a number of what came out, counted from 1; None: the only one.

    Raises:
        Refused: there is no such number, or there are several and none is chosen.
    """
    numbers = numbers_in(here)
    if number is None and len(numbers) == 1:
        return numbers[0]
    if number is not None and 1 <= number <= len(numbers):
        return numbers[number - 1]
    listed = ", ".join(f"{i}: {value:g}" for i, value in enumerate(numbers, 1)) or "none"
    raise Refused(f"claim {claim}: choose with --number among the numbers of {here!r}: {listed}")


def _intervals(estimates: list[Estimate], labels: list[str]) -> "Figure":
    from matplotlib.figure import Figure  # half a second

    figure = Figure(figsize=(7, 1.2 + 0.3 * len(labels)), layout="constrained")
    axes = figure.subplots()
    for height, each in enumerate(estimates):
        if not each.open:
            axes.plot([each.low, each.high], [height, height], color=BLUE, linewidth=2)
        axes.plot(each.at, height, "o", color=BLUE, fillstyle="none" if each.open else "full")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _settings(rows: list[Row]) -> list[str]:
    names = {name for row in rows for name in row if name.startswith("parameter.")}
    return ["scale", *sorted(names)]


def _label(row: Row, varied: list[str]) -> str:
    shown = {name.removeprefix("parameter."): row.get(name) for name in varied}
    return " ".join(f"{name}={value}" for name, value in shown.items() if value is not None)
