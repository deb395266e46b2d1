r"""Films by PyAV: which of their frames are pictures, and pictures as mp4 and gif, in memory."""

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.command import first_line

FILMS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif")
RATE = Fraction(8)
"""Frames a second of what says nothing of it; the authors'."""
BT709, LIMITED = 1, 1
"""The colour space of high definition, and its range, as FFmpeg numbers them."""


def of_film(
    path: Path, pick: Callable[[int], range], fitted: Callable[[Image.Image], Image.Image]
) -> tuple[list[Image.Image], Fraction, int]:
    """Return the picked frames of a film, its frames a second, and how many it has.

    Args:
        path: a file.
        pick: from how many frames there are to which are wanted.
        fitted: from a frame to what is kept of it.

    Raises:
        ValueError: it is no film that can be read.
        ImportError: PyAV is not installed.
    """
    av = _av()
    try:
        N, rate = _count(path)
        images, seen = _pictures(path, pick(N), fitted)
        if len(images) < len(pick(N)):  # packets that show nothing, or a damaged end
            N = seen
            if not N:
                raise _empty(path)
            images, _ = _pictures(path, pick(N), fitted)
    except av.error.EOFError as error:  # a head without a frame
        raise _empty(path) from error
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path} is no film that can be read: {first_line(error.strerror)}"
        ) from error
    return images, rate, N


def _count(path: Path) -> tuple[int, Fraction]:
    """Return how many frames a film has, by its packets, and how many a second."""
    with _av().open(str(path)) as film:
        if not film.streams:  # as mov has it where no frame was written
            raise _empty(path)
        if not film.streams.video:
            raise ValueError(f"want a film with pictures, got none in {path}")
        stream = film.streams.video[0]
        rate, N, ticks = stream.average_rate or stream.guessed_rate or RATE, 0, 0
        for packet in film.demux(stream):
            if packet.size and not packet.is_discard:
                N, ticks = N + 1, ticks + (packet.duration or 0)
        if path.suffix.lower() == ".gif" and ticks:  # whose frames last as long as they say
            rate = N / (ticks * stream.time_base)
    if not N:
        raise _empty(path)
    return N, Fraction(rate)


def _pictures(
    path: Path, wanted: range, fitted: Callable[[Image.Image], Image.Image]
) -> tuple[list[Image.Image], int]:
    """Return the wanted pictures, upright, and how many were seen up to the last of them."""
    images, seen = [], 0
    with _av().open(str(path)) as film:
        stream = film.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in film.decode(stream):
            if seen in wanted:
                images.append(fitted(_upright(frame)))
            seen += 1
            if seen > wanted[-1]:
                break
    return images, seen


def _upright(frame: Any) -> Image.Image:
    """Return a frame as a player shows it: telephones keep how they were held beside the pixels."""
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def mp4(pixels: NDArray[np.uint8], rate: Fraction) -> bytes:
    """Return frames `[F, H, W, 3]` in 0..255 as H.264 in an mp4."""
    av, buffer = _av(), io.BytesIO()
    with av.open(buffer, "w", format="mp4") as film:
        stream = film.add_stream("libx264", rate=rate, options={"crf": "17"})
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        told = stream.codec_context  # without it players guess the colours by the size
        told.colorspace = told.color_primaries = told.color_trc = BT709
        told.color_range = LIMITED
        for one in pixels:
            frame = av.VideoFrame.from_ndarray(one, "rgb24")
            film.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=BT709)))
        film.mux(stream.encode())
    return buffer.getvalue()


def gif(pixels: NDArray[np.uint8], rate: Fraction) -> bytes:
    """Return frames `[F, H, W, 3]` in 0..255 as a gif that repeats."""
    av, buffer = _av(), io.BytesIO()
    with av.open(buffer, "w", format="gif") as film:
        stream = film.add_stream("gif", rate=rate)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "pal8"
        for frame in _with_palette(pixels, rate):
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    return buffer.getvalue()


def _with_palette(pixels: NDArray[np.uint8], rate: Fraction) -> list[Any]:
    """Return frames in the 256 colours that fit all of them best: one palette does not flicker."""
    av = _av()
    graph, like = av.filter.Graph(), av.VideoFormat("rgb24")
    H, W = pixels.shape[1:3]
    source = graph.add_buffer(width=W, height=H, format=like, time_base=1 / rate)
    split, used = graph.add("split"), graph.add("paletteuse")
    palette, sink = graph.add("palettegen", "reserve_transparent=0"), graph.add("buffersink")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(used, 1, 0)
    palette.link_to(used, 0, 1)
    used.link_to(sink)
    graph.configure()
    for i, one in enumerate(pixels):
        frame = av.VideoFrame.from_ndarray(one, "rgb24")
        frame.pts, frame.time_base = i, 1 / rate
        graph.push(frame)
    graph.push(None)
    return [graph.pull() for _ in pixels]


def check_films() -> None:
    """Refuse to go on where films cannot be read and written.

    Raises:
        ImportError: PyAV is not installed.
    """
    _av()


def _empty(path: Path) -> ValueError:
    return ValueError(f"want at least one frame, got none in {path}")


def _av() -> Any:
    try:
        import av
        import av.filter
    except ImportError as error:
        raise ImportError(
            "want PyAV for mp4 and gif: pip install 'papers-executed[controlvideo]', or pip "
            "install av; a folder of images needs none"
        ) from error
    return av
