"""From a folder of pictures to a folder of latents, shard by shard; a kill costs one shard.

What is written, and how it is read, is in `core.mup.latents`; the command is `core.mup.encode`.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.command import first_line
from core.files import sweep, write_json, write_text
from core.mup.latents import (
    FORMAT,
    INDEX,
    Shard,
    read_index,
    shard_metadata,
    shard_name,
    write_shard,
)
from core.mup.pictures import Bad, BadPicture, Pictures, read
from core.provenance import provenance
from core.train.checkpoint import check_same
from core.train.distributed import World
from core.train.progress import Show

Pixels = list[tuple[int, np.ndarray]]
"""Rows in the list of pictures, and what is in them."""


@dataclass(frozen=True)
class Asked:
    """How pictures become latents."""

    vae: str = "none"
    """Folder or name on the hub, `"none"` for the pixels themselves."""
    size: int = 256
    """Pixels a side that pictures are scaled and cut to."""
    grey: bool = False
    mean_only: bool = False
    """Keep no variance."""
    mirrored: bool = False
    """Keep the mirrored picture too."""
    dtype: str = "float16"
    """Of what is kept."""
    shard: int = 8192
    """Pictures in a shard."""
    batch: int = 32
    """Pictures that the VAE sees at once."""
    skip_bad: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be encoded."""
        for name in ("size", "shard", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"want --{name} >= 1, got {getattr(self, name)}")
        if self.grey and self.vae != "none":
            raise ValueError("want --grey with --vae none: a VAE takes colours")
        if self.mean_only and self.vae == "none":
            raise ValueError("want --mean-only with a VAE: pixels have no variance")


class NoVAE(nn.Module):
    """A picture is its own latent."""

    scale, shift = 1.0, 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Return what it is given, `[B, C, S, S]`."""
        return x


class Encoder(nn.Module):
    """An `AutoencoderKL` of diffusers, as far as its posterior; float32."""

    def __init__(self, source: str, *, mean_only: bool) -> None:
        """Load it.

        Args:
            source: a folder (of the VAE, or of a pipeline that has one), or a name on the hub.
            mean_only: whether to leave out the log-variance.

        Raises:
            ValueError: there is none.
        """
        super().__init__()
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        if not Path(source).is_dir() and source.count("/") != 1:
            raise ValueError(
                f"want --vae to be a folder, owner/name on the hub, or none, got {source}"
            )
        inside = "vae" if (Path(source) / "vae").is_dir() else None
        try:
            vae: Any = AutoencoderKL.from_pretrained(source, subfolder=inside)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"want --vae to be a folder, or a name on the hub, of an AutoencoderKL, got "
                f"{source}: {first_line(error)}"
            ) from error
        self.vae, self.mean_only = vae.eval().requires_grad_(False), mean_only
        self.scale = float(vae.config.scaling_factor)
        self.shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return mean and log-variance, `[B, 2 C, S, S]`, or the mean alone."""
        q = self.vae.encode(x).latent_dist
        return q.mean if self.mean_only else torch.cat([q.mean, q.logvar], dim=1)


