"""Where a video may be written to: never over what is read, or what was not written here."""

import json
import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

from core.controlvideo._films import FILMS, check_films

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
"""Suffixes that are read as frames of a folder."""
MANIFEST, BY = "video.json", {"by": "core.controlvideo"}
"""In a folder of frames: its rate, and who wrote it if that is `write`."""
RATES = Fraction(1, 100), Fraction(1000)
"""Frames a second that a video is written with, from and to."""
OURS = re.compile(rf"\d{{5}}\.png|{re.escape(MANIFEST)}")


def check_target(
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    rate: Fraction | None = None,
) -> None:
    """Refuse a place that a video cannot be written to; call it before the work.

    Raises:
        ValueError: an unknown suffix, no folder to write in, a folder that was not written here,
            odd sides for an mp4, several frames for a png, or a rate that no player shows.
        ImportError: PyAV is not installed, and an mp4 or a gif is asked for.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".mp4", ".gif", ".png", ""):
        raise ValueError(f"want a name ending in .mp4 or .gif, or a folder, got {path}")
    _check_place(path)
    if suffix in FILMS:
        check_films()
    if suffix == ".mp4" and size is not None and (size[0] % 2 or size[1] % 2):
        raise ValueError(f"want even sides for an mp4, got {size[0]} x {size[1]}: take a gif")
    if suffix == ".png" and frames not in (None, 1):
        raise ValueError(f"want one frame for a png, got {frames}: take an mp4, a gif or a folder")
    if suffix == ".gif" and rate is not None and rate > 50:
        raise ValueError(f"want at most 50 frames a second in a gif, got {float(rate):.4g}")
    if rate is not None and not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"want 0.01 to 1000 frames a second, got {float(rate):.4g}")


def check_apart(path: str | Path, *sources: str | Path) -> None:
    """Refuse to write over what is read.

    Args:
        path: what is to be written.
        sources: videos that are read.

    Raises:
        ValueError: they are the same, or an image would be one more frame of a folder.
    """
    place = Path(path).resolve()
    for source in sources:
        read_from = Path(source).resolve()
        if place == read_from or (place.exists() and place.samefile(read_from)):
            raise ValueError(f"want another place to write to than what is read, got {path}")
        if place.suffix.lower() in PICTURES and place.parent == read_from:
            raise ValueError(f"want an image outside of the frames that are read, got {path}")


def _check_place(path: Path) -> None:
    folder, there = path.resolve().parent, path.exists()
    if not path.parent.is_dir() or not folder.is_dir():
        raise ValueError(f"want a name in a folder that exists, got {path}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"want a name in a folder to write in, got {path}: no right to, there")
    if there and path.is_dir() != (path.suffix == ""):
        kind = "file" if path.suffix else "folder"
        raise ValueError(f"want {path} to be a {kind}, it is none")
    if there and path.is_dir():
        _check_ours(path)


def _check_ours(folder: Path) -> None:
    """Refuse a folder that `write` did not make, and an empty one is as good."""
    held = sorted(folder.iterdir())
    foreign = [p.name for p in held if not (OURS.fullmatch(p.name) and p.is_file())]
    if foreign:
        raise ValueError(f"{folder} holds {foreign[0]}, no frame of ours: name another folder")
    if held and not BY.items() <= told_by(folder / MANIFEST).items():
        raise ValueError(
            f"{folder} holds {held[0].name}, and no {MANIFEST} that says it was written here: name "
            "another folder"
        )


def told_by(path: Path) -> dict[str, Any]:
    """Return what a manifest says; nothing if it is none."""
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError):
        told = None
    return told if isinstance(told, dict) else {}
