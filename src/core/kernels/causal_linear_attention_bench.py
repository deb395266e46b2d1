"""What the bench of causal linear attention measures: shapes, floors, peers.

Floors, per sequence. Each state (one that runs forward, one that runs backward in time) takes T
outer products to build, and each result takes T products with a state, 2 D M flop apiece; four
times that for complex numbers:

    forward              1 state,  1 result  (o)               4 T D M     T (2 D + 2 M) numbers
    forward + backward   2 states, 4 results (o, dq, dk, dv)  12 T D M     T (6 D + 5 M) numbers

dk and dv share the state that runs backward. That dq takes the state of the forward pass, which no
memory can hold and every way known builds again, is not counted: a floor must not be too high.
Numbers moved: q, k, v read and o written; then q, k, v, g read and dq, dk, dv written.
"""

from importlib.util import find_spec
from itertools import product
from math import inf, prod

import torch
from torch import Tensor

from core.kernels._subject import Case, Peer, Results, Subject, results
from core.kernels.causal_linear_attention import causal_linear_attention, reference_attention

SCORES = 2**25
"""Scores that the formula holds at once."""


def cases(device: str) -> list[Case]:
    """Return what is measured on a type of device.

    On a CPU float32 at a length where T^2 scores hurt, on a GPU the sizes of a language model; on
    both the sizes of the mesa chapter, complex.
    """
    n, singles = (10_000, inf) if device == "cuda" else (1000, 1e-6)
    found = [
        case(name, shape, dtype, backward, most=singles if dtype == torch.float32 else inf)
        for shape, dtype in (_GPU if device == "cuda" else _CPU)
        for name, backward in product(("plain", "normalised"), (False, True))
    ]
    mesa = {"B": n, "T": 98, "D": 10, "M": 10}
    return found + [
        case("normalised", mesa, dtype, backward)
        for dtype, backward in product((torch.complex64, torch.complex128), (False, True))
    ]


def case(
    name: str, shape: dict[str, int], dtype: torch.dtype, backward: bool, *, most: float = inf
) -> Case:
    """Return a case with its floors.

    Args:
        name: "plain" or "normalised".
        shape: B, perhaps H, then T, D, M.
        dtype: of q, k, v.
        backward: whether gradients belong to it.
        most: the largest relative error allowed.
    """
    sequences = prod(n for axis, n in shape.items() if axis in "BH")
    T, D, M = (shape[axis] for axis in "TDM")
    flop = (12 if backward else 4) * T * D * M * (4 if dtype.is_complex else 1)
    numbers = T * (6 * D + 5 * M if backward else 2 * D + 2 * M)
    return Case(
        name,
        shape,
        dtype,
        backward,
        flop=float(sequences * flop),
        bytes=float(sequences * numbers * dtype.itemsize),
        options={"normalize": name == "normalised"},
        most=most,
    )


def draw(case: Case, device: str) -> tuple[Results, Tensor]:
    """Return normal q, k, v and g, the same at every call."""
    generator = torch.Generator(device).manual_seed(1)
    *lead, T, D, M = case.shape.values()

    def normal(width: int) -> Tensor:
        shape = (*lead, T, width)
        return torch.randn(shape, dtype=case.dtype, device=device, generator=generator)

    return (normal(D), normal(D), normal(M)), normal(M)


