"""The one place where figure style lives: size, ink, and which colour means what."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

COLOURS = {
    "exact": "#0072B2",
    "measured": "#D55E00",
    "limit": "#009E73",
    "paper": "#000000",
    "other": "#CC79A7",
    "further": "#E69F00",
    "faint": "#56B4E9",
}
"""Colour of a quantity, the same through the book (Okabe and Ito, safe for the colour-blind).

exact: what a formula or engine of ours gives; measured: what a run gave; limit: an asymptote;
paper: a value as the paper prints it; other, further, faint: what a figure needs besides.
"""


def figure(columns: int = 1, *, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """Return a figure in the house style and its axes, left to right.

    Args:
        columns: panels side by side; one is 6 inches wide, two or more share 9.
        height: inches.

    Returns:
        The figure, and a list of `columns` axes.

    Raises:
        ValueError: fewer than one column, or no height.
    """
    if columns < 1 or not height > 0:
        raise ValueError(f"want columns >= 1 and height > 0, got {columns} and {height}")
    import matplotlib.pyplot as plt  # the book's dependency, not the library's

    plt.style.use("core.lab.house")
    _same_bytes_every_run()
    width = 6.0 if columns == 1 else 9.0
    fig, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False)
    return fig, list(axes[0])


def heat_maps(matrices: Mapping[str, ArrayLike], *, height: float = 2.6) -> Figure:
    """Draw matrices side by side on one colour scale, symmetric about zero, with a bar.

    Args:
        matrices: title -> `[rows, columns]`, finite.
        height: inches.

    Returns:
        The figure: red is positive, blue negative, white exactly zero.

    Raises:
        ValueError: nothing to draw, or a value that is not finite.
    """
    import numpy as np

    values = {title: np.asarray(matrix, dtype=float) for title, matrix in matrices.items()}
    if not values or not all(np.isfinite(v).all() for v in values.values()):
        raise ValueError(f"want finite matrices, at least one, got {list(values)}")
    top = max(np.abs(v).max() for v in values.values()) or 1.0
    fig, axes = figure(len(values), height=height)
    for ax, (title, matrix) in zip(axes, values.items(), strict=True):
        picture = ax.imshow(matrix, cmap="RdBu_r", vmin=-top, vmax=top)
        ax.set(title=title, xticks=[], yticks=[])
        ax.grid(False)
    fig.colorbar(picture, ax=axes, shrink=0.8)
    return fig


def _same_bytes_every_run() -> None:
    """Leave matplotlib's version out of the PNGs that a notebook keeps."""
    from IPython.core.getipython import get_ipython

    if get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("png", metadata={"Software": None})
