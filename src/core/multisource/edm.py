r"""A denoiser as EDM preconditions it, its loss, and samples through diffusers' scheduler.

The network F sees inputs of unit variance and predicts a target of unit variance, whatever the
noise level:

    D(x; sigma, y) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x; c_noise(sigma), y)
    loss           = E_sigma E_{x, noise} weight(sigma) |D(x + sigma noise; sigma, y) - x|^2 / d
    ln sigma       ~ N(P_mean, P_std^2)

of d pixels. The weight is 1 / c_out^2, so that the loss is that of F itself: a model that knows
nothing but the variance sigma_data^2 has loss 1 at every level, if the pixels were independent.

Source: arXiv:2206.00364v2, Eq. (7), (8), Table 1 (right column, "Network and preconditioning"). Its
P_mean and P_std are -1.2 and 1.2; the paper's networks are trained with EDM2's (arXiv:2312.02696),
-0.4 and 1, as its published presets have it, and so are ours. EDM samples from sigma = 80 down; the
paper's levels are seldom above 13 in training, and small networks that are trained for long return
anything above, so that we start there.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`F(x, c_noise, y)`: `[E, B, ...]`, `[E, B]`, `[E, B]` -> `[E, B, ...]`, of E networks at once."""


class Coefficients(NamedTuple):
    """What a noise level does to a network's input and output."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class Edm(NamedTuple):
    """Scale of the data, and where training puts its noise levels."""

    sigma_data: float = 0.5
    """Standard deviation of a pixel, over all images."""
    P_mean: float = -0.4
    P_std: float = 1.0

    @property
    def sigma_max(self) -> float:
        """Where sampling starts: a network has hardly seen more noise, and errs there freely."""
        return math.exp(self.P_mean + 3 * self.P_std)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the four coefficients, each of the shape of `sigma`."""
        total = sigma**2 + self.sigma_data**2
        return Coefficients(
            c_skip=self.sigma_data**2 / total,
            c_out=sigma * self.sigma_data / total.sqrt(),
            c_in=1 / total.sqrt(),
            c_noise=sigma.log() / 4,
        )

    def levels(self, z: Tensor) -> Tensor:
        """Return noise levels of standard normal numbers `z`."""
        return (self.P_mean + self.P_std * z).exp()

    def denoised(self, network: Network, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        """Return D, an estimate of the image in `x`.

        Args:
            network: F.
            x: `[E, B, ...]` noised images.
            sigma: `[E, B]` their noise levels, above zero.
            y: `[E, B]` int64 sources.
        """
        c = self.coefficients(sigma)
        F = network(_each(c.c_in, x) * x, c.c_noise, y)
        return _each(c.c_skip, x) * x + _each(c.c_out, x) * F

    def loss(self, network: Network, x: Tensor, noise: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        """Return the weighted denoising loss of each image, `[E, B]`, dimensionless.

        Args:
            network: F.
            x: `[E, B, ...]` images.
            noise: `[E, B, ...]` standard normal.
            sigma: `[E, B]`.
            y: `[E, B]` int64 sources.
        """
        error = self.denoised(network, x + _each(sigma, x) * noise, sigma, y) - x
        return error.square().flatten(2).mean(2) / self.coefficients(sigma).c_out ** 2


@torch.no_grad()
def sample(
    edm: Edm, network: Network, start: Tensor, y: Tensor, *, steps: int = 32, scheduler: Any = None
) -> Tensor:
    """Return images, drawn along the probability-flow ODE.

    Args:
        edm: what the network was trained with.
        network: F.
        start: `[E, B, ...]` standard normal: all that is random.
        y: `[E, B]` int64 sources to draw from.
        steps: evaluations of the network; the error falls with their square. Of a normal it is
            1 % of the standard deviation at 32.
        scheduler: of diffusers, one with EDM's preconditioning; None: DPM-Solver++ (2M) on
            EDM's noise levels from `sigma_max` down to 0.002, then zero.

    Raises:
        ValueError: fewer than two steps, or a scheduler with another `sigma_data`.
    """
    if steps < 2:
        raise ValueError(f"want at least 2 steps, got {steps}")
    scheduler = _scheduler(edm) if scheduler is None else scheduler
    config = scheduler.config
    if config.sigma_data != edm.sigma_data or config.prediction_type != "epsilon":
        raise ValueError(
            f"want a scheduler with sigma_data={edm.sigma_data} and prediction_type='epsilon', "
            f"got {config.sigma_data} and {config.prediction_type!r}"
        )
    scheduler.set_timesteps(steps, device=start.device)
    # EDM's Algorithm 1 starts at sigma_max itself; diffusers' init_noise_sigma is its own
    x = start * config.sigma_max
    for c_noise in scheduler.timesteps:
        F = network(scheduler.scale_model_input(x, c_noise), c_noise.expand(y.shape), y)
        x = cast(Tensor, scheduler.step(F, c_noise, x).prev_sample)
    return x


def _scheduler(edm: Edm) -> Any:
    # takes seconds to import
    from diffusers.schedulers.scheduling_edm_dpmsolver_multistep import (
        EDMDPMSolverMultistepScheduler,
    )

    return EDMDPMSolverMultistepScheduler(sigma_data=edm.sigma_data, sigma_max=edm.sigma_max)


def _each(value: Tensor, x: Tensor) -> Tensor:
    """Return `[E, B]` as `[E, B, 1, ...]`, to multiply images with."""
    return value.reshape(*value.shape, *[1] * (x.ndim - value.ndim))
