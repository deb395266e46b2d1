r"""Is one model of all sources better than a model a source? A comparison on real images.

Multi-source: one network that is told the source, on all n_1 + ... + n_K images. Single-source: K
networks of the same architecture, each on its own n_k. Both see the same images under the same
noise, take as many of each source a step, begin with the same weights, and are stopped where their
own validation loss is least.

What is compared is the denoising loss on test images: it is the training objective, it cannot be
improved by memorising, and its excess over the best denoiser bounds the divergence of the samples.
The advantage of multi-source training in run r is

    advantage_r = 1 - multi_r / single_r        each a mean over sources

and its interval is Student's over runs. A run is a fresh split of the same images and fresh
weights: the interval tells what another split and another start would give, not what other images
would.

Source: arXiv:2502.14583 (as published at ICML 2025), Sec. 5.2, which compares FID, one run a cell.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from core.multisource._checks import comparison
from core.multisource.denoiser import Together
from core.multisource.denoiser_training import HeldOut, Member, Recipe, Trained, train
from core.multisource.edm import Edm, sample
from core.multisource.examples import SAMPLES, Examples, Sources
from core.multisource.frechet import copied, features, frechet_distance
from core.multisource.memoriser import Memoriser
from core.stats import student
from core.train.seeds import generator


class Interval(NamedTuple):
    """A mean over runs, and where the true one is with 95 % confidence."""

    mean: float
    low: float
    high: float


class Looks(NamedTuple):
    """What is seen of a family of networks at one point of training, `[R, K]` each."""

    loss: np.ndarray
    """Denoising loss on test images, dimensionless."""
    frechet: np.ndarray
    """Distance of samples to test images; nan where none were drawn."""
    copied: np.ndarray
    """Share of samples nearer to the training images than test images are; 1/2 is none copied."""


class Family(NamedTuple):
    """Multi-source or single-source training, over R runs."""

    stopped: Looks
    """Where the validation loss was least."""
    last: Looks
    """After all steps."""
    trained: Trained

    @property
    def unfinished(self) -> float:
        """Share of networks whose validation loss was least at the end: train those longer."""
        looks = self.trained.curve
        return float(np.mean(looks.argmin(0) == len(looks) - 1))


class Comparison(NamedTuple):
    """Both families, on the same images."""

    names: tuple[str, ...]
    single: Family
    multi: Family
    copier: Looks
    """Of the denoiser that knows the training images and nothing else, and of those images as
    samples: their Frechet distance is the line that the others' are read beside."""

    @property
    def advantages(self) -> np.ndarray:
        """`[R]` how much lower the multi-source test loss is, as a fraction."""
        return 1 - self.multi.stopped.loss.mean(1) / self.single.stopped.loss.mean(1)

    @property
    def advantage(self) -> Interval:
        """The mean of `advantages`, with its paired interval."""
        return interval(self.advantages)


