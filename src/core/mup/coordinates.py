r"""The coordinate check, with slopes, and a verdict that can be "wrong".

Train a model at several widths for a few steps on one batch and record, for the output x of every
module, the mean of |x_t| and of |x_t - x_0|. Under muP neither depends on the width: activations
stay of one size (desideratum 1), and every layer moves as far as it can (maximal update). The
second is what Fig. 5 of arXiv:2203.03466v2 plots; a model that learns too slowly as it widens
passes the first. Here both are fitted,

    log2 mean|x_t| = a + slope log2(width)        log2 mean|x_t - x_0| = a' + slope' log2(width)

for each module and step, over the mean of the seeds' logarithms, and the slopes are held to bands.

The readout begins at zero. It is the one layer whose output fades as 1 / sqrt(width) at first, as
it should, and for a while hides what its update does; from zero its first step is its update alone.
So step 1 judges the readout, and what lies below it begins to move with step 2.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.kernels.activation_stats import activation_stats
from core.mup.plan import Plan

Loss = Callable[[nn.Module, int], Tensor]
"""Model and seed -> the loss of that seed's batch, the same at every step and width."""
Optimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
"""Parameter groups -> an optimizer."""
ADAMW: Optimizer = partial(torch.optim.AdamW, fused=True)
Which = Literal["size", "moved"]


@dataclass(frozen=True)
class Bands:
    """How far from flat a slope may be, in octaves per octave; see `Coordinates.failures`.

    Each is twice the largest deviation in 60 checks of muP itself, of one seed each: five families
    of two layers, twelve seeds, widths 64 to 512 (0.24, 0.28, 0.061 and 0.10, in this order;
    `core.mup.bench.deviations` takes them anew).
    """

    size: float = 0.5
    """Of mean|x| of a module, at any step."""
    moved: float = 0.55
    """Of mean|x_t - x_0| of a module below the readout, at any step from the second."""
    median: float = 0.12
    """Of the median of the latter over modules, at the second step."""
    readout: float = 0.2
    """Of mean|x_t - x_0| of the readout, at the first step."""


