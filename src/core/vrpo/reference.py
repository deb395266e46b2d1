"""The reference's scores: of a frozen model, of the policy without its adapters, or precomputed.

The reference never changes, and the masks of (seed, epoch, example) can be drawn before training as
well as in it. So its scores can be computed once, kept in a file of `8 n` bytes for each pair and
epoch (float32), and training needs no second model. The file knows what it is of; with other data,
another seed, design or model it is refused.

To the bit these scores are those of the live reference where the same pairs share a batch and as
many sequences run at once; otherwise to rounding.

Source: arXiv:2505.19223v2, Section 3.2 (the shared masks); replayed seeds are not in the paper.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from core.files import replace
from core.train.checkpoint import check_same
from core.train.distributed import World, inner, total
from core.train.order import batches, rows_at
from core.vrpo.draws import Design
from core.vrpo.preferences import Preference, digest
from core.vrpo.scoring import (
    Batch,
    Chunks,
    Model,
    batch_at,
    check_finite,
    reference_draws,
    score,
)

SAVE_EVERY = 50  # batches between two saves of a precomputation
FORMAT = "core.vrpo.reference/1"


class Live:
    """Scores of a model that is at hand, and is not trained."""

    def __init__(self, model: Model, chunks: Chunks) -> None:
        """Score with `model`, so many sequences at once."""
        self.model, self.chunks = model, chunks

    def __call__(self, batch: Batch) -> Tensor:
        """Return S at the batch's reference masks, `[B, 2, n]`."""
        return score(self.model, self.chunks(batch.pairs, reference_draws(batch)), len(batch.pairs))


class AdaptersOff:
    """Scores of the policy with its adapters switched off: no second copy of the weights."""

    def __init__(self, policy: nn.Module, chunks: Chunks) -> None:
        """Score with a `peft` model.

        Raises:
            ValueError: the policy has no adapters to switch off.
        """
        if not callable(getattr(inner(policy), "disable_adapter", None)):
            raise ValueError(
                f"want a policy with adapters (peft), got {type(inner(policy)).__name__}: name "
                "the reference's model"
            )
        self.policy, self.live = policy, Live(policy, chunks)

    def __call__(self, batch: Batch) -> Tensor:
        """Return S at the batch's reference masks, `[B, 2, n]`."""
        with getattr(inner(self.policy), "disable_adapter")():  # noqa: B009
            return self.live(batch)


class Precomputed:
    """Scores out of a file that `precompute` wrote."""

    def __init__(
        self, path: Path, data: Sequence[Preference], source: dict[str, str], *, epochs: int
    ) -> None:
        """Read them.

        Args:
            path: the file.
            data: the pairs of the training.
            source: what the scores must be of, see `source_of`.
            epochs: epochs that the training will see.

        Raises:
            ValueError: no such file, a broken one, one that is of something else (by the field
                that differs), or of fewer epochs.
        """
        self.scores = _read(path, source)
        if len(self.scores) < epochs:
            raise ValueError(
                f"{path} holds {len(self.scores)} epoch(s), the training has {epochs}: "
                "precompute that many"
            )
        if not self.scores.isfinite().all():
            raise ValueError(f"{path} holds scores that are nan or infinite: precompute it anew")
        self.row = {pair.example: i for i, pair in enumerate(data)}

    def __call__(self, batch: Batch) -> Tensor:
        """Return S at the batch's reference masks, `[B, 2, n]`."""
        return self.scores[batch.epoch, [self.row[pair.example] for pair in batch.pairs]]


def source_of(
    model: nn.Module,
    data: Sequence[Preference],
    design: Design,
    seed: int,
    dtype: torch.dtype | None = None,
) -> dict[str, str]:
    """Return what scores are of, by name: data, design, seed, dtype, and the model's weights.

    Args:
        model: the reference, whole on this process: before it is sharded.
        data: the pairs.
        design: of the masks.
        seed: of the masks.
        dtype: that the reference runs in; None: the dtype of `model`.
    """
    dtype = next(model.parameters()).dtype if dtype is None else dtype
    return {
        "format": FORMAT,
        "data": digest(list(data)),
        "design": json.dumps(dataclasses.asdict(design)),
        "seed": str(seed),
        "dtype": str(dtype),
        "reference": fingerprint(model, dtype),
    }


