r"""Training of DiT under a plan: steps of AdamW on the groups of `Plan.groups`, and nothing else.

What is random has names (`core.mup.batches`), and is the same on one process or eight, before a
crash and after it. The network stays in evaluation mode, where it draws nothing itself.

The loss is in `core.mup.diffusion`. As in the authors' code: AdamW without decay at a constant
learning rate, no clipping, one label in ten dropped, and a moving average of the weights from which
images are sampled (arXiv:2505.15270v3; `DiT/train_mup.py`).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from core.mup.batches import Batch, Batches, Images
from core.mup.diffusion import losses, noised
from core.mup.plan import Plan
from core.train.distributed import SINGLE, World, gradient_scale, held_back, inner, total
from core.train.folder import Diverged
from core.train.order import batches


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are the authors' for a proxy of DiT."""

    steps: int = 200_000
    batch: int = 256
    """Images in an update, over all ranks."""
    learning_rate: float = 2.0**-10
    """At the base: each group has its own."""
    warmup: int = 0
    """Steps in which it rises; it is constant then."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = None
    """Norm to scale the gradient down to, as the plan counts it."""
    label_dropout: float = 0.1
    mean_decay: float = 0.9999
    """Of the moving average: what stays of it at each step."""
    seed: int = 0
    at_once: int | None = None
    """Images that a rank runs at once; None: all of its part."""
    bfloat16: bool = False
    """Compute in bfloat16 where torch's autocast does; weights and loss stay float32."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("steps", "batch", "at_once"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"want {name} >= 1, a whole number, got {value!r}")
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"want {name} > 0, got {value!r}")
        for name in ("warmup", "weight_decay", "eps", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"want {name} >= 0, got {getattr(self, name)!r}")
        for name in ("label_dropout", "mean_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"want {name} from 0 and below 1, got {getattr(self, name)!r}")


class Figures(NamedTuple):
    """What a step came to, over all ranks."""

    loss: float
    """Mean squared error of the noise."""
    bound: float
    """L_vb in bits a number; 0 without a learned variance."""
    gradient_norm: float
    """As the plan counts it, before clipping."""
    learning_rate: float
    """Of the base."""


class HeldOut(NamedTuple):
    """The same losses on images that are not trained on."""

    loss: float
    bound: float


def learning_rate(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a step at the base, from 0: a linear rise, then constant."""
    return recipe.learning_rate * min(1.0, (step + 1) / max(1, recipe.warmup))


class Trainer:
    """A network, its plan, its moving average and its optimizer; `step` after `step`."""

    def __init__(
        self,
        model: nn.Module,
        mean: nn.Module,
        plan: Plan,
        data: Images,
        recipe: Recipe,
        *,
        held_out: int,
        world: World = SINGLE,
    ) -> None:
        """Train a model.

        Args:
            model: initialised; wrapped by `core.train.distributed.shard` for several ranks.
            mean: the moving average: a copy of it, shared among ranks in the same way.
            plan: of the model.
            data: the same on all ranks.
            recipe: how.
            held_out: images that are never trained on.
            world: this rank, and where it computes.

        Raises:
            ValueError: the plan is of another model, or too many images are held out.
        """
        self.model, self.mean = model.eval(), mean.eval().requires_grad_(False)
        self.plan, self.recipe, self.world = plan, recipe, world
        self.batches = Batches(
            data,
            size=recipe.batch,
            held_out=held_out,
            none=plan.config["num_embeds_ada_norm"],
            label_dropout=recipe.label_dropout,
            seed=recipe.seed,
            world=world,
        )
        self.done = 0
        groups = plan.groups(inner(model), lr=1.0, weight_decay=recipe.weight_decay, eps=recipe.eps)
        self.rates = [group["lr"] for group in groups]
        """Of the groups, over that of the base."""
        self.optimizer = torch.optim.AdamW(groups, betas=recipe.betas)

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.done // batches(len(self.batches.rows), self.recipe.batch)

    def step(self) -> Figures:
        """Take one step.

        Raises:
            Diverged: loss or gradient are no numbers; nothing was changed.
        """
        rate = learning_rate(self.done, self.recipe)
        loss, bound = self.gradient()
        clip = math.inf if self.recipe.clip is None else self.recipe.clip
        norm = float(self.plan.clip_grad_norm_(inner(self.model), clip))
        for name, value in (("loss", loss), ("bound", bound), ("gradient's norm", norm)):
            if not math.isfinite(value):
                raise Diverged(
                    f"the {name} of step {self.done + 1} is {value}, at a base learning rate of "
                    f"{rate:.4g}: lower it"
                )
        for group, share_of_base in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share_of_base
        self.optimizer.step()
        self._average()
        self.done += 1
        return Figures(loss, bound, norm, rate)

    def gradient(self) -> tuple[float, float]:
        """Put the next step's gradient into the parameters; return loss and bound."""
        self.optimizer.zero_grad(set_to_none=True)
        batch = self.batches(self.done)
        sums = self._sums(self.model, batch, backward=True)
        loss, bound = (total(sums, self.world) / batch.size).tolist()
        return loss, bound

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> HeldOut:
        """Return the losses on all images that are held out, with times and noise that are fixed.

        Args:
            model: that is trained, or its moving average.

        Raises:
            Diverged: they are no numbers.
        """
        size, count = self.recipe.batch, len(self.batches.held_out)
        sums = torch.zeros(2, dtype=torch.float64)
        for at in range(0, count, size):
            batch = self.batches.of_held_out(range(at, min(at + size, count)))
            sums += self._sums(model, batch, backward=False).cpu()
        loss, bound = (total(sums, self.world) / count).tolist()
        found = HeldOut(loss, bound)
        if not all(map(math.isfinite, found)):
            raise Diverged(f"held-out images cost {found.loss} after step {self.done}")
        return found

    def _sums(self, model: nn.Module, batch: Batch, *, backward: bool) -> Tensor:
        """Return the sums of loss and bound over this rank's images, `[2]`; add up gradients."""
        each, device = self.recipe.at_once or len(batch.x), self.world.device
        counts = (torch.arange(len(batch.x)) < batch.counted).to(device, batch.x.dtype)
        scale = gradient_scale(self.world) / batch.size
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        for at in range(0, len(batch.x), each):
            x, t, y, noise = (part[at : at + each].to(device) for part in batch[:4])
            with held_back(model, last=at + each >= len(batch.x)):
                found = losses(self._ask(model, noised(x, t, noise), t, y), x, t, noise)
                counted = torch.stack(found) * counts[at : at + each]
                if backward:
                    (scale * counted.sum()).backward()
            sums += counted.detach().sum(1)
        return sums

    def _ask(self, model: nn.Module, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            output = model(x_t, t, y).sample
        return output.to(x_t.dtype)

    def _average(self) -> None:
        """Move the moving average: on a sharded model, each rank its part."""
        update = get_ema_multi_avg_fn(self.recipe.mean_decay)
        update(_local(self.mean), _local(self.model), 0)


def _local(model: nn.Module) -> list[Tensor]:
    """Return what this rank has of the parameters."""
    parameters = (p.detach() for p in model.parameters())
    return [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
