r"""How good predictions are: a few numbers, each with its standard error.

The counterparts, on samples, of the closed forms in `core.mesa.capability`. A sequence is one
observation: its coordinates (and positions, if several are given) are not independent.

The paper's own number is the mean of y_hat / (y + 1e-5). As soon as the trained weights have
off-diagonal entries it contains x_p / x_j, whose tails are Cauchy's where x_j can come near zero:
no mean, no standard error. `robust_ratio` estimates the same centre in either case.

Source: arXiv:2405.16845v2, Proposition 4.1 and Section 6 (the offset is in the public code).
"""

from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from core.checks import at_least
from core.mesa._checks import finite


class Estimate(NamedTuple):
    """A number that was measured."""

    value: float
    standard_error: float


def relative_mse(prediction: Tensor, truth: Tensor) -> Estimate:
    """Estimate E|y_hat - y|^2 / E|y|^2.

    Args:
        prediction: `[N, ...]`, the first axis the sequences, N >= 2.
        truth: of the same shape, not all zero.

    Raises:
        ValueError: the shapes differ, there is one sequence, a value is not finite, or the truth
            is zero.
    """
    _check(prediction, truth)
    return _ratio_of_means(
        _per_sequence((prediction - truth).abs().square()), _per_sequence(truth.abs().square())
    )


def median_relative_error(prediction: Tensor, truth: Tensor) -> Estimate:
    """Estimate the median over sequences of |y_hat - y|^2 / |y|^2; arguments as above.

    The standard error is half the distance of the sample quantiles 1/2 -+ 1/(2 sqrt(N)).

    Raises:
        ValueError: as above, or the truth of one sequence is zero.
    """
    _check(prediction, truth)
    energy = _per_sequence(truth.abs().square())
    if not energy.all():
        raise ValueError("want no sequence whose truth is zero: it has no relative error")
    errors = _per_sequence((prediction - truth).abs().square()) / energy
    half = 0.5 / sqrt(len(errors))
    levels = torch.tensor([0.5 - half, 0.5, 0.5 + half], dtype=errors.dtype, device=errors.device)
    low, middle, high = torch.quantile(errors, levels)
    return _estimate(middle, (high - low) / 2)


def energy_slope(prediction: Tensor, truth: Tensor) -> Estimate:
    """Estimate E Re(y_hat y^*) / E|y|^2; arguments as for `relative_mse`."""
    _check(prediction, truth)
    return _ratio_of_means(
        _per_sequence((prediction * truth.conj()).real), _per_sequence(truth.abs().square())
    )


def mean_ratio(prediction: Tensor, truth: Tensor, *, offset: float = 1e-5) -> Estimate:
    """Estimate E Re[y_hat / (y + offset)], the number that the paper plots.

    Its standard error means something for diagonal weights only; see `robust_ratio`. Other
    arguments as for `relative_mse`. Where the truth is exactly zero, as in most coordinates of a
    sparse start, there is no ratio: such entries are left out.
    """
    ratios = _ratios(prediction, truth, offset)
    return _estimate(ratios.mean(), ratios.std() / sqrt(len(ratios)))


def robust_ratio(
    prediction: Tensor, truth: Tensor, *, groups: int = 41, offset: float = 1e-5
) -> Estimate:
    """Estimate the same centre by the median of the means of `groups` groups of sequences.

    The standard error is the asymptotic one of a median of normals, from the median deviation.

    Raises:
        ValueError: as for `relative_mse`, or fewer sequences than groups, or groups below three.
    """
    ratios = _ratios(prediction, truth, offset)
    at_least(3, groups=groups)
    if groups > len(ratios):
        raise ValueError(f"want 3 <= groups <= {len(ratios)} sequences, got {groups} groups")
    means = torch.stack([group.mean() for group in ratios.tensor_split(groups)])
    centre = means.median()
    spread = 1.4826 * (means - centre).abs().median()  # MAD of a normal: sd / 1.4826
    return _estimate(centre, 1.2533 * spread / sqrt(groups))  # sqrt(pi/2)


def _ratios(prediction: Tensor, truth: Tensor, offset: float) -> Tensor:
    """Return the mean over entries of y_hat / (y + offset), one a sequence, zeros left out."""
    _check(prediction, truth)
    finite(offset=offset)
    seen = (truth != 0).flatten(1)
    safe = torch.where(truth == 0, 1.0, truth + offset)
    ratio = (prediction / safe).real.flatten(1).where(seen, 0.0)
    ratios = (ratio.sum(dim=1) / seen.sum(dim=1))[seen.any(dim=1)]
    if len(ratios) < 2:
        raise ValueError(f"want two sequences whose truth is not zero, got {len(ratios)}")
    return ratios


def _ratio_of_means(u: Tensor, v: Tensor) -> Estimate:
    """Return mean u / mean v, `[N]` each, with its error by the delta method."""
    value = u.mean() / v.mean()
    error = (u - value * v).std() / (sqrt(len(u)) * v.mean())
    return _estimate(value, error)


def _estimate(value: Tensor, error: Tensor) -> Estimate:
    if not (value.isfinite() and error.isfinite()):
        raise ValueError("want values whose squares and ratios are finite: they overflow")
    return Estimate(value.item(), error.item())


def _per_sequence(z: Tensor) -> Tensor:
    return z.flatten(1).sum(dim=1)


def _check(prediction: Tensor, truth: Tensor) -> None:
    if prediction.shape != truth.shape or prediction.ndim < 2 or len(truth) < 2:
        raise ValueError(
            f"want prediction and truth [N >= 2, ...] alike, got {list(prediction.shape)} "
            f"and {list(truth.shape)}"
        )
    if not (prediction.isfinite().all() and truth.isfinite().all()):
        raise ValueError("want a finite prediction and truth, got inf or nan among them")
    if not truth.any():
        raise ValueError("want a truth that is not all zero: there is nothing to relate errors to")
