r"""Learning W from the context: by gradient steps, as the layer does, or all the way.

The context x_1, ..., x_t poses the least-squares problem (Corollary 4.1)

    L_t(W) = 1/2 sum_{i<t} |x_{i+1} - W x_i|^2,    R_t = sum_{i<t} x_i x_i^*,
                                                   S_t = sum_{i<t} x_{i+1} x_i^*

A trained linear layer predicts with one gradient step from W = 0. A mesa-layer predicts with the
minimum of L_t(W) + ridge/2 |W|^2, that is S_t (R_t + ridge)^{-1} x_t, and so knows x_{t+1} from
t = d + 1 on, whatever the start. Three solvers: a dense solve, the running inverse of Sherman and
Morrison, and conjugate gradients, which kernels prefer, since each token takes the same few steps.

`state_dtype` rounds R_t as a kernel that stores it would. Rounding moves its eigenvalues by about
eps |R_t|; where the ridge is smaller than that, R_t + ridge is no longer positive definite and no
solver helps: see fla-org/flash-linear-attention#1187, where float16 states ended in NaN.

Source: arXiv:2405.16845v2, Corollary 4.1; the mesa-layer is that of arXiv:2309.05858.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from core.checks import at_least
from core.mesa._checks import finite, positive
from core.mesa.lsa import check_sequences

Solver = Literal["solve", "sherman_morrison", "cg"]


class Context(NamedTuple):
    """The least-squares problems of t = 2, ..., T-1."""

    R: Tensor
    """`[N, T-2, d, d]`, Hermitian."""
    S: Tensor
    """`[N, T-2, d, d]`."""
    query: Tensor
    """`[N, T-2, d]`: x_t."""


def _context(x: Tensor) -> Context:
    """Return the running sums R_t, S_t and x_t of sequences `[N, T, d]`."""
    check_sequences(x)
    past, present = x[:, :-2], x[:, 1:-1]  # x_{t-1} and x_t, t = 2, ..., T-1
    R = (past[..., :, None] * past.conj()[..., None, :]).cumsum(dim=1)
    S = (present[..., :, None] * past.conj()[..., None, :]).cumsum(dim=1)
    return Context(R, S, present)


def gradient_step_predict(x: Tensor, eta: float, *, steps: int = 1) -> Tensor:
    """Predict x_{t+1} as W x_t, W after gradient steps on L_t from W = 0.

    One step is the trained layer with ab = eta (Corollary 4.1); K steps are what K layers can do.

    Args:
        x: `[N, T, d]` sequences, complex.
        eta: the step at t is eta / (t - 1).
        steps: how many, at least one.

    Returns:
        `[N, T-2, d]`, for t = 2, ..., T-1. Where many steps diverge, as they do at a t whose R_t
        has an eigenvalue above 2 (t - 1) / eta, what they diverge to, inf or nan in the end.

    Raises:
        ValueError: `x` does not fit, eta is not finite, or steps is below one.
    """
    finite(eta=eta)
    at_least(1, steps=steps)
    R, S, query = _context(x)
    step = eta / torch.arange(1, x.shape[1] - 1, dtype=x.real.dtype, device=x.device)
    W = torch.zeros_like(S)
    for _ in range(steps):
        W = W - step[:, None, None] * (W @ R - S)
    return _apply(W, query)


def mesa_predict(
    x: Tensor,
    *,
    ridge: float,
    solver: Solver = "solve",
    iterations: int | None = None,
    state_dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Predict x_{t+1} as W x_t, W the ridge regression of the context.

    Args:
        x: `[N, T, d]` sequences, complex.
        ridge: what is added to R_t's diagonal, > 0 (R_t is singular up to t = d).
        solver: `"solve"`; `"sherman_morrison"`, whose error grows like eps / ridge; or `"cg"`.
        iterations: of `"cg"`; in exact arithmetic d are enough, the default is 2 d.
        state_dtype: what R_t is rounded to; `"sherman_morrison"` never forms it and refuses.

    Returns:
        `[N, T-2, d]`, for t = 2, ..., T-1.

    Raises:
        ValueError: ridge is not positive and finite, the solver is unknown, an option is not its
            own, `state_dtype` cannot hold R_t, or the solution is not finite.
    """
    _check_options(ridge, solver, iterations, state_dtype)
    hint = f"a larger ridge than {ridge}"
    R, S, query = _context(x)
    if solver == "sherman_morrison":
        return _finite(_apply(S, _running_inverse(x, ridge, query)), hint)
    A = _round_to(R, state_dtype) + ridge * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    if solver == "cg":
        solution = _conjugate_gradient(A, query, iterations or 2 * x.shape[-1])
    else:
        solution, _ = torch.linalg.solve_ex(A, query)  # a singular one is refused below
    return _finite(_apply(S, solution), hint)


