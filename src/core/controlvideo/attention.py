r"""What frames see of each other: the attention of the paper, as processors of diffusers' `attn1`.

With n = LayerNorm(h) of a transformer block, [B F, N, C],

    h <- h + KeyFrameAttn(n) + Conv_0(TemporalAttn(n))

The queries of every frame meet the keys and values of the key frames only; the temporal branch lets
each place see itself in all F frames. Both are computed from the same n, and a block of diffusers
adds to h whatever its processor returns: so no class of diffusers is changed.

Frames are folded into the query axis, q [B, H, F N, d] against k, v [B, H, N, d]: nothing is
replicated, and no other frame's keys or values are computed.

Source: the authors' code, thu-ml/controlvideo at 23b6b0b, `libs/attention.py`.
Symbols: `B` videos, `F` frames, `N` tokens of a frame, `C` channels, `H` heads of dimension d.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from core.controlvideo.clip import Clip
from core.kernels.short_attention import short_attention

Sees = Literal["key", "own", "sparse-causal"]
"""What a frame attends to: the key frames, itself, or the first and the previous frame."""
Place = Literal["before", "parallel", "after"]
"""Of the temporal branch, relative to self-attention; the paper has it parallel."""


class TemporalBranch(nn.Module):
    """Attention over the frames at each place, and a projection that starts at zero."""

    def __init__(self, dim: int, heads: int, inner: int, *, positions: bool = False) -> None:
        """Draw the projections as `nn.Linear` does; the last one is zero.

        Args:
            dim: C.
            heads: H.
            inner: H d.
            positions: tell frames apart by sinusoids; the paper does not.
        """
        super().__init__()
        self.heads, self.positions = heads, positions
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.to_out = nn.Linear(inner, dim)
        self.conv = nn.Linear(dim, dim)  # a 1 x 1 convolution
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    @torch.no_grad()
    def copy_(self, attn: Attention) -> None:
        """Start from the block's own self-attention, as the paper does."""
        self.to_q.weight.copy_(attn.to_q.weight)
        self.to_k.weight.copy_(attn.to_k.weight)  # type: ignore[union-attr]
        self.to_v.weight.copy_(attn.to_v.weight)  # type: ignore[union-attr]
        out = projection(attn)
        self.to_out.weight.copy_(out.weight)
        if out.bias is not None:
            self.to_out.bias.copy_(out.bias)

    def forward(self, n: Tensor, clip: Clip) -> Tensor:
        """Return what the branch adds, `[B F, N, C]`."""
        x = clip.split(n)  # [B, F, N, C]
        if self.positions:
            x = x + sinusoids(clip.frames, x.shape[-1]).to(x)[:, None]
        q, k, v = (
            to(x).unflatten(-1, (self.heads, -1)) for to in (self.to_q, self.to_k, self.to_v)
        )
        seen = short_attention(q, k, v)  # B N H problems of F x F
        return self.conv(self.to_out(seen.flatten(-2))).flatten(0, 1)


class Delta(nn.Module):
    """What tuning adds to a projection of a self-attention; zero at first."""

    def __init__(self, inner: int, dim: int, *, bias: bool = True) -> None:
        """Make the difference of a projection from `inner` to `dim`."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim, inner))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the projection of x, whatever layer that is (a LoRA's, say)."""
        return linear(x, self.weight, self.bias)


@dataclass
class VideoAttention:
    """A processor of one `attn1`; no module, so that the model's own state stays what it was."""

    clip: Clip
    site: str
    """Its name, as among the `attn_processors` of the UNet, without `.processor`."""
    sees: Sees = "key"
    branch: TemporalBranch | None = None
    place: Place = "parallel"
    deltas: Mapping[str, Delta] = field(default_factory=dict)
    """What tuning adds to a projection, by its name: `to_q`, `to_k`, `to_v`, `to_out`."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        """Return what the block adds to its input.

        Args:
            attn: the self-attention of a transformer block.
            hidden_states: `[B F, N, C]`, normed.
            encoder_hidden_states: None.
            attention_mask: None.

        Raises:
            ValueError: the batch is no whole number of videos, or there is a mask.
        """
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError(f"{self.site}: want plain self-attention, got a context or a mask")
        n, branch = hidden_states, self.branch
        if branch is None:
            return self._spatial(attn, n)
        if self.place == "parallel":
            return self._spatial(attn, n) + branch(n, self.clip)
        if self.place == "before":
            added = branch(n, self.clip)
            return added + self._spatial(attn, n + added)
        added = self._spatial(attn, n)
        return added + branch(n + added, self.clip)

    def _spatial(self, attn: Attention, n: Tensor) -> Tensor:
        q = _heads(self._project(attn, "to_q", n), attn.heads)  # [B F, H, N, d]
        if self.sees == "key":
            q = self.clip.split(q).transpose(1, 2).flatten(2, 3)  # [B, H, F N, d]
            seen = self.clip.key_tokens(n, self.site)
        elif self.sees == "own":
            seen = n
        else:
            video = self.clip.split(n)
            previous = torch.cat([video[:, :1], video[:, :-1]], dim=1)
            first = video[:, :1].expand_as(video)
            seen = torch.cat([first, previous], dim=2).flatten(0, 1)
        k = _heads(self._project(attn, "to_k", seen), attn.heads)
        v = _heads(self._project(attn, "to_v", seen), attn.heads)
        out = scaled_dot_product_attention(q, k, v, scale=attn.scale)
        if self.sees == "key":
            out = out.unflatten(2, (self.clip.frames, -1)).transpose(1, 2).flatten(0, 1)
        return self._project(attn, "to_out", out.transpose(1, 2).flatten(2))

    def _project(self, attn: Attention, name: str, x: Tensor) -> Tensor:
        found = projection(attn, name)(x)
        return found + self.deltas[name](x) if name in self.deltas else found


def projection(attn: Attention, name: str = "to_out") -> nn.Linear:
    """Return a projection of an attention of Stable Diffusion; dropout behind `to_out` is zero."""
    return attn.to_out[0] if name == "to_out" else getattr(attn, name)  # type: ignore[return-value, index]


def sinusoids(frames: int, dim: int) -> Tensor:
    """Return an embedding of frame numbers, `[F, C]`, as in "Attention Is All You Need"."""
    half = (dim + 1) // 2
    rate = torch.exp(-math.log(10_000) / half * torch.arange(half))
    angle = torch.arange(frames)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :dim]


def _heads(x: Tensor, heads: int) -> Tensor:
    """Return `[B, H, N, d]` of `[B, N, H d]`."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
