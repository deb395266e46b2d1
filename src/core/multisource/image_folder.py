"""Sources from a folder of images with one sub-folder a class, as ImageNet is kept.

Which images are drawn depends on the names of the files, the seed and the class alone: every run,
machine and order of classes draws the same ones, each at most once. Multi-source and single-source
training therefore see the same images.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from core.multisource.examples import Sources
from core.train.seeds import generator

NAMED = 5
"""Files that an error names; it counts the rest."""


class Drawn(NamedTuple):
    """Sources, and the files that they came from."""

    sources: Sources
    files: tuple[tuple[str, ...], ...]
    """K of the files' names: training, validation and test, in order."""
    skipped: tuple[str, ...]
    """Files that would have been drawn and are no images in colour, where that was allowed."""


def image_folder(
    root: str | Path,
    classes: Sequence[str],
    n: int,
    *,
    seed: int,
    size: int = 64,
    validation: int = 50,
    test: int = 250,
    skip: bool = False,
) -> Drawn:
    """Return sources from sub-folders, drawn without replacement.

    Images are cut to the largest centred square and resized; pixels are in [-1, 1], with a standard
    deviation of about 1/2, `Edm`'s default. Holds all images.

    Args:
        root: holds a sub-folder for each class, such as `n02091032`.
        classes: names of K sub-folders, the sources in order.
        n: training images of each.
        seed: from 0; names the draw.
        size: of the images, in pixels.
        validation: images of each class for early stopping.
        test: images of each class for the test.
        skip: draw another where a file is damaged or has no colours, and say so in `skipped`.

    Raises:
        FileNotFoundError: no such folder, or a class without one.
        ValueError: a class named twice or with too few images, or damaged or colourless files.
    """
    root = Path(root)
    _check(root, classes)
    wanted = n + validation + test
    found, bad = [_draw(root / name, wanted, seed, size) for name in classes], []
    for name, (images, files, odd) in zip(classes, found, strict=True):
        bad += odd
        if len(images) < wanted:
            raise ValueError(
                f"want {wanted} images of the class {name!r} ({n} to train, {validation} to stop, "
                f"{test} to test), got {len(files)} in {root / name}"
                + (f" beside {len(odd)} that cannot be used" if odd else "")
                + ": ask for fewer, since none is drawn twice"
            )
    if bad and not skip:
        rest = f", and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise ValueError(
            f"want images in colour, got {', '.join(bad[:NAMED])}{rest}: "
            "mend or remove them, or pass skip=True to draw others instead"
        )
    cut = (n, n + validation)
    parts = [(x[: cut[0]], x[cut[0] : cut[1]], x[cut[1] :]) for x, _, _ in found]
    names = tuple(tuple(files) for _, files, _ in found)
    return Drawn(Sources.labelled(classes, parts), names, tuple(bad))


def _check(root: Path, classes: Sequence[str]) -> None:
    if not root.is_dir():
        raise FileNotFoundError(f"needs a folder with one sub-folder a class, and {root} is none")
    there = sorted(path.name for path in root.iterdir() if path.is_dir())
    missing = [name for name in classes if name not in there]
    if missing:
        shown = ", ".join(there[:NAMED]) + (", ..." if len(there) > NAMED else "")
        raise FileNotFoundError(
            f"needs the class {', '.join(missing)} as a sub-folder of {root}, "
            f"which has {len(there)}: {shown or 'none'}"
        )
    twice = sorted({name for name in classes if list(classes).count(name) > 1})
    if twice or not classes:
        raise ValueError(f"want each class once, got {', '.join(twice) or 'no class'}")


def _draw(folder: Path, wanted: int, seed: int, size: int) -> tuple[Tensor, list[str], list[str]]:
    """Return up to `wanted` images, their files, and the files that were passed over and why."""
    known = Image.registered_extensions()
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in known)
    # a name as a key: the draw does not depend on which other classes are asked for
    rng = generator(seed, *folder.name.encode())
    images, names, odd = [], [], []
    for i in rng.permutation(len(files)):
        if len(images) == wanted:
            break
        image, wrong = _read(files[i], size)
        if wrong:
            odd.append(f"{folder.name}/{files[i].relative_to(folder)} ({wrong})")
        else:
            images.append(image)
            names.append(str(files[i].relative_to(folder)))
    stacked = torch.stack(images) if images else torch.empty(0, 3, size, size)
    return stacked, names, odd


def _read(path: Path, size: int) -> tuple[Tensor, str]:
    """Return `[3, size, size]` in [-1, 1] and nothing, or what is wrong with the file."""
    try:
        with Image.open(path) as image:
            image.load()
            mode = image.mode
            square = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, OSError, SyntaxError):
        return torch.empty(0), "damaged"
    if mode != "RGB":
        return torch.empty(0), f"mode {mode}, not RGB"
    pixels = torch.from_numpy(np.asarray(square, dtype=np.float32))
    return pixels.movedim(2, 0) / 127.5 - 1, ""
