"""What the bench of activation_stats measures: shapes, floors, peers.

The floor is to read x, N numbers, or x and x0, 2 N; the 5 or 8 operations a number never count.
"""

from math import inf, prod

import torch
from torch import Tensor

from core.kernels._subject import Case, Peer, Results, Subject
from core.kernels.activation_stats import activation_stats, reference_stats


def cases(device: str) -> list[Case]:
    """Return what is measured: activations of DiT-XL/2, of 8 images on a CPU, of 256 on a GPU."""
    gpu = device == "cuda"
    shape = {"B": 256 if gpu else 8, "T": 256, "D": 1152}
    dtypes = (torch.bfloat16, torch.float32) if gpu else (torch.float32,)
    return [case(name, shape, dtype) for dtype in dtypes for name in ("x alone", "x and x0")]


def case(name: str, shape: dict[str, int], dtype: torch.dtype) -> Case:
    """Return a case with its floors.

    Args:
        name: "x alone" or "x and x0".
        shape: B, T, D.
        dtype: of both.
    """
    N, both = prod(shape.values()), name == "x and x0"
    numbers = (2 if both else 1) * N * dtype.itemsize
    return Case(name, shape, dtype, False, (8.0 if both else 5.0) * N, float(numbers))


def draw(case: Case, device: str) -> tuple[Results, Tensor]:
    """Return x, perhaps x0, the same at every call; no gradient comes back."""
    generator = torch.Generator(device).manual_seed(1)
    made = {"dtype": case.dtype, "device": device, "generator": generator}
    x, x0 = torch.randn(2, *case.shape.values(), **made)
    return ((x, x0) if case.name == "x and x0" else (x,)), x.new_zeros(())


def formula(case: Case, inputs: Results, g: Tensor | Results) -> Results:
    """Return what the definition says."""
    return (reference_stats(*inputs),)


def separate(x: Tensor, x0: Tensor | None = None) -> Tensor:
    """Return the same, a call of torch after the other."""
    wide = torch.promote_types(x.dtype, torch.float32)
    size = x.abs().sum(dtype=wide), x.square().sum(dtype=wide), x.abs().amax().to(wide)
    return torch.stack(size if x0 is None else (*size, (x - x0).abs().sum(dtype=wide)))


def norms(x: Tensor, x0: Tensor | None = None) -> Tensor:
    """Return the same from torch's norms, which write nothing in between but x - x0."""
    wide = torch.promote_types(x.dtype, torch.float32)

    def norm(x: Tensor, order: float) -> Tensor:
        return torch.linalg.vector_norm(x, order, dtype=wide)

    size = norm(x, 1), norm(x, 2).square(), norm(x, inf)
    return torch.stack(size if x0 is None else (*size, norm(x - x0, 1)))


BENCH = Subject(
    activation_stats,
    cases,
    draw,
    formula,
    peers={
        "separate": Peer(separate, "a call of torch after the other"),
        "norms": Peer(norms, "torch.linalg.vector_norm, three times or four"),
    },
)
