"""Videos in a page: they loop without a player, and stand still where that is wished."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

GAP = 1
"""White pixels between panels."""


def clip(panels: Mapping[str, ArrayLike], *, alt: str, caption: str, seconds: float = 0.15) -> None:
    """Show videos side by side, in step, as one animated WebP inside the page.

    In print, and for readers who asked for less motion, each panel is a film strip instead, first
    frame on top. The output carries, as metadata, the mean of every frame and channel, as figures
    carry their numbers.

    Args:
        panels: label -> `[F, 3, H, W]` or `[F, H, W, 3]` in [0, 1], all of one shape.
        alt: what is to be seen, in words.
        caption: what to look for.
        seconds: of a frame, to a thousandth.

    Raises:
        ValueError: no panels, shapes that differ, pixels outside [0, 1], an empty text, or frames
            of no length.
    """
    from IPython.display import HTML, display

    if not alt.strip() or not caption.strip():
        raise ValueError("want an alt text and a caption, got an empty one")
    if not seconds >= 1e-3:
        raise ValueError(f"want frames of at least 0.001 seconds, got {seconds}")
    videos = [_pixels(label, video) for label, video in panels.items()]
    if len({v.shape for v in videos}) != 1:
        raise ValueError(f"want videos of one shape, got {[v.shape for v in videos]}")
    moving = [_beside(frames) for frames in zip(*videos, strict=True)]
    strip = _beside([_below(list(video)) for video in videos])
    width = moving[0].shape[1]
    labels = "".join(f"<span>{html.escape(label)}</span>" for label in panels)
    display(
        HTML(
            f'<figure class="clip" style="--panels:{len(videos)};--pixels:{width}">'
            f'<div class="clip-labels">{labels}</div><picture>'
            f'<source media="(prefers-reduced-motion: reduce), print" srcset="{_png(strip)}">'
            f'<img alt="{html.escape(alt)}" src="{_webp(moving, seconds)}" width="{width}">'
            f"</picture><figcaption>{html.escape(caption)}</figcaption></figure>"
        ),
        metadata={"core": {"figure": [_numbers(panels, videos)]}},
    )


def _numbers(labels: Iterable[str], videos: list[NDArray[np.uint8]]) -> dict[str, Any]:
    """Return the clip as a panel of a figure; a single pixel says less than a mean over many."""
    from core.lab.figure_numbers import axis_of, series_of

    means = [video.mean(axis=(1, 2)) / 255 for video in videos]
    named = zip(labels, means, strict=True)
    series = [series_of("clip", label, {"colour": mean}) for label, mean in named]
    axes = {"colour": axis_of("", "linear", (0, 1))}
    return {"title": "", "axes": axes, "series": series}


def _pixels(label: str, video: ArrayLike) -> NDArray[np.uint8]:
    """Return `[F, H, W, 3]` bytes."""
    import numpy as np

    x = np.asarray(video, dtype=float)
    if x.ndim == 4 and x.shape[-1] != 3 and x.shape[1] == 3:
        x = x.transpose(0, 2, 3, 1)
    if x.ndim != 4 or x.shape[-1] != 3 or not len(x):
        raise ValueError(f"{label}: want a video [F, 3, H, W] or [F, H, W, 3], got {x.shape}")
    if not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"{label}: want pixels in [0, 1], got {x.min():.3g} to {x.max():.3g}")
    return (255 * x).round().astype(np.uint8)


def _beside(frames: list[NDArray[np.uint8]] | tuple[NDArray[np.uint8], ...]) -> NDArray[np.uint8]:
    import numpy as np

    gap = np.full((len(frames[0]), GAP, 3), 255, np.uint8)
    parts = [part for frame in frames for part in (frame, gap)]
    return np.concatenate(parts[:-1], axis=1)


def _below(frames: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    import numpy as np

    gap = np.full((GAP, frames[0].shape[1], 3), 255, np.uint8)
    parts = [part for frame in frames for part in (frame, gap)]
    return np.concatenate(parts[:-1], axis=0)


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return _inline("png", out)


def _webp(frames: list[NDArray[np.uint8]], seconds: float) -> str:
    from PIL import Image

    first, *rest = [Image.fromarray(frame) for frame in frames]
    out = io.BytesIO()
    first.save(
        out,
        "WEBP",
        save_all=True,
        append_images=rest,
        duration=round(1000 * seconds),
        loop=0,
        lossless=True,
    )
    return _inline("webp", out)


def _inline(kind: str, out: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
