r"""Training of E denoisers at once, each stopped where its own held-out loss is least.

A member is a network and the examples that it may see. Every member takes as many examples a step
as every other; its weights are averaged over the last steps with weights t^gamma, which stretches
with the run and needs no schedule, and it is the averaged weights that are looked at:

    average_t = b_t average_{t-1} + (1 - b_t) weights_t        b_t = (1 - 1/t)^(gamma + 1)

Early stopping keeps, for each member, the averaged weights of the look with the least loss on its
validation images, under noise that is the same at every look and for every member that sees the
image. Without it a small set is learned by heart, and a comparison at equal steps compares that.

Source: arXiv:2312.02696 (EDM2), Sec. 3.1: power-function averages; gamma = 16.97 is the relative
width 0.05 with which the paper's networks are drawn from.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from core.multisource.denoiser import Together
from core.multisource.edm import Edm, Network
from core.multisource.examples import HELD_OUT, START, Examples, noise, order
from core.train.seeds import generator

GAMMA = 16.97
NUMBERS = 2**22  # random numbers that are made ahead: 16 MiB


@dataclass(frozen=True)
class Recipe:
    """How a denoiser is trained, the same for every member.

    Raises:
        ValueError: a number is out of its range.
    """

    steps: int = 800
    batch: int = 16
    """Examples of a source in a step: a network of K sources takes K times as many."""
    learning_rate: float = 3e-3
    """Of Adam with betas 0.9 and 0.99, after `warm_up` steps."""
    warm_up: int = 50
    every: int = 50
    """Steps between looks at the validation images."""
    levels: int = 8
    """Noise levels at which a held-out image is looked at, one in each equal part."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("steps", "batch", "every", "levels"):
            if getattr(self, name) < 1:
                raise ValueError(f"want {name} >= 1, got {getattr(self, name)}")
        if self.warm_up < 0 or not 0 < self.learning_rate < math.inf:
            raise ValueError(
                "want warm_up >= 0 and a learning_rate above 0, "
                f"got {self.warm_up} and {self.learning_rate}"
            )


class Member(NamedTuple):
    """A network's examples, and the name of its random numbers."""

    run: int
    who: int
    """0 all sources pooled, k + 1 source k alone."""
    train: Examples
    validation: Examples


class Trained(NamedTuple):
    """What training leaves."""

    best: Together
    """Averaged weights of each member where its validation loss was least."""
    last: Together
    """Averaged weights at the end: what comes of not stopping."""
    stops: np.ndarray
    """`[E]` steps at which `best` was."""
    curve: np.ndarray
    """`[looks, E]` validation loss, after every `every` steps."""


def train(
    build: Callable[[], nn.Module],
    members: Sequence[Member],
    recipe: Recipe,
    *,
    seed: int,
    edm: Edm | None = None,
    sources: int = 1,
) -> Trained:
    """Train a network for each member, all at once.

    Members of one run begin with the same weights. Runs where the images are. Holds the noise of
    all validation images.

    Args:
        build: makes a network, on any device; its initial weights follow torch's seed.
        members: E, with validation sets of one size.
        recipe: steps, batch and the rest.
        seed: of the study.
        edm: preconditioning and noise levels; None: `Edm()`.
        sources: in a member's training set; its batch is as many times larger.

    Raises:
        ValueError: there is no member, or validation sets differ in size.
    """
    edm = Edm() if edm is None else edm
    networks = started(build, members, seed)
    average = networks.copy()
    best, stops, curve = average.copy(), np.zeros(len(members), dtype=int), []
    # betas as in EDM2; one number is updated at a time, so that members do not meet
    optimizer = torch.optim.Adam(networks.parameters.values(), betas=(0.9, 0.99), fused=True)
    held_out = HeldOut([m.validation for m in members], [m.run for m in members], recipe, seed)
    batches = _batches(members, recipe.steps, recipe.batch * sources, seed)
    for step, (x, y, numbers) in enumerate(batches, start=1):
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * min(1, step / (recipe.warm_up + 1))
        sigma, eps = edm.levels(numbers[..., 0]), numbers[..., 1:].reshape(x.shape)
        edm.loss(networks, x, eps, sigma, y).mean(1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        blend(average, networks, step)
        if step % recipe.every == 0 or step == recipe.steps:
            curve.append(held_out.losses(edm, average).mean(1))
            better = curve[-1] < np.min(curve[:-1], axis=0, initial=np.inf)
            stops[better] = step
            _keep(best, average, better)
    return Trained(best, average, stops, np.array(curve))


def started(build: Callable[[], nn.Module], members: Sequence[Member], seed: int) -> Together:
    """Return a network for each member, those of one run with the same weights."""
    made = []
    for member in members:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator(seed, member.run, START).integers(2**63)))
            made.append(build().to(member.train.images.device))
    return Together(made)


