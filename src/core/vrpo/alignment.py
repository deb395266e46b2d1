r"""Alignment runs whose losses are known exactly: the same training, judged without sampling.

A run trains a copy of the reference of a `SortingWorld` with `core.vrpo.trainer`. What it is judged
by is the exact DPO-ELBO loss of held-out pairs, from every mask of both responses. What a training
curve shows instead is the mean of a loss *estimate*, which lies above the exact loss by a bias that
depends on n: both are known here, at one and the same policy.
"""

import copy
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_expit
from torch import Tensor

from core.vrpo.draws import Design, Draws, PairDraws
from core.vrpo.exact import all_masks, counts, probabilities, terms
from core.vrpo.model import MaskedDiffusionLM
from core.vrpo.pairs import PairTerms
from core.vrpo.scoring import Batch, reference_draws
from core.vrpo.sorting import DIGITS, MASK, SortingWorld, solved, sums_of
from core.vrpo.trainer import Recipe, Trainer

Array = NDArray[np.floating]
DESIGNS: dict[str, Design | None] = {
    "(1,1) apart": Design(1, shared=False),
    "(1,1)": Design(1),
    "(4,1) apart": Design(4, shared=False),
    "(4,1)": Design(4),
    "(1,4)": Design(1, 4),
    "(8,1)": Design(8),
    "(4,1) systematic": Design(4, counts="systematic"),
    "exact": None,
}
"""What runs are compared: (n_t, n_y); `apart` draws the reference's masks anew."""


class Outcome(NamedTuple):
    """What a run came to."""

    curve: Array
    """`[steps]`: the loss estimate of each step's batch, what a training curve shows."""
    loss: float
    """Exact DPO-ELBO loss of the held-out pairs at the end, nats."""
    plotted: float
    """Mean of the loss estimate on the same pairs at the same policy: exact loss and bias."""
    accuracy: float
    """Share of held-out pairs whose exact score is positive."""
    solved: float
    """Share of fresh prompts that greedy decoding sorts; the same prompts for every policy."""
    passes: int
    """Forward passes of the policy, sequences in all."""
    seconds: float
    """Of the processor, for the training alone."""


@dataclass
class Looked:
    """The reference's scores, looked up in a table of every mask."""

    sums: Tensor
    """`[pairs, 2, 2^L - 1]`, in the order of `exact.all_masks`."""

    def __call__(self, batch: Batch) -> Tensor:
        """Return S at the batch's reference masks, `[B, 2, n]`."""
        both = zip(batch.pairs, reference_draws(batch), strict=True)
        return torch.stack(
            [
                torch.stack([self.sums[p.example, k, place(d.masks)] for k, d in enumerate(draws)])
                for p, draws in both
            ]
        )


class Noiseless(Trainer):
    """A trainer that sees every mask, each with its probability: the exact gradient."""

    def batch(self) -> Batch:
        """Return the batch of the next step with all masks in place of drawn ones."""
        M = 2**DIGITS - 1
        weights = torch.from_numpy(M * probabilities(DIGITS) * DIGITS / counts(DIGITS))
        one = Draws(all_masks(DIGITS), weights)
        every = (one, one)
        drawn = super().batch()
        return drawn._replace(draws=[PairDraws(every, every)] * len(drawn.pairs))


def align(
    world: SortingWorld,
    design: Design | None,
    *,
    seed: int,
    steps: int = 100,
    batch: int = 16,
    learning_rate: float = 3e-4,
) -> tuple[MaskedDiffusionLM, Outcome]:
    """Train a copy of the reference by the paper's recipe, and judge it exactly.

    Args:
        world: reference and pairs.
        design: how the budget is spent; None: the exact gradient, from all masks.
        seed: of the order of the pairs and the masks.
        steps: updates.
        batch: pairs an update.
        learning_rate: of AdamW, falling along a cosine.

    Returns:
        The policy, and what it came to.
    """
    used = design or Design(2**DIGITS - 1)
    recipe = Recipe(
        steps,
        batch=batch,
        design=used,
        learning_rate=learning_rate,
        warmup=steps // 20,
        at_once=None,
        seed=seed,
    )
    policy = copy.deepcopy(world.reference)
    kind = Trainer if design else Noiseless
    trainer = kind(policy, world.train, recipe, reference=Looked(world.train_sums), mask_id=MASK)
    start = time.process_time()
    curve = np.array([trainer.step().loss for _ in range(steps)])
    seconds = time.process_time() - start
    sums = sums_of(policy.eval(), world.held_out)
    score, plotted = judge(world, sums, design, recipe.beta)
    return policy, Outcome(
        curve,
        float(-log_expit(score).mean()),
        plotted,
        float((score > 0).mean()),
        solved(policy, world.seed),
        2 * used.n * batch * steps,
        seconds,
    )


def judge(
    world: SortingWorld, sums: Tensor, design: Design | None, beta: float
) -> tuple[Array, float]:
    """Return the exact score of each held-out pair, and the mean of the loss estimate on them.

    Args:
        world: its pairs and the reference's sums.
        sums: the policy's, `[pairs, 2, 2^L - 1]`.
        design: of the estimate; None: the exact loss. Where its draws are not independent the mean
            of the estimate is nan.
        beta: strength of the reference.
    """
    policy, reference = (terms(x.double().numpy()) for x in (sums, world.held_out_sums))
    found = PairTerms(policy[:, 0], policy[:, 1], reference[:, 0], reference[:, 1])
    score = found.score(beta)
    if design is None:
        return score, float(-log_expit(score).mean())
    if design.n_y > 1 or design.counts == "systematic":
        return score, float("nan")
    moments = found.loss_moments(design, beta)
    return score, float(np.mean([m.loss + m.bias for m in moments]))


def place(masks: Tensor) -> Tensor:
    """Return where masks stand in `exact.all_masks`."""
    L = masks.shape[-1]
    return (masks.long() << torch.arange(L - 1, -1, -1)).sum(-1) - 1
