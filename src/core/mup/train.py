"""`python -m core.mup.train`: DiT under muP on latents of images.

    python -m core.mup.encode --images ILSVRC/train --out latents --vae stabilityai/sd-vae-ft-ema
    torchrun --nproc-per-node 8 -m core.mup.train --data latents --out run --heads 16 \\
        --steps 2400000 --bfloat16

The result is a checkpoint of diffusers, to sample from with its own pipeline:

    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    pipe = DiTPipeline(
        DiTTransformer2DModel.from_pretrained("run/model/ema"),
        AutoencoderKL.from_pretrained("stabilityai/sd-vae-ft-ema"),
        DDIMScheduler(clip_sample=False),
    )
    pipe(class_labels=[207, 360])  # guidance_scale=1 unless there are 1000 classes

It takes 1000 for the label of no class, whatever the model has.

Exit codes: 0 done; 1 began and failed, or diverged; 2 refused, and nothing was written; 130
interrupted, by Ctrl-C or by SIGTERM: go on with --resume.
"""

import math
import os
import sys
from contextlib import ExitStack
from dataclasses import fields
from typing import Any

import click

from core.command import PATH, end_of, option, refusing, take_sigterm
from core.mup._training import RESULT, Network, Options, Run
from core.mup.latents import Latents
from core.mup.trainer import Recipe
from core.train.command import RESUME, deterministic, training
from core.train.distributed import Kind, start
from core.train.folder import check_out
from core.train.order import batches

