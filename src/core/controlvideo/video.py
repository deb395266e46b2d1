r"""Videos in and out: mp4, gif, or a folder of images, as `[F, 3, H, W]` in [0, 1], float32.

In memory a video is a tensor, so that annotators, the pipeline and metrics share it; only the
frames that were picked are kept, at the size that was asked for. Files are written under a
temporary name and renamed: a full disk or an interrupt leaves what was there before. A folder that
is there already is replaced if it is one that was written here, as its `video.json` says.

Frames are picked as by the authors, every (N // F)-th; the rate is that of what was picked, so that
a video lasts as long as its source.

Source: thu-ml/controlvideo at 23b6b0b, `dataset.py`.
Symbols: `N` frames of a file, `F` frames of a video, `H`, `W` its sides in pixels.
"""

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from core.command import first_line
from core.controlvideo._films import FILMS, RATE, gif, mp4, of_film
from core.controlvideo._places import BY, MANIFEST, PICTURES, check_target, told_by
from core.files import sweep, whole_folder, write_bytes

RATED = re.compile(r"(?=0*\.?0*[1-9])\d{1,20}(\.\d{1,20}|/[1-9]\d{0,19})?")
"""How a manifest says a rate: a number or a fraction above zero."""
Fit = Literal["crop", "pad"]
"""How a frame comes to another aspect: cut at the centre, or between black bars."""


class Video(NamedTuple):
    """Frames, and how fast they follow one another."""

    frames: Tensor
    """`[F, 3, H, W]` in [0, 1], float32."""
    rate: Fraction
    """Frames a second."""
    total: int = 0
    """Frames that the file has, of which these were picked."""


