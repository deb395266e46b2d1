r"""A task whose answers can be checked: six digits in, the same digits sorted out.

A small masked diffusion model is trained on it and stopped early: it sorts some prompts and fails
on most. Its own wrong answers are the rejected responses, the right ones the chosen: preferences
that are true, at a size where every mask of a response can be enumerated (2^6 - 1 = 63), so that
the losses of a policy are known exactly.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.train.seeds import generator
from core.vrpo.draws import Design, draw
from core.vrpo.exact import masked_sums
from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.packing import pack
from core.vrpo.preferences import Preference
from core.vrpo.sampling import Sampling, generate

DIGITS = 6
MASK = 10
CONFIG = Config(
    vocab_size=11, d_model=64, n_layers=3, n_heads=4, mlp_hidden=128, mask_id=MASK, max_length=16
)
WRITE = Sampling(DIGITS, DIGITS, DIGITS, stop_at_eos=False)
"""One token a step, the most confident first."""
PROMPTS, MASKS = range(2)
"""What a key's second number names."""


@dataclass(frozen=True)
class SortingWorld:
    """A reference model, its preferences, and the reference's S at every mask of them."""

    reference: MaskedDiffusionLM
    train: list[Preference]
    held_out: list[Preference]
    train_sums: Tensor
    """`[pairs, 2, 63]` float32, chosen and rejected."""
    held_out_sums: Tensor
    seed: int


def sorting_world(
    seed: int, *, steps: int = 100, batch: int = 64, train: int = 384, held_out: int = 64
) -> SortingWorld:
    """Train a reference and let it fail.

    Args:
        seed: names everything random.
        steps: of the reference's training; few, so that there is something left to learn.
        batch: sequences a step.
        train: pairs to train on.
        held_out: pairs to judge by.

    Raises:
        ValueError: the reference hardly ever fails: it was trained for too long.
    """
    reference = pretrained(seed, steps=steps, batch=batch)
    pairs = failures(reference, train + held_out, seed)
    sums = sums_of(reference, pairs)
    return SortingWorld(reference, pairs[:train], pairs[train:], sums[:train], sums[train:], seed)


def prompts(count: int, seed: int, draw: int = 0) -> Tensor:
    """Return prompts, `[count, 6]` digits."""
    digits = generator(seed, PROMPTS, draw).integers(0, 10, (count, DIGITS))
    return torch.from_numpy(digits)


def pretrained(seed: int, *, steps: int, batch: int) -> MaskedDiffusionLM:
    """Return a model trained on right answers by the fixed-count form, one mask each."""
    model, lr = MaskedDiffusionLM.initialised(CONFIG, seed), 3e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        x = prompts(batch, seed, 1 + step)
        drawn = draw(Design(batch), DIGITS, seed, MASKS, step)
        S = model(pack(list(x), list(x.sort(dim=1)[0]), list(drawn.masks), mask_id=MASK))
        loss = -(drawn.weights * S).mean() / DIGITS
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def failures(model: MaskedDiffusionLM, count: int, seed: int) -> list[Preference]:
    """Return prompts that the model answers wrongly when it samples, with both answers."""
    x = prompts(8 * count, seed)
    how = Sampling(DIGITS, DIGITS, DIGITS, temperature=1.0, stop_at_eos=False)
    answers = torch.stack(generate(model, list(x), how, seed=seed))
    right = x.sort(dim=1)[0]
    wrong = (answers != right).any(dim=1).nonzero().flatten()[:count].tolist()
    if len(wrong) < count:
        raise ValueError(
            f"want {count} wrong answers out of {len(x)}, got {len(wrong)}: train the reference "
            "for fewer steps, or ask for fewer pairs"
        )
    return [Preference(x[i], right[i], answers[i], example) for example, i in enumerate(wrong)]


def sums_of(model: MaskedDiffusionLM, pairs: list[Preference]) -> Tensor:
    """Return S of both responses of each pair at every mask, `[pairs, 2, 63]`, in float32."""
    x = [p.prompt for p in pairs]
    both = [
        masked_sums(model, x, [getattr(p, side) for p in pairs]) for side in ("chosen", "rejected")
    ]
    return torch.from_numpy(np.stack(both, axis=1)).float()


def solved(model: MaskedDiffusionLM, seed: int, count: int = 512) -> float:
    """Return the share of fresh prompts that the model sorts, decoding greedily."""
    x = prompts(count, seed, 10**6)
    answers = torch.stack(generate(model, list(x), WRITE))
    return float((answers == x.sort(dim=1)[0]).all(dim=1).double().mean())
