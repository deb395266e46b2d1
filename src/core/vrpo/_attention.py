"""Attention of packed sequences, each within itself, and the rotation that tells positions.

Sequences of one length stand together and go to one call of scaled dot-product attention as a
batch; a pack of one length is one call. On CUDA, half types of mixed lengths take PyTorch's
attention of variable lengths. Either way there is no `[T, T]` mask and no padding.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from core.vrpo.packing import Layout

if TYPE_CHECKING:
    from core.vrpo.model import Config


def attend(q: Tensor, k: Tensor, v: Tensor, where: Layout) -> Tensor:
    """Return attention in both directions within each sequence.

    Args:
        q: `[T, H, Dh]` queries, in the order of `where`.
        k: `[T, Hkv, Dh]` keys; each head serves `H / Hkv` heads of queries.
        v: `[T, Hkv, Dh]` values.
        where: which tokens are one sequence.

    Returns:
        `[T, H, Dh]`.
    """
    groups = where.groups
    if len(groups) > 1 and q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        return _varlen(q, k, v, where)
    if len(groups) == 1:
        return _group(q, k, v, groups[0])
    sizes = [count * length for count, length in groups]
    parts = zip(q.split(sizes), k.split(sizes), v.split(sizes), groups, strict=True)
    return torch.cat([_group(*part) for part in parts])


def _group(q: Tensor, k: Tensor, v: Tensor, group: tuple[int, int]) -> Tensor:
    """Attend within sequences of one length, as a batch."""
    q, k, v = (x.view(*group, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])
    return out.transpose(1, 2).flatten(0, 1)


def _varlen(q: Tensor, k: Tensor, v: Tensor, where: Layout) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    longest = where.groups[-1][1]
    gqa = q.shape[1] != k.shape[1]
    bounds = where.bounds
    out = varlen_attn(q, k, v, bounds, bounds, longest, longest, enable_gqa=gqa)
    assert isinstance(out, Tensor)
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + Dh/2}) of `x` `[T, H, Dh]` by their token's angles.

    Computed in the tables' dtype, returned in that of `x`.
    """
    a, b = x.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def rotary_tables(
    config: "Config", positions: Tensor, longest: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the tokens' angles, `[T, 1, Dh / 2]` each.

    The angle of pair i at position t is t theta^(-2i / Dh). It is computed in float64 and rounded
    to float32, or kept for a model in float64: exact where LLaDA's own, in float32, is off by up to
    2e-4 at position 4096.
    """
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    size = 1 << (longest - 1).bit_length()  # few tables serve all lengths
    cos, sin = _tables(config.head_width, config.rope_theta, size, kept, positions.device)
    return cos[positions], sin[positions]


@lru_cache(maxsize=16)
def _tables(
    width: int, theta: float, size: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    rate = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(size, dtype=torch.float64)[:, None, None] * rate
    return angle.cos().to(device, dtype), angle.sin().to(device, dtype)
