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

    In a notebook its output carries, as metadata, the numbers that it shows (`figure_numbers`), for
    the runner to lift into the record.

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

    from core.lab.figure_numbers import NumberedFigure

    plt.style.use("core.lab.house")
    _same_bytes_every_run()
    width = 6.0 if columns == 1 else 9.0
    size = (width, height)
    fig, axes = plt.subplots(1, columns, figsize=size, squeeze=False, FigureClass=NumberedFigure)
    return fig, list(axes[0])


def heat_maps(matrices: Mapping[str, ArrayLike], *, height: float = 2.6, log: bool = False) -> None:
    """Draw matrices side by side on one colour scale, with a bar.

    Args:
        matrices: title -> `[rows, columns]`, finite.
        height: inches.
        log: whether colour is the power of ten of the size, and an entry that is exactly zero
            stays blank; else red is positive, blue negative, white zero.

    Raises:
        ValueError: nothing to draw, or a value that is not finite.
    """
    import numpy as np
    from matplotlib.colors import LogNorm, Normalize

    values = {title: np.asarray(matrix, dtype=float) for title, matrix in matrices.items()}
    if not values or not all(np.isfinite(v).all() for v in values.values()):
        raise ValueError(f"want finite matrices, at least one, got {list(values)}")
    sizes = np.abs(np.concatenate([v.ravel() for v in values.values()]))
    top, low = sizes.max() or 1.0, sizes[sizes > 0].min(initial=1.0)
    norm = LogNorm(low, top) if log else Normalize(-top, top)
    fig, axes = figure(len(values), height=height)
    pictures = []
    for ax, (title, v) in zip(axes, values.items(), strict=True):
        shown = np.ma.masked_equal(np.abs(v), 0) if log else v
        pictures.append(ax.imshow(shown, cmap="viridis_r" if log else "RdBu_r", norm=norm))
        ax.set(title=title, xticks=[], yticks=[])
        ax.spines[:].set(visible=True, color="0.8")
        ax.grid(False)
    fig.colorbar(pictures[0], ax=axes, shrink=0.8)


def _same_bytes_every_run() -> None:
    """Leave matplotlib's version out of the PNGs that a notebook keeps."""
    from IPython.core.getipython import get_ipython

    if get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("png", metadata={"Software": None})
