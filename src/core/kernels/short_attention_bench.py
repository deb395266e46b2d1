"""What the bench of short attention measures: shapes, floors, peers.

Tensors come and go as a network has them, `[B, F, N, H, d]`. A sequence is F rows of d numbers;
floors, of one of them:

    forward    q, k, v read, o written; scores and their sums of values         4 F d     4 F^2 d
    backward   q, k, v, g read, dq, dk, dv written; products for dp, dq, dk, dv 7 F d     8 F^2 d
                                                                                numbers   FLOP

That scores are formed again is not counted, nor any exponential: a floor must not be too high.
"""

from functools import cache
from importlib.util import find_spec
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from core.kernels._subject import Case, Peer, Results, Subject, results
from core.kernels.short_attention import reference_short_attention, short_attention


def cases(device: str) -> list[Case]:
    """Return what is measured: a video's temporal attention in Stable Diffusion's layers.

    On a GPU 8 frames at 512 x 512 pixels, 32 frames, wider heads of deeper layers, and 32 such
    videos, which are 131,072 places.
    """
    return [
        case(name, shape, dtype, backward)
        for name, shape, dtype in (_GPU if device == "cuda" else _CPU)
        for backward in (False, True)
    ]


def case(name: str, shape: dict[str, int], dtype: torch.dtype, backward: bool) -> Case:
    """Return a case with its floors.

    Args:
        name: what it is.
        shape: B, F, N, H, d.
        dtype: of q, k, v.
        backward: whether gradients belong to it.
    """
    numbers, F = prod(shape.values()), shape["F"]
    flop = (12 if backward else 4) * F * numbers
    moved = (11 if backward else 4) * numbers * dtype.itemsize
    return Case(name, shape, dtype, backward, float(flop), float(moved))


def draw(case: Case, device: str) -> tuple[Results, Tensor]:
    """Return normal q, k, v and g, the same at every call."""
    generator = torch.Generator(device).manual_seed(1)
    made: dict[str, Any] = {"dtype": case.dtype, "device": device, "generator": generator}
    *inputs, g = torch.randn(4, *case.shape.values(), **made)
    return tuple(inputs), g


def formula(case: Case, inputs: Results, g: Tensor | Results) -> Results:
    """Return the definition's results and autograd's gradients."""
    return results(reference_short_attention, inputs, g, case)


def rearranged(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return torch's attention over `[B N, H, F, d]`, and bring its result back."""
    B, _, N, _, _ = q.shape
    q, k, v = (x.permute(0, 2, 3, 1, 4).flatten(0, 1).contiguous() for x in (q, k, v))
    o = scaled_dot_product_attention(q, k, v).unflatten(0, (B, N))
    return o.permute(0, 3, 1, 2, 4).contiguous()


def baddbmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the same as the authors of ControlVideo have it from diffusers: two products."""
    B, F, N, H, d = q.shape
    q, k, v = (x.permute(0, 2, 3, 1, 4).reshape(-1, F, d) for x in (q, k, v))
    nothing = torch.empty(len(q), F, F, dtype=q.dtype, device=q.device)
    p = torch.baddbmm(nothing, q, k.mT, beta=0, alpha=d**-0.5).softmax(-1)
    return (p @ v).view(B, N, H, F, d).permute(0, 3, 1, 2, 4).contiguous()


@cache
def _flex(F: int, length: int, device: str) -> Any:
    """Return FlexAttention over places side by side, blind to all pairs but those of one place."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def same(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return i // F == j // F

    mask = create_block_mask(same, None, None, length, length, device=device)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, block_mask=mask)


def flex(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the same of `[B, N, F, H, d]`, whose places and frames are one long axis."""
    F, whole = q.shape[2], (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
    o = _flex(F, q.shape[1] * F, q.device.type)(*whole)
    return o.transpose(1, 2).unflatten(1, (-1, F))


def xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the same of `[B, N, F, H, d]`, whose samples and places are one batch."""
    from xformers.ops import memory_efficient_attention  # type: ignore[import-not-found]

    o = memory_efficient_attention(*(x.flatten(0, 1) for x in (q, k, v)))
    return o.unflatten(0, q.shape[:2])


def _places_first(x: Tensor) -> Tensor:
    return x.transpose(1, 2).contiguous()


def _on_cuda(device: str) -> str | None:
    if device != "cuda":
        return "needs CUDA: take --device cuda, on a machine that has it"
    return None


def _xformers_missing(device: str) -> str | None:
    if (reason := _on_cuda(device)) is not None:
        return reason
    return None if find_spec("xformers") else "not installed: pip install xformers"


def _copies(case: Case) -> float:
    """Four rearranged tensors, and as many gradients."""
    return (8 if case.backward else 4) * prod(case.shape.values()) * float(case.dtype.itemsize)


def _scores(case: Case) -> float:
    """The same, and scores and probabilities."""
    per_number = 2 * case.shape["F"] / case.shape["d"]
    return _copies(case) * (1 + per_number / 4)


_CPU = [
    ("a layer", {"B": 1, "F": 8, "N": 1024, "H": 8, "d": 40}, torch.float32),
    ("two halves of guidance", {"B": 2, "F": 8, "N": 256, "H": 8, "d": 80}, torch.float32),
    ("32 frames", {"B": 1, "F": 32, "N": 256, "H": 8, "d": 40}, torch.float32),
]
_GPU = [
    ("a layer", {"B": 1, "F": 8, "N": 4096, "H": 8, "d": 40}, torch.bfloat16),
    ("a layer", {"B": 1, "F": 8, "N": 4096, "H": 8, "d": 40}, torch.float32),
    ("two halves of guidance", {"B": 2, "F": 8, "N": 1024, "H": 8, "d": 80}, torch.float16),
    ("a deep layer", {"B": 2, "F": 8, "N": 256, "H": 8, "d": 160}, torch.bfloat16),
    ("32 frames", {"B": 1, "F": 32, "N": 4096, "H": 8, "d": 40}, torch.bfloat16),
    ("131,072 places", {"B": 32, "F": 8, "N": 4096, "H": 8, "d": 40}, torch.bfloat16),
]

BENCH = Subject(
    short_attention,
    cases,
    draw,
    formula,
    peers={
        "rearranged": Peer(
            rearranged, "torch's attention between two rearrangements", scratch=_copies
        ),
        "baddbmm": Peer(baddbmm, "as ControlVideo's authors write it", scratch=_scores),
        "flex": Peer(
            flex,
            "FlexAttention with a block-diagonal mask, given tensors that need no rearrangement",
            missing=_on_cuda,
            arrange=_places_first,
        ),
        "xformers": Peer(
            xformers,
            "its memory-efficient attention, given tensors that need no rearrangement",
            missing=_xformers_missing,
            arrange=_places_first,
            package="xformers",
        ),
    },
)
