"""A run of the training command: what it loads, what it is, and how it goes on.

What is in its folder, and how it gets there, is in `core.train.folder`.
"""

import dataclasses
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.files import whole_folder
from core.provenance import provenance
from core.train.checkpoint import checkpoints, load, plain, save, whole_state
from core.train.distributed import World, inner, shard
from core.train.folder import Folder
from core.train.order import batches
from core.train.progress import Show
from core.vrpo._options import Options
from core.vrpo.llada import load_llada, read_config, save_llada
from core.vrpo.lora import MATRICES, with_lora
from core.vrpo.model import MaskedDiffusionLM
from core.vrpo.preferences import Preference, Preferences, digest
from core.vrpo.reference import AdaptersOff, Live, Precomputed, fingerprint, precompute, source_of
from core.vrpo.scoring import Chunks
from core.vrpo.trainer import Figures, Recipe, Reference, Trainer

COMMAND = "core.vrpo.train"
RESULTS = ("model", "adapters")
"""Names of what it makes: without --lora, and with it."""


class Run:
    """A training that is ready to begin, or to go on."""

    def __init__(self, options: Options, recipe: Recipe, data: Preferences, world: World) -> None:
        """Load models and scores, and take up the last checkpoint.

        Raises:
            ValueError, OSError: something cannot be loaded, or does not fit.
        """
        assert options.out is not None
        self.options, self.recipe, self.data, self.world = options, recipe, data, world
        self.skipped = data.bad
        self.folder = Folder(options.out, command=COMMAND, result=RESULTS[options.lora is not None])
        kept, chunks = data.kept, chunks_of(options, recipe, world)
        model = loaded(options.model, options, options.weights, world)
        self.identity = identity(options, recipe, kept, model)
        reference: Reference | None = None
        if options.reference_scores is not None:
            reference = self._precomputed(model)
        elif options.lora is None or options.reference is not None:
            reference = Live(self._frozen(), chunks)
        policy: nn.Module = model
        if options.lora is not None:
            policy = with_lora(model, rank=options.lora, alpha=options.lora_alpha, seed=recipe.seed)
        compute = None if options.weights == options.dtype else options.dtype
        policy = shard(policy, options.shard, world, blocks=model.blocks, compute=compute)
        self.model = model
        self.trainer = Trainer(
            policy,
            kept,
            recipe,
            reference=reference or AdaptersOff(policy, chunks),
            mask_id=model.config.mask_id,
            world=world,
        )
        found = checkpoints(self.folder.out / "checkpoints")
        if found:
            done = load(found[-1], policy, self.trainer.optimizer, run=self.identity)
            self.trainer.done = done
        self.finished = self.folder.check(self.identity, done=self.trainer.done, steps=recipe.steps)

    def _precomputed(self, model: MaskedDiffusionLM) -> Precomputed:
        """Return the scores, after a look at what they must be of."""
        options, recipe, data = self.options, self.recipe, self.data.kept
        assert options.reference_scores is not None
        of = model if options.reference is None else load_llada(options.reference)
        source = source_of(of, data, recipe.design, recipe.seed, options.dtype)
        self.identity["reference"] = source["reference"]
        return Precomputed(options.reference_scores, data, source, epochs=epochs_of(recipe, data))

    def _frozen(self) -> nn.Module:
        """Return the reference's model, in the dtype that the policy runs in."""
        options, world = self.options, self.world
        model = loaded(options.reference or options.model, options, options.dtype, world)
        model.requires_grad_(False)
        self.identity["reference"] = fingerprint(model)
        return shard(model, options.shard, world, blocks=model.blocks)

    @property
    def result(self) -> Path:
        """Where the trained weights go."""
        return self.folder.result

    def train(self) -> None:
        """Take all steps that are left, and write the result; nothing, if that was done.

        Raises:
            ValueError: a score or a gradient is no number.
            OSError: something could not be written; the message says how to go on.
        """
        if self.finished:
            return
        with self.folder.telling(self._record, first=self.world.first):
            if self.world.first:
                skipped = [bad._asdict() for bad in self.skipped]
                self.folder.begin(self.trainer.done, skipped, self._record("running"))
            self._steps()
            self._write_result()

    def _steps(self) -> None:
        trainer, steps = self.trainer, self.recipe.steps
        with Show("step", steps, done=trainer.done, quiet=not self.world.first) as show:
            while trainer.done < steps:
                started = time.monotonic()
                epoch, figures = trainer.epoch, trainer.step()
                self._log(epoch, figures, time.monotonic() - started)
                if trainer.done % self.options.save_every == 0 or trainer.done == steps:
                    self._save()
                right = f"loss {figures.loss:.3f}, {figures.accuracy:.0%} right"
                show(trainer.done, right)

    def _log(self, epoch: int, figures: Figures, seconds: float) -> None:
        if self.world.first:
            line = {"step": self.trainer.done, "epoch": epoch, **figures._asdict()}
            self.folder.add({**line, "seconds": round(seconds, 4)})

    def _save(self) -> None:
        folder, trainer = self.folder.out / "checkpoints", self.trainer
        save(
            folder,
            trainer.done,
            trainer.policy,
            trainer.optimizer,
            run=self.identity,
            world=self.world,
            keep=self.options.keep,
        )

    def _write_result(self) -> None:
        policy, adapters = inner(self.trainer.policy), self.options.lora is not None
        # all ranks take part, the first one has it all
        found = {} if adapters else whole_state(self.trainer.policy)
        state = {name: x for name, x in found.items() if isinstance(x, torch.Tensor)}
        if not self.world.first or self.result.exists():
            return
        if adapters:
            with whole_folder(self.result) as new:
                policy.save_pretrained(new)  # type: ignore[operator]
        else:
            save_llada(self.model, self.result, source=self.options.model, state=state)

    def _record(
        self, status: str, seconds: float | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        asked = {k: plain(v) for k, v in dataclasses.asdict(self.options).items()}
        return {
            "status": status,
            "reason": reason,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "steps": self.recipe.steps,
            "done": self.trainer.done,
            "seconds": seconds,
            "pairs": len(self.data.kept),
            "skipped": len(self.skipped),
            "processes": self.world.size,
            "options": asked,
            "recipe": dataclasses.asdict(self.recipe),
            "identity": self.identity,
            "provenance": provenance(Path(__file__).parent),
        }


def precompute_scores(
    path: Path, options: Options, recipe: Recipe, data: Preferences, world: World
) -> None:
    """Write the scores of the reference for a training with the same options.

    Raises:
        ValueError, OSError: see `core.vrpo.reference.precompute`.
    """
    folder = options.reference or options.model
    model = loaded(folder, options, options.dtype, world).requires_grad_(False)
    source = source_of(model, data.kept, recipe.design, recipe.seed)
    live = Live(
        shard(model, options.shard, world, blocks=model.blocks), chunks_of(options, recipe, world)
    )
    total = epochs_of(recipe, data.kept) * batches(len(data.kept), recipe.batch)
    with Show("batch", total, quiet=not world.first) as show:
        precompute(
            path,
            live,
            data.kept,
            source,
            design=recipe.design,
            seed=recipe.seed,
            size=recipe.batch,
            epochs=epochs_of(recipe, data.kept),
            world=world,
            show=lambda done, _: show(done),
        )


def loaded(folder: Path, options: Options, dtype: torch.dtype, world: World) -> MaskedDiffusionLM:
    """Return the model of a folder, where this rank wants it."""
    # FSDP2 moves each rank's part to its device itself
    device = "cpu" if options.shard == "fsdp2" else world.device
    model = load_llada(folder, device=device, dtype=dtype)
    model.checkpointing = options.checkpointing
    return model


def chunks_of(options: Options, recipe: Recipe, world: World) -> Chunks:
    """Return how sequences go through a model."""
    return Chunks(read_config(options.model).mask_id, recipe.at_once, world.device)


def epochs_of(recipe: Recipe, data: list[Preference]) -> int:
    """Return how many epochs a training sees, the last perhaps in part."""
    return -(-recipe.steps // batches(len(data), recipe.batch))


def identity(
    options: Options, recipe: Recipe, data: list[Preference], model: MaskedDiffusionLM
) -> dict[str, Any]:
    """Return what a checkpoint must agree with: all that changes what is learned."""
    how = {f"recipe.{k}": plain(v) for k, v in dataclasses.asdict(recipe).items()}
    how.pop("recipe.at_once")  # the same gradient
    return {
        **how,
        "dtype": str(options.dtype),  # before the weights, which are loaded in it
        "data": digest(data),
        "model": fingerprint(model),
        **_adapters(options),
        "reference": "the model before",
    }


def _adapters(options: Options) -> dict[str, Any]:
    rank = options.lora
    if rank is None:
        return {"lora.rank": 0}
    alpha = 2 * rank if options.lora_alpha is None else options.lora_alpha
    return {"lora.rank": rank, "lora.alpha": alpha, "lora.matrices": " ".join(MATRICES)}
