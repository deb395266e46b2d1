r"""Images as latents, encoded once: what `python -m core.mup.encode` writes, read as training goes.

A folder of shards, each a safetensors file that is read where it lies (memory-mapped), and an
index. Of an image the mean and the log-variance of its posterior q(z | image) are kept; a latent

    x = scale (mean + exp(log-variance / 2) noise - shift)

is drawn anew whenever a generator asks, as DiT's code does that runs its VAE in every step.
Without a VAE the latents are the pixels themselves, in [-1, 1].

OUT/index.json               what the latents are of; labels' names, sizes, digest
OUT/shard-00000.safetensors  moments [n, V, M, S, S], labels [n], and names of the files
OUT/skipped.jsonl            what was left out, and why

Symbols: V views of an image, 2 with the mirrored one; M = C channels of means, or 2 C with
log-variances; S latent pixels a side.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.files import replace

FORMAT = "core.mup.latents/1"
INDEX = "index.json"


class Shard(NamedTuple):
    """What a shard holds."""

    moments: Tensor
    """`[n, V, M, S, S]`"""
    labels: Tensor
    """`[n]` int64"""
    names: list[str]
    """Of the images' files."""
    bad: list[dict[str, str]]
    """What of its part of the images was left out: `where`, `reason`."""


def shard_name(number: int) -> str:
    """Return the file name of a shard, from 0."""
    return f"shard-{number:05d}.safetensors"


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard, whole or not at all."""
    tensors = {"moments": shard.moments.contiguous(), "labels": shard.labels}
    total = sha256()
    for tensor in tensors.values():
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    told = {"names": json.dumps(shard.names), "bad": json.dumps(shard.bad)}
    told["sha256"] = total.hexdigest()
    replace(path, lambda part: save_file(tensors, part, metadata=told))


def shard_metadata(path: Path) -> dict[str, Any]:
    """Return `names`, `bad`, `sha256`, `images`, their number, and the `shape` of the moments.

    Raises:
        ValueError: it is no shard.
    """
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata()
            images = file.get_slice("labels").get_shape()[0]
            shape = file.get_slice("moments").get_shape()
        lists = {key: json.loads(told[key]) for key in ("names", "bad")}
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"{path} is broken, or no shard of latents: remove it and encode again, the rest stays"
        ) from error
    return {**lists, "sha256": told["sha256"], "images": images, "shape": shape}


def read_index(folder: Path) -> dict[str, Any]:
    """Return the index of a folder of latents.

    Raises:
        ValueError: there is none, or it is something else.
    """
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(
            f"want a folder of latents, found no {INDEX} in {folder}: make one by "
            f"python -m core.mup.encode --images DIR --out {folder} --vae stabilityai/sd-vae-ft-ema"
        )
    try:
        index = json.loads(path.read_bytes())
    except ValueError:
        index = None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise ValueError(f"{path} is not what core.mup.encode writes ({FORMAT})")
    return index


class Latents:
    """The latents of a folder, read as they are asked for; `len` of them."""

    def __init__(self, folder: str | Path) -> None:
        """Open a folder; what it holds stays on the disk.

        Raises:
            ValueError: it is no folder of latents, is not finished, or a shard is not there.
        """
        self.folder = Path(folder)
        self.index = read_index(self.folder)
        if self.index["status"] != "done":
            raise ValueError(
                f"{self.folder} is not finished: encode again with the same options, it goes on"
            )
        self._files = [self._open(name) for name in self.index["shards"]]
        slices = [file.get_slice("moments") for file in self._files]
        self._moments = slices
        self._starts = np.cumsum([0, *(each.get_shape()[0] for each in slices)])
        self.labels: Tensor = torch.cat([file.get_tensor("labels") for file in self._files])
        """`[N]` int64."""
        if len(self) != self.index["images"]:
            raise ValueError(f"{self.folder} has {len(self)} images, in its index are others")

    def _open(self, name: str) -> Any:
        path = self.folder / name
        if not path.is_file():
            raise ValueError(f"{path} is in the index and not there: encode again, it is made anew")
        shard_metadata(path)
        return safe_open(path, "pt")

    def __len__(self) -> int:
        """Return how many images there are."""
        return int(self._starts[-1])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the labels."""
        return tuple(self.index["classes"])

    @property
    def channels(self) -> int:
        """C."""
        return self.index["channels"]

    @property
    def side(self) -> int:
        """S."""
        return self.index["side"]

    @property
    def digest(self) -> str:
        """A SHA-256 of all moments and labels, and of how latents come of them."""
        return self.index["sha256"]

    def moments(self, row: int) -> Tensor:
        """Return what is kept of an image, `[V, M, S, S]`.

        Raises:
            IndexError: there is no such image.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"want an image from 0 to {len(self) - 1}, got {row}")
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._moments[number][int(row - self._starts[number])]

    def draw(self, row: int, rng: np.random.Generator) -> Tensor:
        """Return a latent of an image, `[C, S, S]` float32.

        Args:
            row: which image.
            rng: decides between the views if there are two, and draws from the posterior if its
                variance is kept; name it by the image and the epoch.
        """
        views = self.moments(row).float()
        view = views[int(rng.integers(len(views)))] if len(views) > 1 else views[0]
        z = view[: self.channels]
        if len(view) > self.channels:
            noise = rng.standard_normal(tuple(z.shape), dtype=np.float32)
            z = z + (view[self.channels :] / 2).exp() * torch.from_numpy(noise)
        return self.index["scale"] * (z - self.index["shift"])
