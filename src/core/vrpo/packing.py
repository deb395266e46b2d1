"""Masked sequences one after another, of any lengths, without padding.

A pack is what the model reads: prompt and response of every sequence with a mask applied to the
response, end to end in one row of tokens. No token is padding and no sequence sees another, so a
sequence's result does not depend on what it is packed with.

Symbols: T tokens of S sequences, N of them masked.
"""

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor


class Pack(NamedTuple):
    """S sequences with masks applied, packed."""

    tokens: Tensor
    """`[T]` int64, the mask token where masked."""
    lengths: tuple[int, ...]
    """Tokens of each of the S sequences, prompt and response; they sum to T."""
    rows: Tensor
    """`[N]` int64: the places in `tokens` that are masked, ascending."""
    targets: Tensor
    """`[N]` int64: the tokens that belong there."""
    owner: Tensor
    """`[N]` int64: the sequence of each masked place, ascending; of some there may be none."""

    def to(self, device: torch.device | str) -> "Pack":
        """Return the same pack with its tensors on `device`."""
        tensors = (self.tokens, self.rows, self.targets, self.owner)
        tokens, rows, targets, owner = (x.to(device, non_blocking=True) for x in tensors)
        return Pack(tokens, self.lengths, rows, targets, owner)


def pack(
    prompts: Sequence[Tensor],
    responses: Sequence[Tensor],
    masks: Sequence[Tensor],
    *,
    mask_id: int,
) -> Pack:
    """Return the pack of S sequences, each a prompt and a response with a mask applied to it.

    The same tensor may stand for many sequences: n masks of one response are n sequences. A mask
    without a masked token, which the time form draws, leaves its sequence without a row: its S is
    an empty sum, 0.

    Args:
        prompts: S of `[P]`, integer tokens; may be empty, never masked.
        responses: S of `[L]`, integer tokens, at least one each.
        masks: S of `[L]` bool, True where the response is masked.
        mask_id: the mask token; no prompt or response may hold it.

    Raises:
        ValueError: no sequence, other numbers of prompts, responses and masks, a shape or dtype
            that does not fit, an empty response, a mask of another length than its response, or
            data that holds the mask token.
    """
    _check_shapes(prompts, responses, masks)
    # numel: len of a tensor takes microseconds, which made up two thirds of a pack's time
    P, L = [x.numel() for x in prompts], [x.numel() for x in responses]
    tokens = torch.cat(list(chain.from_iterable(zip(prompts, responses, strict=True)))).long()
    device, S = tokens.device, len(P)
    sizes = torch.tensor([P, L], device=device)  # [2, S]
    shift = sizes[0].cumsum(0).repeat_interleave(sizes[1], output_size=sum(L))  # of a response
    masked = torch.cat(list(masks)).nonzero().squeeze(1)  # [N], among the response tokens
    rows = masked + shift[masked]
    owner = torch.arange(S, device=device).repeat_interleave(sizes[1], output_size=sum(L))[masked]
    lengths = tuple(p + l for p, l in zip(P, L, strict=True))
    _check_no_mask_token(tokens, lengths, P, mask_id)
    targets = tokens[rows]
    return Pack(tokens.index_fill(0, rows, mask_id), lengths, rows, targets, owner)


def _check_shapes(
    prompts: Sequence[Tensor], responses: Sequence[Tensor], masks: Sequence[Tensor]
) -> None:
    S = len(responses)
    if S == 0 or len(prompts) != S or len(masks) != S:
        raise ValueError(
            "want at least one sequence and as many prompts as responses and masks, "
            f"got {len(prompts)} prompts, {S} responses, {len(masks)} masks"
        )
    for s, (prompt, response, mask) in enumerate(zip(prompts, responses, masks, strict=True)):
        if prompt.ndim != 1 or response.ndim != 1 or mask.ndim != 1:
            shapes = f"{list(prompt.shape)}, {list(response.shape)}, {list(mask.shape)}"
            _refuse(s, f"want a prompt [P], a response [L] and a mask [L], got {shapes}")
        if prompt.dtype.is_floating_point or response.dtype.is_floating_point:
            _refuse(s, f"want integer tokens, got {prompt.dtype} and {response.dtype}")
        if mask.dtype != torch.bool:
            _refuse(s, f"want a mask of dtype bool, True where masked, got {mask.dtype}")
        L = response.numel()
        if L == 0:
            _refuse(s, "want a response of at least one token, got none: leave the pair out")
        if mask.numel() != L:
            _refuse(s, f"want a mask of the response's {L} tokens, got {len(mask)}")


def _check_no_mask_token(
    tokens: Tensor, lengths: tuple[int, ...], P: list[int], mask_id: int
) -> None:
    found = (tokens == mask_id).nonzero()
    if len(found):
        place, starts = int(found[0]), list(accumulate(lengths, initial=0))
        s = next(s for s in range(len(lengths)) if place < starts[s + 1])
        at = place - starts[s]
        where = f"prompt at {at}" if at < P[s] else f"response at {at - P[s]}"
        _refuse(
            s,
            f"want data without the mask token {mask_id}, got it in the {where}: "
            "the model would read it as unknown; remove it from the text",
        )


def _refuse(s: int, message: str) -> NoReturn:
    raise ValueError(f"sequence {s}: {message}")


class Layout(NamedTuple):
    """In which order and in which groups a pack's sequences attend, each within itself."""

    groups: tuple[tuple[int, int], ...]
    """(sequences, tokens of each), by ascending length: sequences of one length stand together."""
    order: Tensor | None
    """`[T]` int64: where the tokens so ordered stand in the pack; None if just there."""
    inverse: Tensor | None
    """`[T]` int64: where the pack's tokens stand so ordered."""
    positions: Tensor
    """`[T]` int64: places within the sequence, from 0, in this order."""
    bounds: Tensor
    """`[S + 1]` int32: where sequences start and end, in this order."""


def layout(lengths: tuple[int, ...], device: torch.device) -> Layout:
    """Return the layout of a pack of sequences of these lengths.

    One length is one group in the order of the pack: nothing is moved.
    """
    ascending = sorted(lengths)
    groups = tuple((ascending.count(length), length) for length in sorted(set(lengths)))
    steps = [torch.arange(length, device=device).repeat(count) for count, length in groups]
    bounds = torch.tensor([0, *accumulate(ascending)], dtype=torch.int32, device=device)
    positions = torch.cat(steps)
    if len(groups) == 1 or ascending == list(lengths):
        return Layout(groups, None, None, positions, bounds)
    size = torch.tensor(lengths, device=device)
    turn = torch.argsort(size, stable=True)  # the sequences, by length
    start = (size.cumsum(0) - size)[turn].repeat_interleave(size[turn], output_size=sum(lengths))
    order = start + positions
    return Layout(groups, order, torch.argsort(order), positions, bounds)