BEST = -10.0
"""Base-2 logarithm of the learning rate that was best on the authors' proxies of DiT."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@option("--data", type=PATH, required=True, help="Latents, by python -m core.mup.encode.")
@option(
    "--out", type=PATH, required=True, help="Folder for the result; may exist, hold no other run."
)
@option(
    "--resume",
    is_flag=True,
    help="Go on with the run in --out, or begin it: repeat its other options.",
)
@option("--heads", type=int, default=4, help="Of the network: its width is heads times head-dim.")
@option("--base-heads", type=int, default=4, help="Of the width at which --lr was tuned.")
@option("--head-dim", type=int, default=72, help="The same at all widths.")
@option("--layers", type=int, default=28, help="Blocks.")
@option("--patch", type=int, default=2, help="Latent pixels a side of a patch.")
@option(
    "--parametrization",
    type=click.Choice(["mup", "standard"]),
    default="mup",
    help="standard: --lr as it is, for every parameter and at every width.",
)
@option(
    "--recipe",
    type=click.Choice(["dit-mup", "dit", "torch"]),
    default="dit-mup",
    help="How weights are drawn: the authors', DiT's own (adaLN-zero), or torch's.",
)
@option(
    "--fixed-variance",
    is_flag=True,
    help="Predict the noise alone; else the variance too, which adds its bound to the loss.",
)
@option("--lr", type=float, help="Learning rate at the base.")
@option("--log2-lr", type=float, help=f"Its base-2 logarithm; {BEST:g} if neither is given.")
@option("--warmup", type=int, default=0, help="Steps in which it rises; it is constant then.")
@option("--steps", type=int, help="Updates in all; 200,000 if --epochs is not given.")
@option("--epochs", type=int, help="Passes over the images.")
@option("--batch", type=int, default=256, help="Images in an update, over all processes.")
@option("--weight-decay", type=float, default=0.0, help="Of AdamW, at the base.")
@option("--clip", type=float, help="Norm to scale the gradient down to, as at the base.")
@option("--label-dropout", type=float, default=0.1, help="Share of labels dropped, for guidance.")
@option("--ema", type=float, default=0.9999, help="What stays of the moving average at each step.")
@option("--seed", type=int, default=0, help="Of weights, order, times and noise.")
@option("--held-out", type=int, default=512, help="Images that are never trained on.")
@option("--evaluate-every", type=int, default=5000, help="Steps between two held-out losses.")
@option("--at-once", type=int, help="Images that a process runs at once; else all of its part.")
@option("--bfloat16", is_flag=True, help="Compute in bfloat16 by autocast; weights stay float32.")
@option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="Where to compute; auto: on a GPU if there is one, one for each process.",
)
@option(
    "--shard",
    type=click.Choice(["auto", "none", "ddp", "fsdp2"]),
    default="auto",
    help="How processes share the model: a copy each, or a part each.",
)
@option("--deterministic", is_flag=True, help="On a GPU: the same bits in every run; slower.")
@option("--log-every", type=int, default=100, help="Steps that a line of the log is the mean of.")
@option("--save-every", type=int, default=5000, help="Steps between two checkpoints.")
@option("--keep", type=int, default=2, help="Checkpoints that stay.")
@training(memory="run fewer images --at-once, or take --bfloat16 or --shard fsdp2")
def cli(**asked: Any) -> int:
    """Train DiT under muP on latents of images (arXiv:2505.15270).

    The defaults are the authors' proxy: width 288, batch 256, 200,000 steps. OUT/model/ema and
    OUT/model/last are checkpoints of diffusers with the plan beside them, OUT/log.jsonl has losses,
    and OUT/run.json what the run was and its held-out loss: a folder of such folders is a sweep,
    which core.mup.runs reads.
    """
    if asked["deterministic"]:
        deterministic()
    with refusing(ValueError):
        network, options = network_of(asked), options_of(asked)
        check_out(options.out, resume=options.resume, results=[RESULT])
    with ExitStack() as stack:
        with refusing(ValueError, OSError, ImportError):
            world = stack.enter_context(start(asked["device"], group=options.shard == "fsdp2"))
            recipe = recipe_of(asked)
            run = Run(network, recipe, options, world)
        if world.first and not run.finished:
            _warn(recipe)
        run.train()
        if world.first:
            click.echo(f"done: {run.folder.result}")
    return 0


def network_of(asked: dict[str, Any]) -> Network:
    """Return which network is asked for.

    Raises:
        ValueError: see `Network`.
    """
    names = {field.name for field in fields(Network)} & asked.keys()
    return Network(**{k: asked[k] for k in names}, learned_variance=not asked["fixed_variance"])


def options_of(asked: dict[str, Any]) -> Options:
    """Return what is asked beside network and recipe.

    Raises:
        ValueError: see `Options`.
    """
    shard: Kind = asked["shard"]
    if asked["shard"] == "auto":
        shard = "ddp" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "none"
    names = {field.name for field in fields(Options)} - {"shard"}
    return Options(**{name: asked[name] for name in names}, shard=shard)


def recipe_of(asked: dict[str, Any]) -> Recipe:
    """Return how to train.

    Raises:
        ValueError: see `Recipe`; or two options say the same.
    """
    return Recipe(
        steps=_steps(asked),
        learning_rate=_rate(asked["lr"], asked["log2_lr"]),
        mean_decay=asked["ema"],
        **{name: asked[name] for name in ("batch", "warmup", "weight_decay", "clip", "seed")},
        **{name: asked[name] for name in ("label_dropout", "at_once", "bfloat16")},
    )


def _rate(rate: float | None, log2: float | None) -> float:
    if rate is not None and log2 is not None:
        raise ValueError(f"want --lr or --log2-lr, got both: {rate} and {log2}")
    if rate is not None:
        return rate
    log2 = BEST if log2 is None else log2
    if not -100 <= log2 <= 100:
        raise ValueError(f"want --log2-lr from -100 to 100, such as -10, got {log2}")
    return 2.0**log2


def _steps(asked: dict[str, Any]) -> int:
    steps, epochs = asked["steps"], asked["epochs"]
    if steps is not None and epochs is not None:
        raise ValueError(f"want --steps or --epochs, got both: {steps} and {epochs}")
    if epochs is None:
        return Recipe.steps if steps is None else steps
    for name in ("epochs", "batch"):
        if asked[name] < 1:
            raise ValueError(f"want --{name} >= 1, got {asked[name]}")
    images = len(Latents(asked["data"])) - asked["held_out"]
    return epochs * batches(max(images, 0), asked["batch"])


def _warn(recipe: Recipe) -> None:
    remembered = math.inf if recipe.mean_decay == 1 else 1 / (1 - recipe.mean_decay)
    if recipe.steps < 3 * remembered:
        share = recipe.mean_decay**recipe.steps
        click.echo(
            f"note: {share:.0%} of the moving average will be the weights before the first step: "
            f"take a smaller --ema than {recipe.mean_decay:g}, or OUT/model/last",
            err=True,
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, that of this process if none is given; return the exit code."""
    return end_of(cli, arguments, "python -m core.mup.train", resume=RESUME)


if __name__ == "__main__":
    take_sigterm()
    sys.exit(main())
