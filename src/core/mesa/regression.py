r"""The other kind of in-context learning: few-shot regression, where one gradient step suffices.

A prompt has n examples (x_i, y_i = w . x_i) and a query x_q, all x Gaussian and independent, and w
new in each prompt. One gradient step from zero on 1/2 sum (y_i - w . x_i)^2, of size step / n,
predicts

    y_hat = (step / n) sum_i y_i x_i . x_q.

With E x x^T = sigma^2 I and E w w^T proportional to I, Wishart's second moment gives

    E (y_hat - y)^2 / E y^2 = 1 - 2 s + s^2 (1 + (d + 1) / n),    s = step sigma^2,

so that the best step is n / ((n + d + 1) sigma^2), and its error (d + 1) / (n + d + 1) vanishes
with n. For the autoregressive process with a Gaussian start it tends to 2/5 (Proposition 4.1):
there the query is the same start that scales every example, here it is independent of them.

The contrast is drawn in arXiv:2405.16845v2; the best step is the isotropic case of the limit of
gradient flow in arXiv:2306.09927.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from core.checks import at_least
from core.mesa._checks import finite, positive


class Prompts(NamedTuple):
    """Few-shot regression problems."""

    x: Tensor
    """`[N, n, d]` inputs."""
    y: Tensor
    """`[N, n]` their targets."""
    query: Tensor
    """`[N, d]`."""
    answer: Tensor
    """`[N]` target of the query."""


def best_step(n: int, d: int, sigma: float = 1.0) -> float:
    """Return the step of least error, n / ((n + d + 1) sigma^2).

    Args:
        n: examples in a prompt, at least one.
        d: coordinates of an input, at least one.
        sigma: standard deviation of a coordinate, > 0.

    Raises:
        ValueError: an argument is below its bound.
    """
    _check(n, d, sigma)
    return n / ((n + d + 1) * sigma**2)


def one_step_relative_mse(n: int, d: int, step: float, sigma: float = 1.0) -> float:
    """Return E (y_hat - y)^2 / E y^2; arguments as for `best_step`, and the step."""
    _check(n, d, sigma)
    finite(step=step)
    s = step * sigma**2
    return 1 - 2 * s + s**2 * (1 + (d + 1) / n)


def sample_prompts(
    n: int, d: int, N: int, generator: torch.Generator, *, sigma: float = 1.0
) -> Prompts:
    """Draw N prompts, inputs N(0, sigma^2 I) and w ~ N(0, I), float64, from `generator`."""
    _check(n, d, sigma)
    at_least(1, N=N)
    x = sigma * torch.randn(N, n + 1, d, generator=generator, dtype=torch.float64)
    w = torch.randn(N, d, 1, generator=generator, dtype=torch.float64)
    y = (x @ w)[..., 0]
    return Prompts(x[:, :n], y[:, :n], x[:, n], y[:, n])


def one_step_predict(prompts: Prompts, step: float) -> Tensor:
    """Return `[N]` predictions (step / n) sum_i y_i x_i . x_q.

    Raises:
        ValueError: the shapes of the prompts do not fit, or a value or the step is not finite.
    """
    finite(step=step)
    _check_prompts(prompts)
    n = prompts.x.shape[1]
    w_hat = step / n * (prompts.y[..., None] * prompts.x).sum(dim=1)  # [N, d]
    return (w_hat * prompts.query).sum(dim=1)


def _check(n: int, d: int, sigma: float) -> None:
    at_least(1, n=n, d=d)
    positive(sigma=sigma)


def _check_prompts(prompts: Prompts) -> None:
    x, y, query, _ = prompts
    fits = x.ndim == 3 and y.shape == x.shape[:2] and query.shape == (len(x), x.shape[2])
    if not fits or min(x.shape) < 1:
        raise ValueError(
            f"want x [N, n, d], y [N, n] and query [N, d], got {list(x.shape)}, {list(y.shape)} "
            f"and {list(query.shape)}"
        )
    if not all(values.isfinite().all() for values in (x, y, query)):
        raise ValueError("want finite prompts, got inf or nan among them")
