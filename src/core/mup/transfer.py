r"""Sweeps of the base learning rate: does what is best at one setting stay best at another?

    arms = {f"{p}, width {16 * h}": Arm(family.plan(heads=h).under(p), on_digits(family))
            for p in ("mup", "standard") for h in (4, 8, 16)}
    sweep = transfer(arms, log2_lrs=range(-11, -4), seeds=range(3), steps=(60, 120))
    print(sweep.as_text())
    shift(sweep["mup, width 64"], sweep["mup, width 256"])

All arms and rates share their random numbers: a seed names the initial weights' streams and, with
the step, the images, times and noise of a batch, so that two runs differ in what was meant to
differ. The metric is the loss on one held-out batch, with its times and noise fixed. A sweep over
training lengths is free: the learning rate is constant, so a run of 120 steps is one of 60 on its
way.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from core.mup.digits import draw, held_out
from core.mup.ensemble import Ensemble
from core.mup.families import Family
from core.mup.optimum import Curve
from core.mup.plan import Plan

NUMBERS_AT_ONCE = {"cpu": 1_500_000, "cuda": 200_000_000}
"""Parameters of all models that are trained at once: on a CPU more fit no cache, and are slower."""


class Task(NamedTuple):
    """What is trained on, and what a trained model is judged by."""

    loss: Callable[[nn.Module, Any], Tensor]
    """Model and batch -> scalar, deterministic."""
    draw: Callable[[int, int, int], Any]
    """Seed, step and size -> a batch: tensors in a tuple, a list or a dict."""
    held_out: Any
    """A batch that `draw` shares nothing with."""
    stuck: float = inf
    """The loss of a model that has learned nothing."""
    device: str = "cpu"
    """Where the batches are."""


class Run(NamedTuple):
    """One training."""

    lr: float
    """The base learning rate."""
    seed: int
    clip: float = inf
    """Bound of the gradient's norm, as `Plan.clip_grad_norm_` counts it."""
    warmup: int = 0
    """Steps over which the rate rises linearly: step i of them, from 0, has (i + 1) / warmup."""


@dataclass(frozen=True)
class Arm:
    """What is held while the learning rate is swept."""

    plan: Plan
    """Its width and parametrization."""
    task: Task
    batch: int = 16
    recipe: str = "torch"
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Sweep(Mapping[str, Curve]):
    """The curve of each setting, by the arm's name; the number of steps is appended if several."""

    curves: Mapping[str, Curve]

    def __getitem__(self, setting: str) -> Curve:
        """Return one curve."""
        return self.curves[setting]

    def __iter__(self) -> Iterator[str]:
        """Give the settings."""
        return iter(self.curves)

    def __len__(self) -> int:
        """Return how many settings there are."""
        return len(self.curves)

    def as_text(self) -> str:
        """Return a row for every setting: mean losses, the least starred, and where the optimum is.

        A rate at which a seed became infinite has a dash. The optimum is the mean over seeds, with
        half its interval, and in how many seeds it is a bound.
        """
        rates = next(iter(self.values())).log2_lrs
        width = max(map(len, self))
        lines = [" " * width + "".join(f"{f'2^{r:g}':>8}" for r in rates) + "  log2 of the best"]
        for setting, curve in self.items():
            cells = [
                "-" if not np.isfinite(m) else f"{m:.4f}" + "*" * (i == curve.best)
                for i, m in enumerate(curve.mean)
            ]
            lines.append(
                f"{setting:{width}}" + "".join(f"{c:>8}" for c in cells) + f"  {curve.where}"
            )
        return "\n".join(lines)


def transfer(
    arms: Mapping[str, Arm],
    *,
    log2_lrs: Sequence[float],
    seeds: Sequence[int],
    steps: Sequence[int],
) -> Sweep:
    """Train every arm at every base learning rate with every seed.

    Args:
        arms: by name.
        log2_lrs: base-2 logarithms of the rates, rising, equally spaced.
        seeds: from 0.
        steps: lengths of training, rising; with several, a setting is `"<arm>, <n> steps"`.

    Raises:
        ValueError: no arm, or as in `train`.
    """
    if not arms:
        raise ValueError("want at least one arm to train, got none")
    runs = [Run(2.0**rate, seed) for rate in log2_lrs for seed in seeds]
    curves = {}
    for name, arm in arms.items():
        losses = train(arm, runs, steps=steps).reshape(len(steps), len(log2_lrs), len(seeds))
        for count, found in zip(steps, losses, strict=True):
            setting = name if len(steps) == 1 else f"{name}, {count} steps"
            curves[setting] = Curve(tuple(log2_lrs), found, arm.task.stuck)
    return Sweep(curves)