@dataclass(frozen=True)
class Pick:
    """Which frames of a file are taken."""

    frames: int | None = None
    """F; None: all from the first on."""
    first: int = 0
    stride: int | None = None
    """None: as even as whole strides can be, (N - first) // F."""

    def __post_init__(self) -> None:
        """Refuse what picks nothing."""
        counts = [n for n in (self.frames, self.stride) if n is not None]
        if self.first < 0 or any(n < 1 for n in counts):
            raise ValueError(
                f"want frames and stride >= 1 and a first frame >= 0, got {self.frames}, "
                f"{self.stride} and {self.first}"
            )

    def of(self, N: int) -> range:
        """Return the numbers of the picked frames.

        Raises:
            ValueError: the file has too few.
        """
        left = N - self.first
        if left < 1:
            raise ValueError(f"want a first frame in 0..{N - 1}, got {self.first}")
        stride = self.stride or max(1, left // (self.frames or left))
        F = self.frames or -(-left // stride)
        most = -(-left // stride)
        if most < F:
            raise ValueError(
                f"want {F} frames, {stride} apart, from frame {self.first} on, got a video of {N} "
                f"frames, which has {most} of them"
            )
        return range(self.first, self.first + F * stride, stride)


ALL = Pick()


def read(
    path: str | Path,
    pick: Pick = ALL,
    *,
    size: tuple[int, int] | None = None,
    fit: Fit = "crop",
    factor: int = 1,
) -> Video:
    """Return a video of a file, or of a folder of images.

    Args:
        path: a film (`FILMS`), or a folder of images of one size, in the order of the numbers in
            their names.
        pick: which frames.
        size: H and W to scale to; None: those of the file.
        fit: what is done about another aspect.
        factor: of which H and W must be multiples, as a pipeline has it.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no film or image that can be read, no or too few frames, images of different
            sizes, or a size that is no multiple of the factor.
        ImportError: a film is asked for, and PyAV is not installed.
    """
    path = Path(path)
    if size is not None:
        check_size(size, factor)
    if not path.exists():
        raise FileNotFoundError(f"no video at {path}: want a film or a folder of images")
    if fit not in ("crop", "pad"):
        raise ValueError(f"want fit 'crop' or 'pad', got {fit!r}")
    of = _of_folder if path.is_dir() else of_film
    if not path.is_dir():
        _check_suffix(path)
    images, rate, total = of(path, pick.of, lambda image: _fitted(image, size, fit))
    W, H = images[0].size
    check_size((H, W), factor)
    return Video(tensor_of(images), rate / pick.of(total).step, total)


def check_frames(x: Tensor) -> None:
    """Refuse what is no video.

    Raises:
        ValueError: it is not `[F, 3, H, W]` with a frame at least, or has pixels outside [0, 1].
    """
    if x.ndim != 4 or x.shape[1] != 3 or not len(x):
        raise ValueError(f"want a video [F, 3, H, W] of at least one frame, got {list(x.shape)}")
    if not (x.min() >= 0 and x.max() <= 1):  # nan is neither
        raise ValueError(f"want pixels in [0, 1], got {float(x.min()):.3g} to {float(x.max()):.3g}")


def check_size(size: tuple[int, int], factor: int) -> None:
    """Refuse sides that a pipeline cannot work on, and say which are near.

    Raises:
        ValueError: a side is no multiple of the factor.
    """
    near = [max(1, round(side / factor)) * factor for side in size]
    if near != list(size):
        raise ValueError(
            f"want a height and a width that are multiples of {factor}, got {size[0]} x {size[1]}: "
            f"the nearest are {near[0]} x {near[1]}"
        )


def tensor_of(images: Sequence[Image.Image]) -> Tensor:
    """Return images of one size as `[F, 3, H, W]` in [0, 1]."""
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def bytes_of(frames: Tensor) -> NDArray[np.uint8]:
    """Return frames `[F, 3, H, W]` in [0, 1] as `[F, H, W, 3]` in 0..255."""
    scaled = (frames.detach().float().cpu() * 255).round().clamp(0, 255)
    return np.ascontiguousarray(scaled.to(torch.uint8).permute(0, 2, 3, 1).numpy())


def write(path: str | Path, video: Video) -> None:
    """Write a video: `.mp4` (H.264), `.gif`, `.png` for a single frame, or a folder of PNGs.

    Args:
        path: what has no suffix becomes a folder. What was there before is replaced as a whole.
        video: its rate is kept; in a gif to a hundredth of a second.

    Raises:
        ValueError: no frame, or pixels that are no colours in [0, 1].
        ValueError, ImportError: see `check_target`.
        OSError: it could not be written; what was there before still is.
    """
    check_frames(video.frames)
    video = video._replace(rate=Fraction(video.rate))
    path, pixels = Path(path), bytes_of(video.frames)
    size = pixels.shape[1], pixels.shape[2]
    check_target(path, size=size, frames=len(pixels), rate=video.rate)
    path = path.resolve()  # where a link leads: the link stays
    if not path.suffix:
        _write_folder(path, pixels, video.rate)
        return
    encoded = {".mp4": mp4, ".gif": gif, ".png": _png}[path.suffix.lower()](pixels, video.rate)
    sweep(path.parent, re.escape(path.name))
    write_bytes(path, encoded)


def _of_folder(
    path: Path, pick: Callable[[int], range], fitted: Callable[[Image.Image], Image.Image]
) -> tuple[list[Image.Image], Fraction, int]:
    files = [p for p in path.iterdir() if p.suffix.lower() in PICTURES and p.name[0] != "."]
    files.sort(key=lambda p: _natural(p.name))
    if not files:
        held = ", ".join(sorted(p.name for p in path.iterdir())[:3]) or "nothing"
        raise ValueError(f"want images ({', '.join(PICTURES)}) in {path}, it holds {held}")
    images, sides = [], {}
    for file in (files[i] for i in pick(len(files))):
        image = _image(file)
        sides.setdefault(f"{image.height} x {image.width}", file.name)
        images.append(fitted(image))
    if len(sides) > 1:
        told = " and ".join(f"{side} ({name})" for side, name in list(sides.items())[:2])
        raise ValueError(f"want images of one size in {path}, got {told}")
    return images, _rate_of(path / MANIFEST), len(files)


def _natural(name: str) -> list[str | int]:
    """Return a key by which 10 comes after 9."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def _image(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode[0] in "IF":
                raise ValueError(f"its pixels are {upright.mode}, want 8 bits")
            return upright.convert("RGB")
    # what Pillow's readers raise on broken files
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is no image that can be read: {first_line(error)}") from error


def _rate_of(manifest: Path) -> Fraction:
    told = str(told_by(manifest).get("rate")) if manifest.exists() else str(RATE)
    if not RATED.fullmatch(told):
        raise ValueError(f'{manifest}: want {{"rate": "24"}}, frames a second, above zero')
    return Fraction(told)


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in FILMS:
        raise ValueError(
            f"want a film ({', '.join(FILMS)}) or a folder of images, got {path}"
            + (": give its folder" if path.suffix.lower() in PICTURES else "")
        )


def _fitted(image: Image.Image, size: tuple[int, int] | None, fit: Fit) -> Image.Image:
    if size is None or image.size == size[::-1]:
        return image
    by, (H, W) = ImageOps.fit if fit == "crop" else ImageOps.pad, size
    return by(image, (W, H), Image.Resampling.BICUBIC)


def _png(pixels: NDArray[np.uint8], _: Fraction) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[0]).save(buffer, "PNG")
    return buffer.getvalue()


def _write_folder(path: Path, pixels: NDArray[np.uint8], rate: Fraction) -> None:
    with whole_folder(path, over=True) as new:
        for i, one in enumerate(pixels):
            (new / f"{i:05d}.png").write_bytes(_png(one[None], rate))
        (new / MANIFEST).write_text(json.dumps({"rate": str(rate)} | BY))