@dataclass(frozen=True)
class Coordinates:
    """What a check recorded."""

    widths: tuple[int, ...]
    modules: tuple[str, ...]
    """One for each distinct tensor that a module returned and that moves; the readout's is last."""
    size: NDArray[np.float64]
    """`[seeds, widths, steps + 1, modules]`, mean|x_t|."""
    moved: NDArray[np.float64]
    """The same of mean|x_t - x_0|."""
    loss: NDArray[np.float64]
    """`[seeds, widths, steps + 1]`."""

    def slopes(self, which: Which) -> NDArray[np.float64]:
        """Return d log2 / d log2 width, `[steps + 1, modules]`; nan where a mean is zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log2(getattr(self, which)).mean(axis=0)  # [W, T, M]
            x = np.log2(np.asarray(self.widths, float))
            x = (x - x.mean()) / np.square(x - x.mean()).sum()
            slopes = np.einsum("w,wtm->tm", x, logs)
        return np.where(np.isfinite(slopes), slopes, np.nan)

    @property
    def diverged(self) -> tuple[int, ...]:
        """Widths at which something became infinite or nan."""
        finite = np.isfinite(self.size).all(axis=3) & np.isfinite(self.loss)  # [S, W, T]
        return tuple(w for i, w in enumerate(self.widths) if not finite[:, i].all())

    def failures(self, bands: Bands | None = None) -> list[str]:
        """Return what is not flat, a sentence each, worst first; none if the check passes."""
        return [sentence for ratio, sentence in self._deviations(bands or Bands()) if ratio > 1]

    def excess(self, bands: Bands | None = None) -> float:
        """Return the largest deviation as a multiple of its band: the check passes up to 1."""
        return self._deviations(bands or Bands())[0][0]

    def _deviations(self, bands: Bands) -> list[tuple[float, str]]:
        """Each deviation over its band, and a sentence; worst first."""
        if self.diverged:
            return [(inf, f"infinite or nan at width {', '.join(map(str, self.diverged))}")]
        size, moved = self.slopes("size"), self.slopes("moved")
        steps, below, readout = range(len(size)), self.modules[:-1], self.modules[-1:]
        median = np.full_like(moved[:, :1], np.nanmedian(moved[2, :-1]))
        what = "mean|x_t - x_0| of"
        found = [
            *_worst("mean|x| of", size[:, :-1], below, bands.size, steps),
            *_worst(what, moved[:, :-1], below, bands.moved, steps[2:]),
            *_worst(what, moved[:, -1:], readout, bands.readout, steps[1:2]),
            *_worst(what, median, ("the median module",), bands.median, steps[2:3]),
        ]
        return sorted(found, reverse=True)

    def assert_flat(self, bands: Bands | None = None) -> None:
        """Fail unless every slope is within its band.

        Raises:
            AssertionError: one is not; the worst are named.
        """
        failures = self.failures(bands)
        if failures:
            more = f"; and {len(failures) - 4} more" if len(failures) > 4 else ""
            raise AssertionError("not flat in the width: " + "; ".join(failures[:4]) + more)

    def as_text(self) -> str:
        """Return a line a step: median, least and greatest slope of both; 80 columns."""
        lines = ["step   mean|x|: median     min     max   mean|x_t - x_0|: median     min     max"]
        both = zip(self.slopes("size"), self.slopes("moved"), strict=True)
        for step, (size, moved) in enumerate(both):
            lines.append(f"{step:4}{_three(size):>34}{_three(moved):>42}")
        return "\n".join(lines)


def coord_check(
    plan: Plan,
    loss: Loss,
    *,
    widths: Sequence[int],
    lr: float,
    **how: Any,
) -> Coordinates:
    """Train at several widths and return the sizes and moves of every module's output.

    Args:
        plan: of the model at any width, with one width key in `base`; `plan.standard()` checks the
            standard parametrization.
        loss: called with a model and a seed; must give a seed the same batch every time.
        widths: values of that key, four or more; the base's may be among them.
        lr: the base's learning rate; as large as in training, or nothing shows.
        **how: `seeds`, `steps`, `recipe`, `device`, `optimizer`, `rule` of `compare`.

    Raises:
        ValueError: fewer than four widths, two steps or one seed, a plan with several width keys,
            or nothing below the readout moves.
    """
    if len(plan.given) != 1:
        raise ValueError(f"want a plan with one key in base, got {', '.join(plan.given)}")
    if len(set(widths)) < 4:
        raise ValueError(
            f"want four different widths at least, got {list(widths)}: over fewer, a slope tells "
            "right from wrong too rarely"
        )
    key = plan.given[0]
    return compare({w: plan.at(**{key: w}) for w in sorted(set(widths))}, loss, lr=lr, **how)


def compare(
    plans: Mapping[int, Plan],
    loss: Loss,
    *,
    lr: float,
    seeds: int = 3,
    steps: int = 3,
    recipe: str = "torch",
    device: str = "cpu",
    optimizer: Optimizer = ADAMW,
    rule: str = "adamw",
    rename: Callable[[int, str], str] = lambda size, name: name,
) -> Coordinates:
    """Train one model a size, whatever size means, and return what `coord_check` does.

    Args:
        plans: size -> plan. Modules that not all of them have are left out.
        rename: size and module -> what to call it, where its number depends on the size.
        loss: as in `coord_check`.
        lr: as in `coord_check`.
        seeds: draws of the weights, and batches.
        steps: updates, two at least.
        recipe: of the initialisation; the readout begins at zero in any case.
        device: where to train. The statistics of a step come back in one transfer.
        optimizer: called with the groups of `plan.groups`.
        rule: the optimizer's name in `plan.groups`.

    Raises:
        ValueError: fewer than two steps, no seed, or nothing below the readout moves.
    """
    if steps < 2 or seeds < 1:
        raise ValueError(f"want two steps and one seed at least, got {steps=}, {seeds=}")
    runs = [
        [
            _run(p, loss, seed, lr, steps, recipe, device, optimizer, rule).renamed(rename, at)
            for at, p in plans.items()
        ]
        for seed in range(seeds)
    ]
    names = [name for name in runs[0][0].names if all(name in r.names for r in runs[0])]
    read = np.asarray([[run.columns(names) for run in row] for row in runs])  # [S, W, T, 2M + 1]
    size, moved, values = read[..., : len(names)], read[..., len(names) : -1], read[..., -1]
    # what a dropout of zero, or a wrapper, hands on unchanged is the same tensor twice
    distinct = np.unique(size.reshape(-1, len(names)), axis=1, return_index=True)[1]
    # and what training does not reach, such as the waves of a timestep, has no move to judge
    still = (moved[:, :, -1] == 0).all(axis=(0, 1))
    kept = [i for i in sorted(distinct) if not still[i]]
    if len(kept) < 2:
        raise ValueError(
            f"no module below the readout moved in {steps} steps at {lr=:g}: a check needs a "
            "learning rate that moves them, and a loss that depends on what they return"
        )
    modules = tuple(names[i] for i in kept)
    return Coordinates(tuple(plans), modules, size[..., kept], moved[..., kept], values)


@dataclass(frozen=True)
class _Run:
    names: list[str]
    rows: NDArray[np.float64]
    """`[steps + 1, 2 modules + 1]`: sizes, moves, loss."""

    def renamed(self, rename: Callable[[int, str], str], size: int) -> "_Run":
        """Return the same run with other names."""
        return _Run([rename(size, name) for name in self.names], self.rows)

    def columns(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Return the rows with the modules that are named."""
        where = [self.names.index(name) for name in names]
        count = len(self.names)
        return self.rows[:, [*where, *(count + i for i in where), 2 * count]]


