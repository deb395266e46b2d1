r"""Tuning on the one video: the adapter learns to denoise it under its own prompt and controls.

    minimise  E |target - model(x_t, t, source prompt, control)|^2

One time for all frames of a step, noise of each frame its own, and only the adapter's parameters:
they alone are in the optimizer, they alone have gradients, and they alone are clipped. (In the
authors' code nothing is frozen and the gradients of all weights are clipped together, under fp16
before those of the untrained ones are unscaled; their learning rate is a label of another kind.)

What is random has names, (seed, step): a run that was killed goes on to the bit.

Source: thu-ml/controlvideo at 23b6b0b, `train.py` and its configurations: AdamW, 3e-5, decay 0.01,
clip 1, no text dropout; 80 steps for edges, 300 for HED, 500 for depth, 1500 for pose.
"""

import hashlib
import json
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.controlvideo._given import check_latents
from core.controlvideo.attention import Sees
from core.controlvideo.norms import Norm
from core.controlvideo.pipeline import ControlVideoPipeline
from core.train.checkpoint import checkpoints, load, plain, save
from core.train.distributed import SINGLE
from core.train.folder import Diverged
from core.train.progress import Show
from core.train.seeds import generator

Trained = Literal["projections", "temporal", "both"]
"""The adapter's projections of self-attention, its temporal branches, or the paper's choice."""


@dataclass(frozen=True)
class Recipe:
    """How to tune; the defaults are the authors' for edges."""

    steps: int = 80
    learning_rate: float = 3e-5
    weight_decay: float = 1e-2
    clip: float = 1.0
    """Norm that the gradient of what is trained is scaled down to."""
    trained: Trained = "both"
    norm: Norm = "frame"
    sees: Sees = "key"
    keys: tuple[int, ...] = (0,)
    branches: bool = True
    """False leaves the temporal branches out."""
    seed: int = 0
    checkpointing: bool = False
    """Compute activations again in the backward pass, for less memory."""

    def __post_init__(self) -> None:
        """Refuse what cannot be tuned."""
        if self.steps < 1:
            raise ValueError(f"want steps >= 1, got {self.steps}")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"want {name} > 0, got {getattr(self, name)}")
        if self.weight_decay < 0 or self.seed < 0:
            raise ValueError(
                f"want weight_decay and seed >= 0, got {self.weight_decay} and {self.seed}"
            )
        if self.trained not in ("projections", "temporal", "both"):
            raise ValueError(f"want trained projections, temporal or both, got {self.trained!r}")
        if not self.branches and self.trained != "projections":
            raise ValueError(
                f"want trained='projections' without branches, got {self.trained!r}: what is left "
                "out cannot be tuned"
            )


def tune(
    pipe: ControlVideoPipeline,
    source: Any,
    prompt: str,
    control: Any,
    recipe: Recipe | None = None,
    *,
    control_scale: float | Sequence[float] = 1.0,
    out: str | Path | None = None,
    save_every: int = 50,
    resume: bool = False,
    show: bool = False,
) -> list[float]:
    """Tune the pipeline's adapter on a video, in place; return the loss before each step.

    Args:
        pipe: its models are frozen for the time, and evaluated as they are.
        source: the video, as for a call of the pipeline.
        prompt: what it shows.
        control: its controls.
        recipe: how; None: `Recipe()`.
        control_scale: of each ControlNet.
        out: folder for checkpoints, of this run alone; None: none.
        save_every: steps between them.
        resume: go on from the newest checkpoint in `out`, if there is one.
        show: progress, with loss and time left, on standard error.

    Raises:
        ValueError: a video or control that does not fit, a checkpoint of another run, or one that
            is not to be resumed.
        Diverged: the loss is no number; the adapter is as after the step before.
    """
    recipe = Recipe() if recipe is None else recipe
    folder = None if out is None else Path(out)
    found = checkpoints(folder) if folder is not None else []
    if found and not resume:
        raise ValueError(
            f"{out} holds checkpoints of a run already, such as {found[-1].name}: go on with it "
            "(resume=True), or name another folder"
        )
    tuner = Tuner(pipe, source, prompt, control, recipe, control_scale=control_scale)
    if found:
        tuner.resume(found[-1])
    return list(tuner.run(folder, save_every=save_every, show=show))


