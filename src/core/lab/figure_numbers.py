"""The numbers that a figure shows, small enough to be kept beside it.

A series is a line, a cloud of points, bars, segments, an area or an image. Its numbers are text,
separated by blanks, with six digits: `"0.5 1 nan"`; so a series is one line of a file, and a
notebook that is compared shows one changed line for it. Up to `KEPT` points are kept as they are.
Of more, that many at even steps and the quantiles of the values, from the lowest to the highest;
still fewer where a panel has so many series that they would be more than `POINTS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import Collection, PathCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from matplotlib.axes import Axes
    from matplotlib.patches import Patch
    from matplotlib.transforms import Transform
    from numpy.typing import ArrayLike, NDArray

Series = dict[str, Any]
Drawn = tuple[str, object, dict[str, "ArrayLike"]]
"""Kind, label, and axis -> numbers."""
KEPT, FEWEST = 25, 3
QUANTILES = 9
POINTS = 1000


class NumberedFigure(Figure):
    """A figure whose output carries, as metadata, the numbers behind it."""

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple:
        """Return no picture, which is drawn as ever, and the numbers as metadata."""
        return {}, {"core": {"figure": numbers_of(self)}}


def numbers_of(fig: Figure) -> list[dict[str, Any]]:
    """Return the panels of a figure, bars of colour left out.

    Returns:
        For each panel its `title`, its `axes` (`x`, `y` and, where colour has a scale, `colour`,
        each with `label`, `scale` and `range`) and its `series`: `kind`, `label` if it has one,
        how many points it has, `n`, and their numbers by the name of the axis.
    """
    return [_panel(ax) for ax in fig.axes if ax.get_label() != "<colorbar>"]


def series_of(
    kind: str, label: object, numbers: Mapping[str, ArrayLike], kept: int = KEPT
) -> Series:
    """Return one series.

    Args:
        kind: what is drawn.
        label: its name in the legend; one that begins with `_` is none.
        numbers: axis -> `[n]` numbers, of one length; the last one's quantiles are kept.
        kept: how many points at most.
    """
    columns = {name: _filled(values) for name, values in numbers.items()}
    *_, values = columns.values()
    named = {} if str(label).startswith("_") or not label else {"label": str(label)}
    series: Series = {"kind": kind, **named, "n": len(values)}
    if len(values) <= kept:
        return series | {name: _text(column) for name, column in columns.items()}
    at = np.linspace(0, len(values) - 1, kept).round().astype(int)
    there = values[~np.isnan(values)]
    spread = np.quantile(there, np.linspace(0, 1, min(kept, QUANTILES))) if len(there) else there
    series |= {name: _text(column[at]) for name, column in columns.items()}
    return series | {"quantiles": _text(spread)}


def axis_of(label: str, scale: str, limits: tuple[float, float]) -> dict[str, str]:
    """Return how an axis places numbers."""
    return {"label": label, "scale": scale, "range": _text(np.array(limits, dtype=float))}


def _panel(ax: Axes) -> dict[str, Any]:
    axes = {
        "x": axis_of(ax.get_xlabel(), ax.get_xscale(), ax.get_xlim()),
        "y": axis_of(ax.get_ylabel(), ax.get_yscale(), ax.get_ylim()),
    }
    coloured = [c for c in (*ax.images, *ax.collections) if c.get_array() is not None]
    if coloured:
        scale = "log" if type(coloured[0].norm).__name__ == "LogNorm" else "linear"
        axes["colour"] = axis_of("", scale, coloured[0].get_clim())
    drawn = list(_drawn(ax))
    kept = max(FEWEST, min(KEPT, POINTS // max(1, len(drawn))))
    series = [s for s in (series_of(*one, kept) for one in drawn) if s["n"]]
    return {"title": ax.get_title(), "axes": axes, "series": series}


def _drawn(ax: Axes) -> Iterator[Drawn]:
    for line in ax.lines:
        xy = np.column_stack(line.get_data(orig=False))
        yield from _placed("line", line.get_label(), xy, line.get_transform(), ax)
    bars = [box for box in ax.containers if isinstance(box, BarContainer)]
    for box in bars:
        xy = np.concatenate([_corners(patch) for patch in box.patches])
        yield from _placed("bars", box.get_label(), xy, ax.transData, ax)
    for patch in ax.patches:
        if not any(patch in box.patches for box in bars):
            place = patch.get_data_transform()
            yield from _placed("area", patch.get_label(), _corners(patch), place, ax)
    for collection in ax.collections:
        yield from _collected(collection, ax)
    for image in ax.images:
        yield "image", image.get_label(), {"colour": np.ma.asarray(image.get_array())}


def _collected(collection: Collection, ax: Axes) -> Iterator[Drawn]:
    label, colour = collection.get_label(), collection.get_array()
    if isinstance(collection, PathCollection):
        xy, place, kind = collection.get_offsets(), collection.get_offset_transform(), "points"
    else:
        paths = [path.vertices for path in collection.get_paths()]
        xy = np.concatenate([np.empty((0, 2)), *paths])
        place, kind = collection.get_transform(), "segments" if len(paths) > 1 else "area"
    if kind != "points" and colour is not None:
        yield "image", label, {"colour": colour}
    else:
        yield from _placed(kind, label, np.ma.filled(xy, np.nan), place, ax, colour)


def _placed(
    kind: str, label: object, xy: NDArray, place: Transform, ax: Axes, colour: Any = None
) -> Iterator[Drawn]:
    """Yield the series with those of its coordinates that are in the units of the data."""
    units = "xy" if place.contains_branch(ax.transData) else ""
    units = "y" if place == ax.get_yaxis_transform() else units  # a line from edge to edge
    units = "x" if place == ax.get_xaxis_transform() else units
    numbers: dict[str, ArrayLike] = {name: xy[:, "xy".index(name)] for name in units}
    if numbers:
        if colour is not None:
            numbers["colour"] = colour
        yield kind, label, numbers


def _corners(patch: Patch) -> NDArray:
    """Return the two corners of what encloses it, `[2, 2]`."""
    return patch.get_path().transformed(patch.get_patch_transform()).get_extents().get_points()


def _filled(values: ArrayLike) -> NDArray[np.floating]:
    """Return the numbers in one row, what is blank as nan."""
    return np.ma.filled(np.ma.asarray(values).astype(float), np.nan).ravel()


def _text(values: NDArray) -> str:
    return " ".join(f"{value:.6g}" for value in values)