def train(
    arm: Arm, runs: Sequence[Run], *, steps: Sequence[int], at_once: int | None = None
) -> NDArray[np.float64]:
    """Train the runs with AdamW and return their losses on what was held out.

    Args:
        arm: what they share.
        runs: what they differ in.
        steps: after how many updates to evaluate, rising; the last ends the training.
        at_once: runs that are trained together; as many as `NUMBERS_AT_ONCE` says, by default.

    Returns:
        `[len(steps), len(runs)]`, nan or inf where a run diverged.

    Raises:
        ValueError: no run, steps that do not rise from one, or a batch of another size.
    """
    marks = list(steps)
    if not runs or not marks or marks != sorted(set(marks)) or marks[0] < 1:
        raise ValueError(
            f"want at least one run, and rising steps from 1, got {len(runs)}, {marks}"
        )
    together = at_once or _at_once(arm)
    models = {run.seed: arm.plan.build(arm.recipe, seed=run.seed) for run in runs}
    parts = [runs[i : i + together] for i in range(0, len(runs), together)]
    return np.concatenate([_together(arm, part, models, marks) for part in parts], axis=1)


def on_digits(family: Family, *, held: int = 128, device: str = "cpu") -> Task:
    """Return the task of predicting the noise of scikit-learn's digits; zero has loss 1.

    Args:
        family: asked for the noise.
        held: images that the metric is taken on.
        device: where to train.
    """
    return Task(
        family.loss,
        lambda seed, step, size: draw(seed, step, size).to(device),
        held_out(held).to(device),
        stuck=1.0,
        device=device,
    )


def named(task: Task, arms: Mapping[str, Plan], **how: Any) -> dict[str, Arm]:
    """Return an arm for each plan, of one task and otherwise alike."""
    return {name: replace(Arm(plan, task), **how) for name, plan in arms.items()}


def _at_once(arm: Arm) -> int:
    """How many models of an arm to train at once; one alone pays for vmap and gains nothing."""
    size = sum(int(np.prod(entry.shape)) for entry in arm.plan.entries.values())
    return max(2, NUMBERS_AT_ONCE[torch.device(arm.task.device).type] // size)


def _together(
    arm: Arm, runs: Sequence[Run], models: Mapping[int, nn.Module], marks: Sequence[int]
) -> NDArray[np.float64]:
    """Train some runs at once; `[marks, runs]`."""
    device = arm.task.device
    members = [models[run.seed].to(device) for run in runs]
    decay = arm.weight_decay
    groups = [
        arm.plan.groups(m, lr=run.lr, weight_decay=decay)
        for m, run in zip(members, runs, strict=True)
    ]
    folds = {name: entry.fold for name, entry in arm.plan.entries.items()}
    ensemble = Ensemble(members, groups, partial(torch.optim.AdamW, fused=True), folds)
    clips = torch.tensor([run.clip for run in runs], device=device)
    clip = clips if bool(torch.isfinite(clips).any()) else None
    found = []
    for step in range(marks[-1]):
        drawn = {seed: arm.task.draw(seed, step, arm.batch) for seed in {r.seed for r in runs}}
        batch = default_collate([drawn[run.seed] for run in runs])
        ensemble.step(arm.task.loss, batch, rates=_rates(runs, step), max_norm=clip)
        if step + 1 in marks:
            found.append(ensemble.evaluate(arm.task.loss, arm.task.held_out))
    return torch.stack(found).double().cpu().numpy()


def _rates(runs: Sequence[Run], step: int) -> Tensor:
    """How far each run's warm-up is, `[M]` in (0, 1]."""
    return torch.tensor([min(1.0, (step + 1) / max(1, run.warmup)) for run in runs])