class Encoding:
    """The making of a folder of latents."""

    def __init__(self, pictures: Pictures, out: Path, asked: Asked, world: World) -> None:
        """Load the VAE and look at what is there; nothing is written.

        Raises:
            ValueError: the folder holds something else, or there is no such VAE.
        """
        self.pictures, self.out, self.asked, self.world = pictures, out, asked, world
        plain = asked.vae == "none"
        encoder = NoVAE() if plain else Encoder(asked.vae, mean_only=asked.mean_only)
        self.identity = {
            "pictures": pictures.digest,
            "vae": "none" if plain else _digest(encoder),
            **{k: v for k, v in asdict(asked).items() if k not in ("vae", "batch", "skip_bad")},
        }
        self.encoder = encoder.to(world.device)
        if out.exists() and not out.is_dir():
            raise ValueError(f"want --out to be a folder, got {out}: it is a file")
        if (out / INDEX).exists():
            check_same(self.identity, read_index(out)["identity"], str(out / INDEX))
        elif out.exists() and any(out.glob("shard-*")):
            raise ValueError(f"{out} holds shards and no {INDEX}: move them away, or name another")

    @property
    def shards(self) -> range:
        """Their numbers."""
        return range(-(-len(self.pictures.files) // self.asked.shard))

    @property
    def missing(self) -> list[int]:
        """Shards that are still to be made, by any process."""
        return [number for number in self.shards if not (self.out / shard_name(number)).exists()]

    def run(self, workers: int) -> None:
        """Make the shards that are missing, and the index once all are there.

        Args:
            workers: threads that read pictures.

        Raises:
            ValueError: a picture cannot be read, or is encoded to no number.
        """
        missing = self.missing
        if not missing and (self.out / INDEX).exists() and read_index(self.out)["images"]:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        if not (self.out / INDEX).exists():
            write_json(self.out / INDEX, self._index("unfinished"))
        # by number, and not by place: others may have begun
        mine = [n for n in missing if n % self.world.size == self.world.rank]
        total = sum(len(self._rows(number)) for number in mine)
        with (
            ThreadPoolExecutor(workers) as pool,
            Show("picture", total, quiet=not self.world.first) as show,
        ):
            for number in mine:
                write_shard(self.out / shard_name(number), self._shard(number, pool, show))
        if not self.missing:  # whoever is last; all of them would write the same
            self._finish()

    def _rows(self, number: int) -> range:
        first = number * self.asked.shard
        return range(first, min(first + self.asked.shard, len(self.pictures.files)))

    def _shard(self, number: int, pool: ThreadPoolExecutor, show: Show) -> Shard:
        moments, good, bad = [], [], []
        for chunk in self._chunks(self._rows(number), pool):
            pixels = [(row, found) for row, found in chunk if not isinstance(found, Bad)]
            bad += [found._asdict() for _, found in chunk if isinstance(found, Bad)]
            good += [row for row, _ in pixels]
            if pixels:
                moments.append(self._encode(pixels))
            show(show.done + len(chunk))
        return Shard(
            torch.cat(moments) if moments else torch.empty(0),
            torch.from_numpy(self.pictures.labels[good]),
            [self.pictures.files[row] for row in good],
            bad,
        )

    def _chunks(
        self, rows: range, pool: ThreadPoolExecutor
    ) -> Iterator[list[tuple[int, np.ndarray | Bad]]]:
        """Yield what a batch of pictures holds; the next one is read meanwhile."""
        chunks = [rows[at : at + self.asked.batch] for at in range(0, len(rows), self.asked.batch)]
        ahead = pool.map(self._read, chunks[0])
        for chunk, following in zip(chunks, [*chunks[1:], range(0)], strict=True):
            now, ahead = ahead, pool.map(self._read, following)
            yield list(zip(chunk, now, strict=True))

    def _read(self, row: int) -> np.ndarray | Bad:
        name = self.pictures.files[row]
        try:
            return read(self.pictures.root / name, self.asked.size, grey=self.asked.grey)
        except BadPicture as why:
            if self.asked.skip_bad:
                return Bad(name, str(why))
            hint = "mend or remove it, or leave such files out (--skip-bad)"
            raise ValueError(f"{self.pictures.root / name}: {why}: {hint}") from why

    @torch.no_grad()
    def _encode(self, pixels: Pixels) -> Tensor:
        """Return the moments of pictures, `[B, V, M, S, S]`."""
        stacked = torch.from_numpy(np.stack([found for _, found in pixels]))
        x = stacked.to(self.world.device).float() / 127.5 - 1
        views = [x, x.flip(-1)] if self.asked.mirrored else [x]
        moments = torch.stack([self.encoder(view) for view in views], dim=1)
        moments = moments.to("cpu", getattr(torch, self.asked.dtype))
        for (row, _), each in zip(pixels, moments, strict=True):
            if not each.isfinite().all():
                raise ValueError(
                    f"{self.pictures.root / self.pictures.files[row]}: the VAE gives no number in "
                    f"{self.asked.dtype}: take --dtype float32, or another VAE"
                )
        return moments

    def _finish(self) -> None:
        told = {shard_name(n): shard_metadata(self.out / shard_name(n)) for n in self.shards}
        bad = [*(each._asdict() for each in self.pictures.empty)]
        bad += [each for shard in told.values() for each in shard["bad"]]
        holding = {name: shard for name, shard in told.items() if shard["images"]}
        if not holding:
            raise ValueError(f"{self.pictures.root}: none of its pictures can be read")
        if bad:
            lines = "".join(json.dumps(each) + "\n" for each in bad)
            write_text(self.out / "skipped.jsonl", lines)
        sweep(self.out, r"index\.json|skipped\.jsonl|shard-\d{5}\.safetensors")
        shape = next(iter(holding.values()))["shape"]
        means = shape[2] if self.asked.mean_only or self.asked.vae == "none" else shape[2] // 2
        sums = "".join(shard["sha256"] for shard in holding.values())
        how = f"{self.encoder.scale} {self.encoder.shift} {means}"
        found = {
            "images": sum(shard["images"] for shard in holding.values()),
            "channels": means,
            "side": shape[3],
            "scale": self.encoder.scale,
            "shift": self.encoder.shift,
            "sha256": sha256((sums + how).encode()).hexdigest(),
            "shards": [*holding],
            "skipped": len(bad),
        }
        write_json(self.out / INDEX, self._index("done", found))

    def _index(self, status: str, found: dict[str, Any] | None = None) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "status": status,
            "vae": self.asked.vae if self.asked.vae == "none" else Path(self.asked.vae).name,
            "images": 0,
            **(found or {}),
            "identity": self.identity,
            "provenance": provenance(Path(__file__).parent),
            "classes": list(self.pictures.classes),
        }


def _digest(model: nn.Module) -> str:
    """Return a SHA-256 of all weights."""
    total = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {list(tensor.shape)} {tensor.dtype};".encode())
        total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()