def formula(case: Case, inputs: Results, g: Tensor) -> Results:
    """Return the definition's results and autograd's gradients, a few sequences at a time."""
    lead, T = g.shape[:-2], g.shape[-2]
    at_once = max(1, SCORES // T**2)
    pieces = zip(*(x.flatten(0, -3).split(at_once) for x in (*inputs, g)), strict=True)
    parts = [results(reference_attention, piece[:-1], piece[-1], case) for piece in pieces]
    return tuple(torch.cat(column).unflatten(0, lead) for column in zip(*parts, strict=True))


def quadratic(q: Tensor, k: Tensor, v: Tensor, *, normalize: bool) -> Tensor:
    """Return tril(q k^H) v, the weights applied to the result, which is cheapest."""
    return _weighted((q @ k.mH).tril() @ v, normalize)


def recurrent(q: Tensor, k: Tensor, v: Tensor, *, normalize: bool) -> Tensor:
    """Return the same from a state that is updated token by token."""
    k = k.conj()
    S = q.new_zeros(*q.shape[:-2], q.shape[-1], v.shape[-1])
    o = []
    for t in range(q.shape[-2]):
        S = S + k[..., t, :, None] * v[..., t, None, :]
        o.append((q[..., t, None, :] @ S).squeeze(-2))
    return _weighted(torch.stack(o, -2), normalize)


def cumsum(q: Tensor, k: Tensor, v: Tensor, *, normalize: bool) -> Tensor:
    """Return the same from the prefix sums of all outer products."""
    S = (k.conj()[..., :, None] * v[..., None, :]).cumsum(-3)
    return _weighted((q[..., None, :] @ S).squeeze(-2), normalize)


def fla(q: Tensor, k: Tensor, v: Tensor, *, normalize: bool) -> Tensor:
    """Return what flash-linear-attention does, `[B, T, H, .]`, weights multiplied afterwards."""
    from fla.ops.linear_attn import chunk_linear_attn  # type: ignore[import-not-found]

    o, _ = chunk_linear_attn(q, k, v, scale=1.0, normalize=False)
    return o * _weights(o.shape[1], o)[:, None, None] if normalize else o


def _fla_missing(device: str) -> str | None:
    if device != "cuda":
        return "needs CUDA: take --device cuda, on a machine that has it"
    if find_spec("fla") is None:
        return "not installed: pip install flash-linear-attention"
    return None


def _fla_limit(case: Case) -> str | None:
    if case.dtype.is_complex or case.dtype == torch.float64:
        return "real numbers of at most 32 bits only"
    return None if "H" in case.shape else "wants heads"


def _weighted(o: Tensor, normalize: bool) -> Tensor:
    return o * _weights(o.shape[-2], o)[:, None] if normalize else o


def _weights(T: int, like: Tensor) -> Tensor:
    """Return 1 / max(t - 1, 1), rounded once: t itself is no number of 16 bits."""
    real = like.real.dtype if like.is_complex() else like.dtype
    return (1 / torch.arange(T, dtype=torch.float64, device=like.device).clamp(min=1)).to(real)


def _scores(case: Case) -> float:
    """Scores and their lower half, and as much again for gradients."""
    return (4 if case.backward else 2) * _sequences(case) * case.shape["T"] ** 2 * _item(case)


def _states(case: Case) -> float:
    """A state for every token, and another array as large; and as much again for gradients."""
    numbers = _sequences(case) * case.shape["T"] * case.shape["D"] * case.shape["M"]
    return (4 if case.backward else 2) * numbers * _item(case)


def _sequences(case: Case) -> int:
    return case.shape["B"] * case.shape.get("H", 1)


def _item(case: Case) -> int:
    return case.dtype.itemsize


_CPU = [({"B": 4, "T": 2048, "D": 64, "M": 64}, torch.float32)]
_GPU = [
    ({"B": 8, "H": 32, "T": 4096, "D": 128, "M": 128}, torch.bfloat16),
    ({"B": 8, "H": 32, "T": 4096, "D": 64, "M": 64}, torch.bfloat16),
    ({"B": 8, "H": 32, "T": 4096, "D": 64, "M": 64}, torch.float32),
]

BENCH = Subject(
    causal_linear_attention,
    cases,
    draw,
    formula,
    peers={
        "quadratic": Peer(quadratic, "all T^2 scores, gradients by autograd", scratch=_scores),
        "recurrent": Peer(recurrent, "a Python loop over the tokens", scratch=_states),
        "cumsum": Peer(cumsum, "prefix sums of all outer products", scratch=_states),
        "fla": Peer(
            fla,
            "flash-linear-attention's chunk_linear_attn; of it a normalised form of this kind is "
            "the plain one times 1 / (t - 1)",
            missing=_fla_missing,
            limit=_fla_limit,
            arrange=lambda x: x.transpose(1, 2).contiguous(),
            package="flash-linear-attention",
        ),
    },
)
