"""A batch of pairs, its masks, and its masked log-likelihoods S in packs of a few sequences.

Symbols: B pairs on this rank, n masks for each response; the sequences of a batch are counted
through pair by pair, first the n of the chosen response, then the n of the rejected one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.train.distributed import World, share
from core.train.order import rows_at
from core.vrpo.draws import Design, Draws, PairDraws, draw_pair
from core.vrpo.packing import Pack, pack
from core.vrpo.preferences import Preference

Model = Callable[[Pack], Tensor]
"""From a pack to S `[sequences]`."""


class Batch(NamedTuple):
    """This rank's part of a batch, with its masks."""

    pairs: list[Preference]
    draws: list[PairDraws]
    epoch: int
    counted: int
    """So many of the pairs, from the front, count; see `core.train.distributed.share`."""
    size: int
    """Pairs that count, on all ranks."""


def batch_at(
    data: Sequence[Preference], step: int, *, size: int, design: Design, seed: int, world: World
) -> Batch:
    """Return this rank's part of the batch of a step.

    The masks of a pair have the name (seed, epoch, example): they know of no rank, no batch and
    nothing that ran before.
    """
    epoch, rows = rows_at(len(data), step, size=size, seed=seed)
    mine, counted = share([data[row] for row in rows], world)
    draws = [
        draw_pair(design, (len(p.chosen), len(p.rejected)), seed, epoch, p.example) for p in mine
    ]
    return Batch(mine, draws, epoch, counted, len(rows))


def policy_draws(batch: Batch) -> list[tuple[Draws, Draws]]:
    """Return each pair's masks for the policy."""
    return [draws.policy for draws in batch.draws]


def reference_draws(batch: Batch) -> list[tuple[Draws, Draws]]:
    """Return each pair's masks for the reference."""
    return [draws.reference for draws in batch.draws]


class Chunks(NamedTuple):
    """How a batch's sequences go through a model."""

    mask_id: int
    at_once: int | None
    """Sequences in a pack; None: all."""
    device: torch.device

    def __call__(
        self, pairs: Sequence[Preference], draws: Sequence[tuple[Draws, Draws]]
    ) -> Iterator[Pack]:
        """Yield the packs of the sequences, in their order."""
        rows = [
            (pair.prompt, response, mask)
            for pair, both in zip(pairs, draws, strict=True)
            for response, drawn in zip((pair.chosen, pair.rejected), both, strict=True)
            for mask in drawn.masks
        ]
        step = self.at_once or len(rows)
        for at in range(0, len(rows), step):
            prompts, responses, masks = zip(*rows[at : at + step], strict=True)
            yield pack(prompts, responses, masks, mask_id=self.mask_id).to(self.device)


@torch.no_grad()
def score(model: Model, chunks: Iterator[Pack], pairs: int) -> Tensor:
    """Return S of each sequence of so many pairs, `[B, 2, n]`, in the model's dtype."""
    return torch.cat([model(chunk) for chunk in chunks]).view(pairs, 2, -1)


def weights(draws: Sequence[tuple[Draws, Draws]]) -> Tensor:
    """Return the weights of the sequences, `[B, 2, n]` float64."""
    return torch.stack([torch.stack([w.weights, l.weights]) for w, l in draws])


def check_finite(S: Tensor, batch: Batch, whose: str) -> None:
    """Refuse scores that are no numbers, by the examples they belong to.

    Raises:
        ValueError: S `[B, 2, n]` holds nan or an infinity.
    """
    bad = (~S.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        named = ", ".join(batch.pairs[b].where or f"example {batch.pairs[b].example}" for b in bad)
        raise ValueError(
            f"want finite log-likelihoods, got nan or infinity from the {whose} at {named}: look "
            "at these lines; if they are in order, the model's weights are not, or the learning "
            "rate is too high"
        )
