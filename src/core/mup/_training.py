"""A run of the training command: what it builds, what it is, and how it goes on.

OUT/run.json       how it went: width, learning rate, held-out loss; `core.mup.runs` reads it
OUT/log.jsonl      loss, gradient's norm, learning rate, and now and then the held-out loss
OUT/checkpoints/   the last of them, to resume from
OUT/model/ema      the moving average and OUT/model/last the weights: each a checkpoint that
                   diffusers reads, with the plan beside it
"""

import dataclasses
import time
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from core.files import whole_folder
from core.mup.dit import EMBEDDER, SharedDiT
from core.mup.latents import Latents
from core.mup.plan import Plan, plan
from core.mup.trainer import Figures, HeldOut, Recipe, Trainer
from core.provenance import provenance
from core.train.checkpoint import checkpoints, load, plain, save, whole_state
from core.train.distributed import Kind, World, shard
from core.train.folder import Folder
from core.train.progress import Show

COMMAND, RESULT = "core.mup.train", "model"


@dataclasses.dataclass(frozen=True)
class Network:
    """Which DiT, and how it is parametrised."""

    heads: int = 4
    base_heads: int = 4
    """Of the width at which the learning rate was tuned."""
    head_dim: int = 72
    layers: int = 28
    patch: int = 2
    parametrization: str = "mup"
    """Or `"standard"`."""
    recipe: str = "dit-mup"
    """Of initialisation, one of `core.mup.initial.RECIPES`."""
    learned_variance: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no DiT."""
        for name in ("heads", "base_heads", "head_dim", "layers", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"want --{name.replace('_', '-')} >= 1, got {getattr(self, name)}")
        if self.head_dim % 2:
            raise ValueError(f"want an even --head-dim, got {self.head_dim}: positions have pairs")

    @property
    def width(self) -> int:
        """D."""
        return self.heads * self.head_dim

    def plan(self, *, channels: int, side: int, classes: int) -> Plan:
        """Return the plan of this network for latents `[channels, side, side]`.

        Raises:
            ValueError: no patch fits, or the network cannot be planned.
        """
        if side % self.patch:
            raise ValueError(
                f"want --patch to divide the latents' {side} pixels a side, got {self.patch}"
            )
        config = {
            "num_attention_heads": 2 * self.base_heads,
            "attention_head_dim": self.head_dim,
            "in_channels": channels,
            "out_channels": channels * (2 if self.learned_variance else 1),
            "num_layers": self.layers,
            "sample_size": side,
            "patch_size": self.patch,
            "num_embeds_ada_norm": classes,
            "norm_eps": 1e-6,  # as in the released code of DiT
        }
        wider = plan(SharedDiT, config, base={"num_attention_heads": self.base_heads})
        return wider.at(num_attention_heads=self.heads).under(self.parametrization)


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command was asked beside network and recipe."""

    data: Path
    out: Path
    held_out: int = 512
    evaluate_every: int = 5000
    log_every: int = 100
    save_every: int = 5000
    keep: int = 2
    shard: Kind = "none"
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be kept."""
        for name in ("held_out", "evaluate_every", "log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"want --{name.replace('_', '-')} >= 1, got {getattr(self, name)}")


class Run:
    """A training that is ready to begin, or to go on."""

    def __init__(self, network: Network, recipe: Recipe, options: Options, world: World) -> None:
        """Open the latents, build the model and take up the last checkpoint.

        Raises:
            ValueError, OSError: something cannot be read, or does not fit.
            Diverged: it is a run that diverged.
        """
        self.network, self.recipe, self.options, self.world = network, recipe, options, world
        self.latents = latents = Latents(options.data)
        self.plan = network.plan(
            channels=latents.channels, side=latents.side, classes=len(latents.classes)
        )
        self.identity = self._identity()
        self.folder = Folder(options.out, command=COMMAND, result=RESULT)
        model = self.plan.build(network.recipe, seed=recipe.seed)
        mean = deepcopy(model).requires_grad_(False)
        self.trainer = Trainer(
            self._shared(model),
            self._shared(mean),
            self.plan,
            latents,
            recipe,
            held_out=options.held_out,
            world=world,
        )
        found = checkpoints(options.out / "checkpoints")
        if found:
            how = {"run": self.identity, "beside": {"mean": self.trainer.mean}}
            self.trainer.done = load(found[-1], self.trainer.model, self.trainer.optimizer, **how)
        self.finished = self.folder.check(self.identity, done=self.trainer.done, steps=recipe.steps)
        self.held_out: dict[str, HeldOut] = {}

    def _shared(self, model: nn.Module) -> nn.Module:
        """Return a model as the ranks share it."""
        # FSDP2 moves each rank's part to its device itself
        placed = model if self.options.shard == "fsdp2" else model.to(self.world.device)
        blocks = list(placed.get_submodule("transformer_blocks").children())
        # all blocks have the first one's embedder: a part of its own, or each would take it
        parts = [blocks[0].get_submodule(EMBEDDER), *blocks]
        return shard(placed, self.options.shard, self.world, blocks=parts)

    def train(self) -> None:
        """Take all steps that are left, and write the result; nothing, if that was done.

        Raises:
            Diverged: a loss or a gradient is no number.
            OSError: something could not be written; the message says how to go on.
        """
        if self.finished:
            return
        with self.folder.telling(self._record, first=self.world.first):
            if self.world.first:
                self.folder.begin(self.trainer.done, (), self._record("running"))
            self._steps()
            self.held_out = self._evaluate()
            self._write_result()

    def _steps(self) -> None:
        trainer, steps, options = self.trainer, self.recipe.steps, self.options
        seen: list[Figures] = []
        with Show("step", steps, done=trainer.done, quiet=not self.world.first) as show:
            while trainer.done < steps:
                started, epoch = time.monotonic(), trainer.epoch
                seen.append(trainer.step())
                loss = seen[-1].loss
                done = trainer.done
                saved = done % options.save_every == 0 or done == steps
                found = self._evaluate() if done % options.evaluate_every == 0 else {}
                # at every checkpoint, so that a run that goes on writes the same lines
                if saved or found or done % options.log_every == 0:
                    self._log(epoch, seen, found, time.monotonic() - started)
                    seen = []
                if saved:
                    self._save()
                if found:
                    told = ", ".join(f"{name} {each.loss:.4f}" for name, each in found.items())
                    show.say(f"step {done}: held-out loss, {told}")
                show(done, f"loss {loss:.4f}")

    def _log(
        self, epoch: int, seen: list[Figures], found: dict[str, HeldOut], seconds: float
    ) -> None:
        if self.world.first:
            means = {
                name: sum(x) / len(x)
                for name, x in zip(Figures._fields, zip(*seen, strict=True), strict=True)
            }
            held_out = {f"held_out_{name}": each.loss for name, each in found.items()}
            line = {"step": self.trainer.done, "epoch": epoch, **means, **held_out}
            self.folder.add({**line, "seconds": round(seconds, 4)})

    def _evaluate(self) -> dict[str, HeldOut]:
        t = self.trainer
        return {"ema": t.evaluate(t.mean), "last": t.evaluate(t.model)}

    def _save(self) -> None:
        t = self.trainer
        save(
            self.folder.out / "checkpoints",
            t.done,
            t.model,
            t.optimizer,
            run=self.identity,
            world=self.world,
            beside={"mean": t.mean},
            keep=self.options.keep,
        )

    def _write_result(self) -> None:
        states = {"ema": whole_state(self.trainer.mean), "last": whole_state(self.trainer.model)}
        if not self.world.first or self.folder.result.exists():
            return
        with whole_folder(self.folder.result) as new:
            for name, state in states.items():
                model = SharedDiT(**self.plan.config)
                model.load_state_dict(state)
                model.save_pretrained(new / name)
                self.plan.save(new / name)

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with: all that changes what is learned."""
        how = {f"recipe.{k}": plain(v) for k, v in dataclasses.asdict(self.recipe).items()}
        how.pop("recipe.at_once")  # the same gradient
        network = {f"network.{k}": v for k, v in dataclasses.asdict(self.network).items()}
        return {
            **how,
            **network,
            "data": self.latents.digest,
            "held_out": self.options.held_out,
        }

    def _record(
        self, status: str, seconds: float | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        network, recipe = dataclasses.asdict(self.network), dataclasses.asdict(self.recipe)
        return {
            "status": status,
            "reason": reason,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "steps": self.recipe.steps,
            "done": self.trainer.done,
            "seconds": seconds,
            "width": self.network.width,
            "held_out": {name: each._asdict() for name, each in self.held_out.items()},
            "parameters": sum(p.numel() for p in self.trainer.model.parameters()),
            "images": len(self.trainer.batches.rows),
            "processes": self.world.size,
            "network": network,
            "recipe": recipe,
            "options": {k: plain(v) for k, v in dataclasses.asdict(self.options).items()},
            "identity": self.identity,
            "provenance": provenance(Path(__file__).parent),
        }
