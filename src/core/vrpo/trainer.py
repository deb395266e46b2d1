r"""One step of VRPO training: two passes, the memory of one sequence, the gradient of all.

    loss = mean over pairs of -log sigma(s_hat) + supervised * negative ELBO per token of y_w

Pass 1 scores all n masks of both responses without gradient; `core.vrpo.objective` turns these
numbers into a slope for each sequence. Pass 2 runs a few sequences at a time forward and backward
with `(slope * weight * S).sum()`. What is kept for the backward pass is that of one chunk, and the
gradient is that of the whole batch. The price is one more forward pass.

Source: arXiv:2505.19223v2, Eqs. (7), (8), Appendices D.1 and D.3 for the constants.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from core.train.distributed import (
    SINGLE,
    World,
    gradient_norm,
    gradient_scale,
    held_back,
    total,
)
from core.train.order import batches
from core.vrpo.draws import Design
from core.vrpo.objective import GradientEstimate, Terms, dpo, supervised_slopes
from core.vrpo.packing import Pack
from core.vrpo.preferences import Preference
from core.vrpo.scoring import (
    Batch,
    Chunks,
    batch_at,
    check_finite,
    policy_draws,
    reference_draws,
    score,
    weights,
)


class Reference(Protocol):
    """Where the reference's scores come from; see `core.vrpo.reference`."""

    def __call__(self, batch: Batch) -> Tensor:
        """Return S of the reference at the batch's reference masks, `[B, 2, n]`."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are the paper's."""

    steps: int
    """Updates in all; the learning rate falls to 0 there."""
    batch: int = 64
    """Pairs, over all ranks."""
    design: Design = field(default_factory=Design)
    beta: float = 0.2
    """Strength of the reference."""
    supervised: float = 0.05
    """Weight of the supervised term."""
    gradient: GradientEstimate = "plain"
    learning_rate: float = 5e-7
    warmup: int = 15
    """Steps in which the learning rate rises."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    """Of all that is trained, norms and embeddings too: the paper gives the number alone."""
    clip: float | None = None
    """Norm to scale the gradient down to."""
    seed: int = 0
    at_once: int | None = 1
    """Sequences run at once; None: all, in one pass that keeps everything."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("steps", "batch", "at_once"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"want {name} >= 1, a whole number, got {value!r}")
        for name in ("beta", "learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"want {name} > 0, got {value!r}")
        for name in ("supervised", "weight_decay", "warmup", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"want {name} >= 0, got {getattr(self, name)!r}")
        if self.design.form == "time":
            raise ValueError(
                "want a design of the count form, got the time form: its weights 1 / t have "
                "infinite variance, and its masks may be empty; train with form='count'"
            )
        if self.gradient == "cross-fitted" and not self.design.has_independent_halves:
            raise ValueError(
                "cross-fitting wants two independent halves: take an even n_t, and sets = 2 with "
                f"systematic counts, got {self.design}"
            )


class Figures(NamedTuple):
    """What a step came to, over all ranks."""

    loss: float
    """Mean DPO-ELBO loss, nats; biased upwards, by at most `score_variance` / 8."""
    jackknife: float | None
    """The same with most of its bias taken away; None without independent halves."""
    supervised: float
    """Mean negative ELBO per token of the chosen responses, nats."""
    accuracy: float
    """Share of pairs with s_hat > 0; a tie, as before the first step, counts as half of one."""
    score: float
    """Mean of s_hat."""
    score_variance: float | None
    """Mean sampling variance of s_hat; None where the design does not tell."""
    gradient_norm: float
    learning_rate: float


def learning_rate(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a step, from 0: a linear rise, then a cosine down to 0."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (1 + math.cos(math.pi * min(1.0, done))) / 2


class Trainer:
    """A policy, its data and its optimizer; `step` after `step`."""

    def __init__(
        self,
        policy: nn.Module,
        data: Sequence[Preference],
        recipe: Recipe,
        *,
        reference: Reference,
        mask_id: int,
        world: World = SINGLE,
    ) -> None:
        """Train those parameters of `policy` that want a gradient.

        Args:
            policy: from a pack to S; wrapped by `core.train.distributed.shard` for several ranks.
            data: the same on all ranks.
            recipe: how.
            reference: scores of the reference.
            mask_id: the mask token.
            world: this rank, and where it computes.

        Raises:
            ValueError: no data, or nothing to train.
        """
        if not data:
            raise ValueError("want at least one pair to train on, got none")
        trained = [p for p in policy.parameters() if p.requires_grad]
        if not trained:
            raise ValueError("want a policy with something to train, got one that is all frozen")
        self.policy, self.data, self.recipe = policy, data, recipe
        self.reference, self.mask_id, self.world = reference, mask_id, world
        self.done = 0
        self.optimizer = torch.optim.AdamW(
            trained,
            lr=recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
        )

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.done // batches(len(self.data), self.recipe.batch)

    def step(self) -> Figures:
        """Take one step.

        Raises:
            ValueError: a score is nan or infinite; nothing was changed.
        """
        rate = learning_rate(self.done, self.recipe)
        found = self.gradient()
        norm = gradient_norm(self.policy, clip=self.recipe.clip)
        if not math.isfinite(norm):
            raise ValueError(
                f"want a finite gradient, got norm {norm} at step {self.done}: lower the learning "
                "rate, or look at the model's weights"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.done += 1
        return Figures(**found, gradient_norm=norm, learning_rate=rate)

    def batch(self) -> Batch:
        """Return this rank's part of the next step's batch."""
        r = self.recipe
        return batch_at(
            self.data, self.done, size=r.batch, design=r.design, seed=r.seed, world=self.world
        )

    def gradient(self) -> dict[str, Any]:
        """Put the next step's gradient into the parameters and return the figures of its loss.

        Raises:
            ValueError: a score is nan or infinite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        batch = self.batch()
        w = weights(policy_draws(batch)).to(self.world.device)
        reference = self.reference(batch).to(self.world.device)
        check_finite(reference, batch, "reference")
        kept = self._all_at_once(batch) if self.recipe.at_once is None else None
        if kept is None:
            S = score(self.policy, self._packs(batch), len(batch.pairs))
        else:
            S = kept.detach().view(len(batch.pairs), 2, -1)
        check_finite(S, batch, "policy")
        b = weights(reference_draws(batch)).to(self.world.device) * reference.double()
        slopes, found = self._slopes(w * S.double(), b, batch)
        coefficients = (slopes * w * gradient_scale(self.world)).flatten()
        if kept is None:
            self._backward(batch, coefficients)
        else:
            (coefficients * kept.double()).sum().backward()
        return found

    def _all_at_once(self, batch: Batch) -> Tensor:
        """Return S of all sequences in one pass, with everything kept for its gradient."""
        (chunk,) = self._packs(batch)
        return self.policy(chunk)

    def _backward(self, batch: Batch, coefficients: Tensor) -> None:
        """Run chunk after chunk forward and backward."""
        at_once, at = self.recipe.at_once or len(coefficients), 0
        for chunk in self._packs(batch):
            part = coefficients[at : at + at_once]
            at += at_once
            with held_back(self.policy, last=at >= len(coefficients)):
                (part * self.policy(chunk).double()).sum().backward()

    def _packs(self, batch: Batch) -> Iterator[Pack]:
        chunks = Chunks(self.mask_id, self.recipe.at_once, self.world.device)
        return chunks(batch.pairs, policy_draws(batch))

    def _slopes(self, a: Tensor, b: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Return the slopes `[B, 2, n]` of the mean over all ranks, and the figures."""
        slopes, sums = torch.zeros_like(a), torch.zeros(6, dtype=torch.float64)
        recipe, k = self.recipe, batch.counted
        if k:
            terms = Terms(a[:k, 0], a[:k, 1], b[:k, 0], b[:k, 1])
            found = dpo(terms, recipe.design, beta=recipe.beta, gradient=recipe.gradient)
            lengths = torch.tensor([len(p.chosen) for p in batch.pairs[:k]], device=a.device)
            supervised = supervised_slopes(terms, lengths, weight=recipe.supervised)
            share = k / batch.size  # these are of the mean over this rank's pairs
            slopes[:k, 0] = share * (found.slope_w + supervised)
            slopes[:k, 1] = share * found.slope_l
            nll = -terms.policy_w.mean(1) / lengths
            sums = torch.stack(
                [
                    found.loss.sum(),
                    jackknife_loss(terms, recipe).sum(),
                    nll.sum(),
                    found.score.sign().add(1).div(2).sum(),
                    found.score.sum(),
                    score_variance(terms, recipe).sum(),
                ]
            ).cpu()
        means = (total(sums, self.world) / batch.size).tolist()
        told = [None if math.isnan(mean) else mean for mean in means]
        names = ("loss", "jackknife", "supervised", "accuracy", "score", "score_variance")
        return slopes, dict(zip(names, told, strict=True))


def jackknife_loss(terms: Terms, recipe: Recipe) -> Tensor:
    """Return the jackknife estimate of each pair's loss, `[B]`; nan without independent halves."""
    if not recipe.design.has_independent_halves:
        return torch.full((len(terms.policy_w),), torch.nan, device=terms.policy_w.device)
    return dpo(terms, recipe.design, beta=recipe.beta, loss="jackknife").loss


def score_variance(terms: Terms, recipe: Recipe) -> Tensor:
    """Estimate the sampling variance of each pair's s_hat, without bias, `[B]`.

    s_hat is a mean over independent parts, the draws of one count each, or the sets of systematic
    counts; whatever is shared within a part, their spread tells. Nan where there is one part.
    """
    design = recipe.design
    parts = design.n_t if design.counts == "iid" else design.sets
    if parts < 2:
        return torch.full((len(terms.policy_w),), torch.nan, device=terms.policy_w.device)
    margin = terms.policy_w - terms.reference_w - terms.policy_l + terms.reference_l
    return recipe.beta**2 * margin.view(len(margin), parts, -1).mean(2).var(1) / parts
