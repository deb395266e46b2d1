"""A folder of pictures with a sub-folder for each class, as ImageNet is kept, and its pictures.

The order of classes is that of their names, or of a list; pictures may lie deeper in a class's
folder. A picture is scaled so that its shorter side fits, and cut at the centre.
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
"""Other files are none of ours."""


class Bad(NamedTuple):
    """What was left out, and why."""

    where: str
    reason: str


class BadPicture(ValueError):
    """A file that is no picture."""


class Pictures(NamedTuple):
    """What a folder holds; nothing was opened."""

    root: Path
    classes: tuple[str, ...]
    """Label i is the i-th."""
    files: tuple[str, ...]
    """Below `root`, sorted within a class."""
    labels: NDArray[np.int64]
    """`[N]`"""
    empty: tuple[Bad, ...]
    """Classes without a picture."""

    @property
    def digest(self) -> str:
        """A SHA-256 of names and labels: what there is, in which order."""
        named = (f"{y} {file}\n" for file, y in zip(self.files, self.labels, strict=True))
        return sha256("".join(named).encode("utf-8", "surrogateescape")).hexdigest()


def find(root: Path, *, classes: Sequence[str] = (), skip_bad: bool = False) -> Pictures:
    """Return the pictures of a folder.

    Args:
        root: the folder.
        classes: names of its sub-folders in the order of their labels; all of them, sorted, where
            none is given.
        skip_bad: whether a class without a picture is listed, and not refused.

    Raises:
        ValueError: no such folder, no sub-folder, a class that is missing, twice there or empty.
    """
    if not root.is_dir():
        raise ValueError(f"want a folder of pictures, one sub-folder for each class, got {root}")
    there = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not there:
        loose = sum(map(_is_picture, root.iterdir()))
        hint = f"; its {loose} pictures are of no class: move them into one" if loose else ""
        raise ValueError(f"{root}: want a sub-folder for each class, found none{hint}")
    names = tuple(classes) or tuple(there)
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"want every class once, got {twice!r} twice")
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(
            f"{root}: want a sub-folder for each of {len(names)} classes, missing {len(missing)}: "
            + ", ".join(missing[:5])
        )
    found = [_files(root, name) for name in names]
    empty = [
        Bad(name, "a class without a picture")
        for name, of in zip(names, found, strict=True)
        if not of
    ]
    if len(empty) == len(names) or (empty and not skip_bad):
        raise ValueError(
            f"{root / empty[0].where}: want at least one picture of each class "
            f"({', '.join(SUFFIXES)}), found none: add some, or leave the class out (--skip-bad)"
        )
    labels = np.repeat(np.arange(len(names)), [len(of) for of in found])
    return Pictures(root, names, tuple(f for of in found for f in of), labels, tuple(empty))


def _files(root: Path, name: str) -> list[str]:
    paths = (root / name).rglob("*")
    return sorted(p.relative_to(root).as_posix() for p in paths if _is_picture(p))


def _is_picture(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


def read(path: Path, size: int, *, grey: bool = False) -> NDArray[np.uint8]:
    """Return a picture, scaled and cut, `[3, size, size]`, `[1, size, size]` if grey.

    Raises:
        BadPicture: the file cannot be read, or is no picture; its reason does not name it.
    """
    try:
        with Image.open(path) as image:
            fitted = ImageOps.fit(_plain(image, grey), (size, size), Image.Resampling.BICUBIC)
    # what Pillow's readers raise on broken files
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BadPicture(_reason(error)) from error
    pixels = np.asarray(fitted)
    return np.ascontiguousarray(pixels[None] if grey else pixels.transpose(2, 0, 1))


def _plain(image: Image.Image, grey: bool) -> Image.Image:
    if "transparency" in image.info:  # a palette with it goes by way of RGBA
        image = image.convert("RGBA")
    return image.convert("L" if grey else "RGB")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    # Pillow repeats the path
    told = "cannot identify" if "cannot identify" in str(error) else str(error)
    return f"no picture that can be read: {told}".splitlines()[0]