class Tuner:
    """A video and the optimizer of an adapter; entered, `step` after `step`."""

    def __init__(
        self,
        pipe: ControlVideoPipeline,
        source: Any,
        prompt: str,
        control: Any,
        recipe: Recipe,
        *,
        control_scale: float | Sequence[float] = 1.0,
    ) -> None:
        """Encode the video and its prompt; arguments as of `tune`."""
        self.pipe, self.recipe, self.done = pipe, recipe, 0
        _check_tunable(pipe)
        self.controls, self.scales = pipe.controls(control, control_scale)
        self.x = pipe.encode(source)
        channels = pipe.unet.config["in_channels"]
        check_latents(self.x, self.controls, channels, pipe.factor_of_vae)
        with torch.no_grad():
            self.text = pipe.encode_prompt(prompt)
        self.trained = _parameters(pipe.adapter, recipe.trained)
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.identity = {name: plain(value) for name, value in asdict(recipe).items()}
        self.identity.pop("checkpointing")  # a run may go on with less memory
        self.identity |= {"prompt": prompt, "scales": plain(self.scales)}
        self.identity |= {"data": _digest([self.x, *self.controls])}
        self.identity |= {"base": _digest(_some_weights(pipe))} | _shape(pipe.adapter)

    def __enter__(self) -> "Tuner":
        """Install the adapter, and freeze the base."""
        recipe = self.recipe
        with ExitStack() as stack:
            self.edit = stack.enter_context(
                self.pipe.installed(norm=recipe.norm, sees=recipe.sees, branches=recipe.branches)
            )
            self.frozen = [self.pipe.unet, *_nets(self.pipe)]
            for model in self.frozen:
                stack.enter_context(_frozen(model, checkpointing=recipe.checkpointing))
            stack.callback(self._without_gradients)
            self.pipe.adapter.requires_grad_(False)
            for p in self.trained:
                p.requires_grad_(True)
            self.context = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        """Give the base back as it was."""
        self.context.__exit__(*error)

    def _without_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.pipe.adapter.requires_grad_(False)

    def run(
        self, folder: Path | None, *, save_every: int, show: bool = True
    ) -> Generator[float, None, None]:
        """Take the steps that are left, and yield the loss before each once it is taken.

        Args:
            folder: for checkpoints, each written after its step's loss was yielded; None: none.
            save_every: steps between them.
            show: progress, with loss and time left, on standard error.

        Raises:
            Diverged: as `step`.
        """
        steps = self.recipe.steps
        with self, Show("step", steps, done=self.done, quiet=not show) as shown:
            while self.done < steps:
                loss = self.step()
                shown(self.done, f"loss {loss:.4f}")
                yield loss
                if folder is not None and (self.done == steps or self.done % save_every == 0):
                    self.save(folder)

    def step(self) -> float:
        """Take one step; return the loss before it.

        Raises:
            Diverged: it is no number; nothing was changed.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained, self.recipe.clip)
        value = loss.item()
        if not (math.isfinite(value) and torch.isfinite(norm)):
            raise Diverged(
                f"the loss of step {self.done + 1} is {value}, its gradient's norm {norm.item()}, "
                f"at a learning rate of {self.recipe.learning_rate:.3g}: lower it"
            )
        self.optimizer.step()
        self.pipe.adapter.register_to_config(norm=self.recipe.norm)
        self.done += 1
        return value

    def loss(self) -> Tensor:
        """Return the loss of the next step."""
        scheduler, x = self.pipe.scheduler, self.x
        rng = generator(self.recipe.seed, self.done)
        steps = scheduler.config["num_train_timesteps"]
        t = torch.tensor([int(rng.integers(steps))], device=x.device)
        noise = torch.from_numpy(rng.standard_normal(x.shape)).to(x)
        noised = scheduler.add_noise(x, noise, t)
        predict = self.pipe.predictor(self.edit, self.controls, self.scales, self.recipe.keys)
        found = predict(noised, t[0], self.text)
        wanted = to_predict(scheduler, x, noise, t.expand(len(x)))
        return (found.float() - wanted.float()).square().mean()

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        save(
            folder,
            self.done,
            self.pipe.adapter,
            self.optimizer,
            run=self.identity,
            world=SINGLE,
        )

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint."""
        self.pipe.adapter.requires_grad_(False)
        for p in self.trained:
            p.requires_grad_(True)
        self.done = load(path, self.pipe.adapter, self.optimizer, run=self.identity)
        self.pipe.adapter.register_to_config(norm=self.recipe.norm)


