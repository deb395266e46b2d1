"""What they refuse of tensors."""

import torch
from torch import Tensor

SUMS_TO_ONE = 1e-5
"""How far probabilities may be from summing to one: softmax in float32 is nearer."""


def probabilities(name: str, p: Tensor) -> Tensor:
    """Return `p` in float64; a ValueError unless its last axis holds probabilities."""
    p = p.double()
    if not (p >= 0).all():
        worst = "nan" if p.isnan().any() else f"{p.min():.3g}"
        raise ValueError(f"want probabilities {name} >= 0, got {worst} among them")
    total = p.sum(-1)
    off = (total - 1).abs()
    if off.numel() and off.max() > SUMS_TO_ONE:
        worst = total.flatten()[int(off.argmax())]
        raise ValueError(
            f"want probabilities {name} that sum to one over the last axis, got a sum of "
            f"{worst:.6g}: divide by it, or add the outcomes that are missing"
        )
    return p


def factor(name: str, S: Tensor) -> Tensor:
    """Return the Cholesky factor of covariances; a ValueError unless they are ones.

    Args:
        name: what the message calls them.
        S: `[..., d, d]`.
    """
    if S.ndim < 2 or S.shape[-1] != S.shape[-2]:
        raise ValueError(f"want a covariance {name} [..., d, d], got {list(S.shape)}")
    S = S.double()
    scale = S.abs().amax((-2, -1), keepdim=True)
    if not ((S - S.mT).abs() <= 1e-6 * scale).all():
        raise ValueError(f"want a symmetric covariance {name}, got one that is not")
    L, info = torch.linalg.cholesky_ex(S)
    if info.any():
        least = torch.linalg.eigvalsh(S)[..., 0].min()
        raise ValueError(
            f"want a positive definite covariance {name}, got a least eigenvalue of {least:.3g}: "
            "leave out variables that others determine, or add to the diagonal"
        )
    return L


def sources_with_data(n: Tensor, names: list[str] | None = None) -> None:
    """Raise a ValueError where a source has no data.

    Args:
        n: `[..., K]` samples of each.
        names: of the sources; else their numbers from 0.
    """
    empty = (n == 0).reshape(-1, n.shape[-1]).any(0).nonzero().flatten().tolist()
    if empty:
        which = ", ".join(names[k] if names else str(k) for k in empty)
        raise ValueError(
            f"source(s) without data: {which}; want a sample of each: leave them out, or take more"
        )