def fingerprint(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """Return a SHA-256 of a model: its configuration, names and bytes of all parameters in `dtype`.

    Equal weights are two models where mask token or positions differ.
    """
    found = sha256(repr(getattr(model, "config", None)).encode())
    for name, parameter in sorted(model.named_parameters()):
        value = parameter.detach().to(dtype=dtype)
        found.update(f"{name} {list(value.shape)} {value.dtype};".encode())
        raw = value.cpu().contiguous().flatten().view(torch.uint8)
        found.update(raw.numpy().data)
    return found.hexdigest()


def precompute(
    path: Path,
    reference: Callable[[Batch], Tensor],
    data: Sequence[Preference],
    source: dict[str, str],
    *,
    design: Design,
    seed: int,
    size: int,
    epochs: int,
    world: World,
    show: Callable[[int, int], None] = lambda done, all_: None,
) -> None:
    """Score every pair at the masks of every epoch, and write the scores to a file.

    What is done is kept beside it, as `.part`, and taken up again by another call. All ranks call
    this; the first one writes.

    Args:
        path: the file; replaced as a whole at the end.
        reference: what scores, `Live`.
        data: the pairs.
        source: what the scores are of, see `source_of`.
        design: of the masks.
        seed: of the masks.
        size: pairs in a batch.
        epochs: how many to cover.
        world: this rank.
        show: called with batches done and in all.

    Raises:
        ValueError: a score is nan or infinite, or the `.part` is of something else.
        OSError: it could not be written.
    """
    part = path.with_name(path.name + ".part")
    scores = torch.full((epochs, len(data), 2, design.n), torch.nan, dtype=torch.float64)
    if part.exists():
        before = _read(part, source)[:epochs]
        scores[: len(before)] = before
    every = epochs * batches(len(data), size)
    dtype = torch.float64 if source["dtype"] == "torch.float64" else torch.float32
    for step in range(every):
        epoch, rows = rows_at(len(data), step, size=size, seed=seed)
        if not scores[epoch, rows].isfinite().all():
            batch = batch_at(data, step, size=size, design=design, seed=seed, world=world)
            found = reference(batch)
            check_finite(found, batch, "reference")
            scores[epoch, rows] = _gathered(found, batch, world).double().cpu()
        if world.first and (step + 1) % SAVE_EVERY == 0:
            _write(part, scores.to(dtype), source)
        show(step + 1, every)
    if world.first:
        _write(path, scores.to(dtype), source)
        part.unlink(missing_ok=True)


def _gathered(found: Tensor, batch: Batch, world: World) -> Tensor:
    """Return the scores of the whole batch, in its order, from those of each rank's part."""
    whole = found.new_zeros(world.size * len(batch.pairs), *found.shape[1:])
    at = world.rank * len(batch.pairs)
    whole[at : at + batch.counted] = found[: batch.counted]
    return total(whole, world)[: batch.size]


def _write(path: Path, scores: Tensor, source: dict[str, str]) -> None:
    from safetensors.torch import save_file

    replace(path, lambda part: save_file({"scores": scores.contiguous()}, part, source))


def _read(path: Path, source: dict[str, str]) -> Tensor:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise ValueError(f"want precomputed scores, found nothing at {path}: precompute them")
    try:
        with safe_open(path, "pt") as file:
            found, scores = file.metadata() or {}, file.get_tensor("scores")
    except SafetensorError as error:
        raise ValueError(f"{path}: not precomputed scores: {error}") from error
    check_same(source, found, str(path))
    return scores