@torch.no_grad()
def blend(average: Together, networks: Together, step: int) -> None:
    """Take one more step into the average, in place; steps count from 1."""
    kept = (1 - 1 / step) ** (GAMMA + 1)
    for name, weights in networks.parameters.items():
        average.parameters[name].lerp_(weights.detach(), 1 - kept)


class HeldOut:
    """Images that no member is trained on, with noise that does not change."""

    def __init__(
        self, examples: Sequence[Examples], runs: Sequence[int], recipe: Recipe, seed: int
    ) -> None:
        """Make the noise of all.

        Args:
            examples: E sets of one size N.
            runs: E, the run of each.
            recipe: for its `levels`.
            seed: of the study.

        Raises:
            ValueError: sets differ in size.
        """
        sizes = sorted({len(e.labels) for e in examples})
        if len(sizes) != 1:
            raise ValueError(f"want held-out sets of one size, got {sizes}")
        self.images = torch.stack([e.images for e in examples])
        self.labels = torch.stack([e.labels for e in examples])
        device, levels = self.images.device, recipe.levels
        pixels = self.images[0, 0].numel()
        noises, z = np.empty((levels, len(runs), sizes[0], pixels), np.float32), []
        for e, (part, run) in enumerate(zip(examples, runs, strict=True)):
            streams = [generator(seed, run, HELD_OUT, int(i)) for i in part.ids]
            z.append([_stratified(stream, levels) for stream in streams])
            for n, stream in enumerate(streams):
                noises[:, e, n] = stream.standard_normal((levels, pixels), dtype=np.float32)
        self.noise = torch.from_numpy(noises).view(levels, *self.images.shape).to(device)
        """`[levels, E, N, C, H, W]`."""
        self.z = torch.tensor(np.array(z), dtype=torch.float32, device=device).movedim(2, 0)
        """`[levels, E, N]`, normal quantiles of the noise levels."""

    @torch.no_grad()
    def losses(self, edm: Edm, network: Network) -> np.ndarray:
        """Return the denoising loss of each image, mean over its levels, `[E, N]`."""
        found = [
            edm.loss(network, self.images, eps, edm.levels(z), self.labels)
            for eps, z in zip(self.noise, self.z, strict=True)
        ]
        return torch.stack(found).mean(0).double().cpu().numpy()


def _stratified(stream: np.random.Generator, levels: int) -> list[float]:
    """Return normal quantiles, one from each of `levels` equally likely parts."""
    u = (np.arange(levels) + stream.random(levels)) / levels
    return [NormalDist().inv_cdf(max(p, 1e-12)) for p in u]


def _batches(
    members: Sequence[Member], steps: int, batch: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield images `[E, B, ...]`, labels `[E, B]` and random numbers `[E, B, 1 + pixels]`."""
    images = torch.cat([m.train.images for m in members])
    labels = torch.cat([m.train.labels for m in members])
    offsets = np.cumsum([0, *[len(m.train.labels) for m in members[:-1]]])
    size = 1 + images[0].numel()
    ahead = max(1, NUMBERS // (len(members) * batch * size))
    for start in range(0, steps, ahead):
        count = min(ahead, steps - start) * batch
        rows, numbers = [], []
        for member, offset in zip(members, offsets, strict=True):
            places, draws = order(
                seed,
                member.run,
                member.who,
                size=len(member.train.ids),
                first=start * batch,
                count=count,
            ).T
            made = noise(seed, member.run, member.train.ids[places], draws, size)
            rows.append((offset + places).reshape(-1, batch))
            numbers.append(made.reshape(-1, batch, size))
        chosen = torch.from_numpy(np.stack(rows, 1)).to(images.device)
        given = torch.from_numpy(np.stack(numbers, 1)).to(images.device)
        yield from zip(images[chosen], labels[chosen], given, strict=True)


def _keep(best: Together, average: Together, better: np.ndarray) -> None:
    """Copy the members that are better."""
    for name, weights in average.parameters.items():
        which = torch.from_numpy(better).to(weights.device)
        best.parameters[name][which] = weights[which]
