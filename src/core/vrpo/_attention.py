"""Attention of packed sequences, each within itself, and the rotation that tells positions.

Sequences of one length stand together and go to one call of scaled dot-product attention as a
batch; a pack of one length is one call. On CUDA, half types of mixed lengths take PyTorch's
attention of variable lengths. Either way there is no `[T, T]` mask and no padding.
"""

from functools import lru_cache, partial
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
    if len(groups) > 1 and _flash_takes(q):
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


def _flash_takes(q: Tensor) -> bool:
    """Tell whether PyTorch's attention of variable lengths serves this dtype, width and GPU."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    fits = q.is_cuda and half and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256
    return fits and torch.cuda.get_device_capability(q.device) >= (8, 0)


def _varlen(q: Tensor, k: Tensor, v: Tensor, where: Layout) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    longest = where.groups[-1][1]
    attend = partial(varlen_attn, enable_gqa=True) if q.shape[1] != k.shape[1] else varlen_attn
    out = attend(q, k, v, where.bounds, where.bounds, longest, longest)
    assert isinstance(out, Tensor)
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + Dh/2}) of `x` `[T, H, Dh]` by their token's angles.

    Computed in the tables' dtype, returned in that of `x`.
    """
    wide = x.to(cos.dtype)
    return (wide * cos + wide.roll(x.shape[-1] // 2, -1) * sin).to(x.dtype)


def rotary_tables(
    config: "Config", positions: Tensor, longest: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return what `rotate` takes for the tokens' angles, `[T, 1, Dh]` each.

    The first has the cosine of a pair at both its places, the second the sine, negative at the
    first of them. The angle of pair i at position t is t theta^(-2i / Dh). It is computed in
    float64 and rounded to float32, or kept for a model in float64: exact where LLaDA's own, in
    float32, is off by up to 2e-4 at position 4096.
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
    cos, sin = angle.cos(), angle.sin()
    both = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
    return both[0].to(device, dtype), both[1].to(device, dtype)