def to_predict(scheduler: Any, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return what a model of this scheduler has to predict, the noise or v, like `x`."""
    if scheduler.config["prediction_type"] == "v_prediction":
        return scheduler.get_velocity(x, noise, t)
    return noise


@contextmanager
def _frozen(model: Any, *, checkpointing: bool) -> Iterator[None]:
    """Have a model without gradients of its own for a while."""
    required, training = [p.requires_grad for p in model.parameters()], model.training
    model.requires_grad_(False)
    before = model.is_gradient_checkpointing
    if checkpointing:
        model.enable_gradient_checkpointing()
        model.train()  # where diffusers checkpoints; dropout is zero
    try:
        yield
    finally:
        if checkpointing:
            model.train(training)
            if not before:
                model.disable_gradient_checkpointing()
        for p, wanted in zip(model.parameters(), required, strict=True):
            p.requires_grad_(wanted)


def _check_tunable(pipe: ControlVideoPipeline) -> None:
    for name, model in (("unet", pipe.unet), ("adapter", pipe.adapter)):
        if model.dtype != torch.float32:
            raise ValueError(
                f"want the {name} in float32 to tune, got {model.dtype}, in which steps this small "
                "are lost: tune in float32, and sample in half precision"
            )
    kind = pipe.scheduler.config["prediction_type"]
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"want a model that predicts epsilon or v_prediction, got {kind!r}")


def _parameters(adapter: nn.Module, trained: Trained) -> list[nn.Parameter]:
    wanted = {
        "projections": ("deltas",),
        "temporal": ("branches",),
        "both": ("deltas", "branches"),
    }[trained]
    return [p for name, p in adapter.named_parameters() if name.split(".")[0] in wanted]


def _nets(pipe: ControlVideoPipeline) -> list[Any]:
    return list(getattr(pipe.controlnet, "nets", [pipe.controlnet]))


def _shape(adapter: Any) -> dict[str, Any]:
    """Return what an adapter is, whatever its weights are; sites, which are many, by a name."""
    sites = json.dumps(adapter.config["sites"], sort_keys=True)
    shape = {name: plain(adapter.config[name]) for name in ("place", "positions", "projections")}
    return shape | {"sites": hashlib.sha256(sites.encode()).hexdigest()[:16]}


def _some_weights(pipe: ControlVideoPipeline) -> list[Tensor]:
    """Return up to 64 weights of each parameter: enough to tell bases apart, and read at once."""
    models = [pipe.text_encoder, pipe.unet, *_nets(pipe)]
    weights = [p.detach().flatten() for model in models for p in model.parameters()]
    return [w[:: len(w) // 64 + 1] for w in weights]


def _digest(tensors: list[Tensor]) -> str:
    """Return a name for what tensors hold."""
    digest = hashlib.sha256()
    for x in tensors:
        digest.update(x.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