def _run(
    plan: Plan,
    loss: Loss,
    seed: int,
    lr: float,
    steps: int,
    recipe: str,
    device: str,
    optimizer: Optimizer,
    rule: str,
) -> _Run:
    model = plan.build(recipe, seed=seed).to(device)
    readout = _zero_readout(plan, model)
    groups = plan.groups(model, lr=lr, optimizer=rule)
    run = _train(model, optimizer(groups), lambda m: loss(m, seed), steps, readout)
    for column, name in enumerate(run.names):
        # a layer that carries a factor of something else is judged without it
        entry = plan.entries.get(f"{name}.weight")
        if entry is not None and entry.kind != "output":
            run.rows[:, [column, len(run.names) + column]] /= entry.fold
    return run


def _zero_readout(plan: Plan, model: nn.Module) -> str:
    """Begin the readout at zero; return the name of its module."""
    outputs = [name for name, entry in plan.entries.items() if entry.kind == "output"]
    if not outputs:
        raise ValueError("the model has no readout: no layer from what grows to what does not")
    with torch.no_grad():
        plan.named(model)[outputs[-1]].zero_()
    return outputs[-1].rpartition(".")[0]


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[nn.Module], Tensor],
    steps: int,
    readout: str,
) -> _Run:
    model.train()
    first: dict[str, Tensor] = {}
    rows = []
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps), _outputs(model, readout) as seen:
            value = loss(model)
        outputs = seen if step == 0 else {name: seen[name] for name in first}
        first = first or {name: x.clone() for name, x in outputs.items()}
        # one transfer a step: everything until here stays on the device
        means = torch.stack([_means(x, first[name]) for name, x in outputs.items()])  # [M, 2]
        rows.append(torch.cat([means.T.flatten(), value.detach().float()[None]]).tolist())
        if step < steps:
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return _Run(list(first), np.asarray(rows))


def _means(x: Tensor, x_0: Tensor) -> Tensor:
    """Return mean|x| and mean|x - x_0|."""
    return activation_stats(x, x_0)[::3].float() / x.numel()


@contextmanager
def _outputs(model: nn.Module, readout: str) -> Iterator[dict[str, Tensor]]:
    """Collect what each module returns, up to the readout; a tensor that two return, once."""
    seen: dict[str, Tensor] = {}
    alive: dict[int, Tensor] = {}
    done = False

    def hook(name: str, output: Any) -> None:
        nonlocal done
        for suffix, tensor in _tensors(output):
            if not done and tensor.is_floating_point() and id(tensor) not in alive:
                alive[id(tensor)] = tensor  # while it lives, no other has its number
                seen[name + suffix] = tensor.detach()
        done = done or name == readout

    hooks = [
        module.register_forward_hook(lambda m, i, output, name=name: hook(name, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield seen
    finally:
        for one in hooks:
            one.remove()


def _tensors(output: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield "", output
    elif isinstance(output, tuple | list):
        yield from ((f"[{i}]", x) for i, x in enumerate(output) if isinstance(x, Tensor))


def _worst(
    what: str,
    slopes: NDArray[np.float64],
    modules: Sequence[str],
    band: float,
    steps: Sequence[int],
) -> Iterator[tuple[float, str]]:
    """Give each module's largest slope over steps: as a multiple of the band, and in words."""
    chosen = np.nan_to_num(slopes[list(steps)])
    for slope, name in zip(chosen.T, modules, strict=True):
        at = int(np.abs(slope).argmax())
        told = f"{what} {name} after {steps[at]} steps has slope {slope[at]:+.2f}"
        yield float(abs(slope[at])) / band, f"{told}, outside +-{band:g}"


def _three(slopes: NDArray[np.float64]) -> str:
    known = slopes[~np.isnan(slopes)]
    if not known.size:
        return "-"
    return f"{np.median(known):+8.2f}{known.min():+8.2f}{known.max():+8.2f}"
