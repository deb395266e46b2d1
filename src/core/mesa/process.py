r"""The autoregressive process whose sequences the layer is trained on.

    x_{t+1} = W x_t,    W = diag(lambda_1, ..., lambda_d),    |lambda_j| = 1,    x_1 ~ start

Each sequence has its own W, its phases uniform and independent, so that x_t = lambda^{t-1} x_1
and nothing has to be iterated. The layer sees the tokens e_t = (x_t, x_{t-1}) with x_0 = 0.

Source: arXiv:2405.16845v2, Sections 3.1 and 3.2. Symbols here = there: `N` sequences, `T` tokens
of each (T_tr in training, T_te in a test), `theta` the phases, lambda = exp(i theta).
"""

import math

import torch
from torch import Tensor

from core.checks import at_least
from core.mesa.moments import Start


def sample_phases(
    N: int, d: int, generator: torch.Generator, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the phases of N matrices W, uniform on [0, 2 pi).

    Args:
        N: number of sequences, at least one.
        d: number of coordinates, at least one.
        generator: what is drawn from.
        device: where the result lives; the draws do not depend on it.

    Returns:
        `[N, d]` float64, in radians: W of sequence n is `diag(exp(i theta[n]))`.

    Raises:
        ValueError: N or d is below one.
    """
    at_least(1, N=N, d=d)
    theta = torch.rand(N, d, generator=generator, dtype=torch.float64, device=generator.device)
    return (2 * math.pi * theta).to(device)


def sequences(x_1: Tensor, theta: Tensor, T: int) -> Tensor:
    """Return x_1, W x_1, ..., W^{T-1} x_1 for W = diag(exp(i theta)).

    Args:
        x_1: `[N, d]` first tokens.
        theta: `[N, d]` phases, in radians.
        T: tokens of a sequence, at least three: two to look at, one to predict.

    Returns:
        `[N, T, d]` complex128.

    Raises:
        ValueError: T is below three, the shapes differ, or a value is not finite.
    """
    at_least(3, because="two tokens to look at and one to predict", T=T)
    if x_1.ndim != 2 or x_1.shape != theta.shape:
        raise ValueError(
            f"want x_1 [N, d] and theta [N, d], got {list(x_1.shape)} and {list(theta.shape)}"
        )
    if not (x_1.isfinite().all() and theta.isfinite().all()):
        raise ValueError("want finite x_1 and theta, got inf or nan among them")
    steps = torch.arange(T, dtype=torch.float64, device=theta.device)
    angle = theta[:, None, :] * steps[None, :, None]  # [N, T, d]
    return x_1[:, None, :] * torch.polar(torch.ones_like(angle), angle)


def sample_sequences(
    start: Start,
    T: int,
    N: int,
    generator: torch.Generator,
    *,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw N sequences of T tokens. (Draw the phases yourself to know W: see `sequences`.)

    Args:
        start: the law of x_1.
        T: tokens of a sequence, at least three.
        N: number of sequences, at least one.
        generator: what is drawn from, the starts first, then the phases.
        device: where the result lives; the draws do not depend on it.

    Returns:
        `[N, T, d]` complex128.

    Raises:
        ValueError: T is below three, or N below one.
    """
    at_least(3, because="two tokens to look at and one to predict", T=T)
    at_least(1, N=N)
    x_1 = start.draw(N, generator).to(device)
    return sequences(x_1, sample_phases(N, start.d, generator, device=device), T)


def tokens(x: Tensor) -> Tensor:
    """Return what the layer reads, e_t = (x_t, x_{t-1}) with x_0 = 0.

    Args:
        x: `[N, T, d]` sequences.

    Returns:
        `[N, T, 2d]`, the paper's $e_t^x$.

    Raises:
        ValueError: `x` is not three-dimensional, is empty, or has a value that is not finite.
    """
    if x.ndim != 3 or min(x.shape) < 1:
        raise ValueError(f"want sequences [N, T, d], got {list(x.shape)}")
    if not x.isfinite().all():
        raise ValueError("want finite sequences, got inf or nan among them")
    return torch.cat([x, torch.nn.functional.pad(x[:, :-1], (0, 0, 1, 0))], dim=2)
