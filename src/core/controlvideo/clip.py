"""The video that is in a batch: how many frames, and which of them the others look at.

diffusers' models know images only. Their batch axis here is (B F): frames fastest, B videos or the
two halves of classifier-free guidance. What the processors and norms of one installation need to
know of it is in one object, which they share.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Clip:
    """Set before a forward pass; `frames` divides its batch."""

    frames: int = 1
    """F."""
    keys: tuple[int, ...] = (0,)
    """Key frames: whose tokens all frames attend to."""
    cache: dict[str, Tensor] | None = field(default=None, repr=False)
    """Of a stream: key frames' tokens `[B, keys N, C]` of each site. None: taken from the batch."""
    record: dict[str, Tensor] | None = field(default=None, repr=False)
    """Where a forward pass leaves these tokens, for the stream's next chunks."""

    def split(self, x: Tensor) -> Tensor:
        """Return `[B, F, ...]` of `[B F, ...]`.

        Raises:
            ValueError: F does not divide the batch.
        """
        if self.frames < 1 or len(x) % self.frames:
            raise ValueError(
                f"want a batch of videos of {self.frames} frames, got a batch of {len(x)}: set "
                "Clip.frames before the model is called"
            )
        return x.unflatten(0, (-1, self.frames))

    def key_tokens(self, x: Tensor, site: str) -> Tensor:
        """Return what all frames attend to, `[B, keys N, C]`, of tokens `[B F, N, C]`.

        Raises:
            ValueError: a key frame that the video does not have, or a stream without its cache.
        """
        if self.cache is not None:
            if site not in self.cache:
                raise ValueError(f"want the key frames' tokens of {site}, got none: record them")
            return self.cache[site]
        if not self.keys or not all(0 <= k < self.frames for k in self.keys):
            raise ValueError(f"want key frames in 0..{self.frames - 1}, got {self.keys}")
        video = self.split(x)
        tokens = torch.cat([video[:, k] for k in self.keys], dim=1)
        if self.record is not None:
            self.record[site] = tokens.detach()
        return tokens