def _round_to(z: Tensor, dtype: torch.dtype) -> Tensor:
    """Return complex `z` with real and imaginary parts rounded to `dtype` and back."""
    if not dtype.is_floating_point:
        raise ValueError(f"want a floating state_dtype, got {dtype}")
    parts = torch.view_as_real(z)
    rounded = torch.view_as_complex(parts.to(dtype).to(parts.dtype))
    return _finite(rounded, f"a wider state_dtype than {dtype}")


def _finite(z: Tensor, hint: str) -> Tensor:
    if not z.isfinite().all():
        raise ValueError(f"want {hint}: got inf or nan")
    return z


def smallest_eigenvalue(
    x: Tensor, *, ridge: float, state_dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return the smallest eigenvalue of the rounded R_t plus the ridge.

    Below zero the system is not positive definite and its solution means nothing.

    Args:
        x: `[N, T, d]` sequences, complex.
        ridge: what is added to the diagonal.
        state_dtype: what R_t is rounded to.

    Returns:
        `[N, T-2]`, for t = 2, ..., T-1.

    Raises:
        ValueError: `x` does not fit, ridge is not finite, or `state_dtype` cannot hold R_t.
    """
    finite(ridge=ridge)
    R = _round_to(_context(x).R, state_dtype)
    return torch.linalg.eigvalsh(R)[..., 0] + ridge


def _conjugate_gradient(A: Tensor, b: Tensor, iterations: int) -> Tensor:
    """Return what plain conjugate gradients make of A q = b from q = 0.

    Args:
        A: `[..., d, d]` Hermitian; convergence needs it positive definite, and nothing checks.
        b: `[..., d]`.
        iterations: how many; a system whose residual is zero stays where it is.
    """
    q, r = torch.zeros_like(b), b
    p, energy = r, _dot(r, r)
    for _ in range(iterations):
        Ap = _apply(A, p)
        alpha = _ratio(energy, _dot(p, Ap))
        q, r = q + alpha * p, r - alpha * Ap
        new = _dot(r, r)
        p, energy = r + _ratio(new, energy) * p, new
    return q


def _running_inverse(x: Tensor, ridge: float, query: Tensor) -> Tensor:
    """Return (R_t + ridge)^{-1} x_t, the inverse P updated by one token at a time."""
    N, T, d = x.shape
    P = torch.eye(d, dtype=x.dtype, device=x.device).expand(N, d, d) / ridge
    solutions = []
    for t in range(T - 2):
        Px = _apply(P, x[:, t])
        P = P - Px[:, :, None] * Px.conj()[:, None, :] / (1 + _dot(x[:, t], Px))[..., None]
        solutions.append(_apply(P, query[:, t]))
    return torch.stack(solutions, dim=1)


def _apply(W: Tensor, v: Tensor) -> Tensor:
    return (W @ v[..., None])[..., 0]


def _dot(u: Tensor, v: Tensor) -> Tensor:
    return (u.conj() * v).sum(dim=-1, keepdim=True).real


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator == 0, 0.0, numerator / denominator.where(denominator != 0, 1.0))


def _check_options(
    ridge: float, solver: str, iterations: int | None, state_dtype: torch.dtype
) -> None:
    positive(ridge=ridge)  # R_t is singular up to t = d
    if solver not in ("solve", "sherman_morrison", "cg"):
        raise ValueError(f"want solver 'solve', 'sherman_morrison' or 'cg', got {solver!r}")
    if iterations is not None:
        at_least(1, because="and for 'cg' only", iterations=iterations)
        if solver != "cg":
            raise ValueError(f"want iterations only for 'cg', got {iterations} for {solver!r}")
    if solver == "sherman_morrison" and state_dtype != torch.float64:
        raise ValueError("want state_dtype float64: 'sherman_morrison' keeps the inverse, not R_t")