def interval(values: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return Student's interval for the mean of independent runs.

    Args:
        values: `[R]`, at least two.
        confidence: of the two-sided interval.

    Raises:
        ValueError: fewer than two runs, which have no spread.
    """
    if len(values) < 2:
        raise ValueError(f"want at least two runs, got {len(values)}: one has no spread")
    found = student(values, confidence)
    return Interval(found.mean, found.low, found.high)


def compare(
    splits: Sequence[Sources],
    build: Callable[[], nn.Module],
    recipe: Recipe,
    *,
    seed: int,
    edm: Edm | None = None,
    samples: int = 0,
) -> Comparison:
    """Train one network of all sources and one of each, in every run, and test them.

    Args:
        splits: R, of the same K sources: run r trains on `splits[r]`.
        build: makes a network of K sources.
        recipe: steps, batch and the rest.
        seed: of the study.
        edm: preconditioning and noise levels; None: `Edm()`.
        samples: images drawn of each source and run, for the Frechet distance and the test for
            copies; 0: neither is looked at.

    Raises:
        ValueError: no split, other sources in one than in another, or a single source, of which
            both families are the same.
    """
    names = {split.names for split in splits}
    if len(names) != 1:
        raise ValueError(f"want splits of the same sources, got {len(names)} different")
    K = len(splits[0].names)
    comparison(K)
    study = _Study(splits, build, recipe, seed, Edm() if edm is None else edm, samples)
    single, multi = study.family([(k,) for k in range(K)]), study.family([tuple(range(K))])
    return Comparison(splits[0].names, single, multi, study.copier())


Groups = Sequence[tuple[int, ...]]
"""The sources of each network of a run: `[(0,), (1,)]` or `[(0, 1)]`."""


@dataclass(frozen=True)
class _Study:
    """Arguments of `compare`, and what is done with them."""

    splits: Sequence[Sources]
    build: Callable[[], nn.Module]
    recipe: Recipe
    seed: int
    edm: Edm
    samples: int

    @property
    def shape(self) -> tuple[int, int]:
        """Runs and sources, R and K."""
        return len(self.splits), len(self.splits[0].names)

    def family(self, groups: Groups) -> Family:
        """Train a network a run and group, and look at all."""
        members = [
            Member(
                run,
                1 + group[0] if len(group) == 1 else 0,
                Examples.joined([split.train[k] for k in group]),
                Examples.joined([split.validation[k] for k in group]),
            )
            for run, split in enumerate(self.splits)
            for group in groups
        ]
        share = len(groups[0])
        trained = train(
            self.build, members, self.recipe, seed=self.seed, edm=self.edm, sources=share
        )
        stopped, last = (self.look(groups, n) for n in (trained.best, trained.last))
        return Family(stopped, last, trained)

    def look(self, groups: Groups, networks: Together) -> Looks:
        """Return test losses and samples' scores, by run and source."""
        tests = [
            Examples.joined([split.test[k] for k in group])
            for split in self.splits
            for group in groups
        ]
        runs = [run for run in range(len(self.splits)) for _ in groups]
        held_out = HeldOut(tests, runs, self.recipe, self.seed)
        loss = held_out.losses(self.edm, networks).reshape(*self.shape, -1).mean(2)
        frechet, copies = np.full(self.shape, np.nan), np.full(self.shape, np.nan)
        if self.samples:
            drawn = self.draw(groups, networks)
            for r, k in np.ndindex(*self.shape):
                known, fresh = (
                    part[k].images for part in (self.splits[r].train, self.splits[r].test)
                )
                frechet[r, k] = frechet_distance(features(drawn[r, k]), features(fresh))
                copies[r, k] = copied(drawn[r, k], known, fresh).share
        return Looks(loss, frechet, copies)

    def draw(self, groups: Groups, networks: Together) -> Tensor:
        """Return `[R, K, samples, ...]`; a source starts from one noise in both families."""
        R, K = self.shape
        images = self.splits[0].train[0].images
        shape = (self.samples, *images.shape[1:])
        streams = [generator(self.seed, r, SAMPLES, k) for r, k in np.ndindex(R, K)]
        start = np.stack([stream.standard_normal(shape, dtype=np.float32) for stream in streams])
        noise = torch.from_numpy(start).to(images.device).view(len(networks), -1, *shape[1:])
        labels = torch.tensor(groups, device=images.device).repeat(R, 1)
        drawn = sample(self.edm, networks, noise, labels.repeat_interleave(self.samples, 1))
        return drawn.view(R, K, *shape)

    def copier(self) -> Looks:
        """Look at the denoiser that knows the training images only."""
        known, fresh = (
            [column[k] for column in columns for k in range(self.shape[1])]
            for columns in zip(*((s.train, s.test) for s in self.splits), strict=True)
        )
        runs = [r for r, _ in np.ndindex(*self.shape)]
        network = Memoriser(self.edm, known)
        loss = HeldOut(fresh, runs, self.recipe, self.seed).losses(self.edm, network).mean(1)
        frechet = [
            frechet_distance(features(a.images), features(b.images))
            if len(a.labels) > 1
            else np.nan
            for a, b in zip(known, fresh, strict=True)
        ]
        return Looks(loss.reshape(self.shape), np.reshape(frechet, self.shape), np.ones(self.shape))
