"""U-ViT: a transformer on tokens of time, class and patches, with long skip connections.

Written from the paper's description (arXiv:2209.12152v4, Sec. 3 and Fig. 1), with what it chose: a
skip is concatenated and projected, time is a token, a patch is embedded by a linear map, positions
are learned. `UVit2DModel` of diffusers is another network.

Two things differ from the released code. Here the readout is a linear map and nothing follows it;
there a 3 x 3 convolution on the C channels of the image can, of which muP has nothing to say: no
dimension of it is a width. And queries, keys and values have a matrix each, as in diffusers, not
one for all three.

Symbols: D width (heads times their dimension), T tokens, N patches.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOKENS = 2
"""Tokens before the patches: time and class."""


class Attention(nn.Module):
    """Self-attention; queries, keys and values without a bias."""

    def __init__(self, width: int, heads: int) -> None:
        """Take the width and among how many heads it is divided."""
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of x `[B, T, D]`."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, T, D / H]
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm; before them a long skip, if any."""

    def __init__(self, width: int, heads: int, *, skip: bool) -> None:
        """Take the width, the heads, and whether an early block's output comes in."""
        super().__init__()
        self.skip = nn.Linear(2 * width, width) if skip else None
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, early: Tensor | None = None) -> Tensor:
        """Return x `[B, T, D]` after the block; `early` has its shape."""
        if self.skip is not None and early is not None:
            x = self.skip(torch.cat([x, early], dim=-1))
        x = x + self.attn(self.norm1(x))
        return x + self.ff(self.norm2(x))


class UViT(nn.Module):
    """U-ViT for square images with class labels; predicts the noise."""

    def __init__(
        self,
        num_attention_heads: int = 8,
        attention_head_dim: int = 64,
        num_layers: int = 13,
        in_channels: int = 3,
        sample_size: int = 32,
        patch_size: int = 2,
        num_classes: int = 10,
    ) -> None:
        """Build the network; the defaults are U-ViT-S/2 for CIFAR10, with classes.

        Args:
            num_attention_heads: H.
            attention_head_dim: D / H.
            num_layers: blocks, an odd number: the middle one has no partner.
            in_channels: of the image, and of what is predicted.
            sample_size: pixels a side.
            patch_size: pixels a side of a patch.
            num_classes: labels.

        Raises:
            ValueError: the number of blocks is even, or patches do not fill the image.
        """
        super().__init__()
        _check(num_layers, sample_size, patch_size)
        width = num_attention_heads * attention_head_dim
        self.patch_size = patch_size
        self.patch_embed = nn.Conv2d(in_channels, width, patch_size, patch_size)
        self.class_embed = nn.Embedding(num_classes, width)
        patches = (sample_size // patch_size) ** 2
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, TOKENS + patches, width))
        half = num_layers // 2
        self.in_blocks = _blocks(half, width, num_attention_heads)
        self.mid_block = Block(width, num_attention_heads, skip=False)
        self.out_blocks = _blocks(half, width, num_attention_heads, skip=True)
        self.norm_out = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, patch_size**2 * in_channels)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return the predicted noise.

        Args:
            x_t: `[B, C, S, S]` noised images.
            t: `[B]` times, in steps.
            y: `[B]` labels.

        Returns:
            `[B, C, S, S]`.
        """
        patches = self.patch_embed(x_t).flatten(2).transpose(1, 2)  # [B, N, D]
        time = sinusoids(t, patches.shape[-1]).to(patches.dtype)
        tokens = torch.stack([time, self.class_embed(y)], dim=1)  # [B, 2, D]
        x = torch.cat([tokens, patches], dim=1) + self.pos_embed
        early = []
        for block in self.in_blocks:
            x = block(x)
            early.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, early.pop())
        pixels = self.proj_out(self.norm_out(x[:, TOKENS:]))  # [B, N, C P P]
        return F.fold(pixels.mT, x_t.shape[-2:], self.patch_size, stride=self.patch_size)


def sinusoids(t: Tensor, width: int) -> Tensor:
    """Return cosines and sines of t at `width / 2` frequencies from 1 down to 1e-4.

    The token of time itself: in the paper's default nothing learned comes between.

    Args:
        t: `[B]` times, in steps.
        width: D, even.

    Returns:
        `[B, D]` float32, in [-1, 1].
    """
    half = width // 2
    frequency = torch.exp(-math.log(10_000) / half * torch.arange(half, device=t.device))
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def _blocks(count: int, width: int, heads: int, *, skip: bool = False) -> nn.ModuleList:
    return nn.ModuleList(Block(width, heads, skip=skip) for _ in range(count))


def _check(num_layers: int, sample_size: int, patch_size: int) -> None:
    if num_layers < 1 or num_layers % 2 == 0:
        raise ValueError(
            f"want an odd number of blocks, so that each but the middle one has a partner across "
            f"the network, got num_layers={num_layers}"
        )
    if sample_size % patch_size:
        raise ValueError(f"patches of {patch_size} pixels do not fill {sample_size}")
