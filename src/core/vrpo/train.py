"""`python -m core.vrpo.train`: preference optimization of a masked diffusion language model.

    python -m core.vrpo.train --model DIR --data prefs.jsonl --out DIR
    torchrun --nproc-per-node 2 -m core.vrpo.train ... --shard fsdp2

Exit codes: 0 done; 1 began and failed; 2 refused, and nothing was written; 130 interrupted, by
Ctrl-C or by SIGTERM: go on with --resume.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from core.command import PATH, end_of, option, refusing, take_sigterm
from core.train.command import RESUME, deterministic, training
from core.train.distributed import start
from core.train.folder import check_out
from core.vrpo._asked import design_of, options_of, recipe_of
from core.vrpo._options import check_scores, read_data
from core.vrpo._run import RESULTS, Run, precompute_scores
from core.vrpo.preferences import Preferences
from core.vrpo.trainer import Recipe


def at_once(_: click.Context, __: click.Parameter, value: str) -> int | None:
    """Return the number of sequences, None for all."""
    if value == "all":
        return None
    if not value.isdigit() or int(value) < 1:
        raise click.BadParameter(f"want a number from 1, or all, got {value!r}")
    return int(value)


def eos(_: click.Context, __: click.Parameter, value: str) -> int | str | None:
    """Return the token that ends a response, `tokenizer`, or None."""
    if value in ("tokenizer", "none"):
        return None if value == "none" else value
    if not value.isdigit():
        raise click.BadParameter(f"want tokenizer, none, or a token's number, got {value!r}")
    return int(value)


def proposal(_: click.Context, __: click.Parameter, value: str | None) -> Any:
    """Return the proposal, a tuple of numbers, or None."""
    try:
        return None if value is None else tuple(map(float, value.split(",")))
    except ValueError:
        raise click.BadParameter(f"want numbers and commas, such as 3,2,1, got {value!r}") from None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@option("--model", type=PATH, required=True, help="Folder of a LLaDA checkpoint: the start.")
@option("--data", type=PATH, required=True, help="Preferences: JSON Lines, Parquet, a folder.")
@option("--out", type=PATH, help="Folder for the result; may exist, but hold no other run.")
@option(
    "--resume",
    is_flag=True,
    help="Go on with the run in --out, or begin it: repeat its other options.",
)
@option("--tokenizer", type=PATH, help="Folder or tokenizer.json; else the model's.")
@option("--eos", default="tokenizer", callback=eos, help="End of a response: tokenizer, none, ID.")
@option("--max-length", type=int, help="Longest prompt and response, in tokens; else the model's.")
@option("--skip-bad", is_flag=True, help="Leave out bad lines, count and list them.")
@option("--steps", type=int, help="Updates in all; or give --epochs.")
@option("--epochs", type=int, help="Passes over the data; 1 if --steps is not given.")
@option("--batch", type=int, default=64, help="Pairs in an update, over all processes.")
@option("--lr", type=float, default=5e-7, help="Highest learning rate.")
@option(
    "--warmup",
    type=int,
    default=15,
    help="Steps in which it rises; a cosine falls to 0 at the last.",
)
@option("--weight-decay", type=float, default=0.01, help="Of AdamW, on all that is trained.")
@option("--clip", type=float, help="Norm to scale the gradient down to.")
@option("--beta", type=float, default=0.2, help="Strength of the reference.")
@option("--supervised", type=float, default=0.05, help="Weight of the supervised term.")
@option(
    "--n-t",
    type=int,
    default=8,
    help="How many mask counts to draw for a response: numbers of tokens that are masked at once "
    "(the paper's timesteps).",
)
@option(
    "--n-y",
    type=int,
    default=1,
    help="Masks of each count. A response is run n-t times n-y times; 1 is never worse.",
)
@option(
    "--counts",
    type=click.Choice(["iid", "systematic"]),
    default="iid",
    help="How to draw the counts: one by one, or in equal steps from one random number.",
)
@option(
    "--sets",
    type=int,
    help="Independent sets of systematic counts. With an even n-t, 2 keep its halves independent: "
    "jackknife and score variance are then logged. 1, or 2 with --cross-fitted.",
)
@option(
    "--proposal",
    callback=proposal,
    help="Draw counts by importance: positive numbers and commas, a histogram over the share of "
    "masked tokens from 0 to 1; else all counts alike. The estimate stays unbiased.",
)
@option("--not-shared", is_flag=True, help="Other masks for the reference than for the policy.")
@option("--across-pair", is_flag=True, help="The same random numbers for chosen and rejected.")
@option("--cross-fitted", is_flag=True, help="Weigh each half's gradient by the other half.")
@option("--seed", type=int, default=0, help="Of order, masks and adapters.")
@option("--reference", type=PATH, help="Folder of the reference; else the start.")
@option("--reference-scores", type=PATH, help="Its scores, precomputed: no second model.")
@option("--precompute-reference", type=PATH, help="Only write such scores to this file.")
@option(
    "--lora",
    type=int,
    help="Train adapters of this rank; the reference is without them. "
    "The model stays frozen in --dtype; of a bfloat16 one the adapters are float32.",
)
@option("--lora-alpha", type=float, help="Their scale is alpha / rank; else twice the rank.")
@option(
    "--at-once",
    default="1",
    callback=at_once,
    help="Sequences run at once: memory for speed; or all.",
)
@option("--checkpointing", is_flag=True, help="Keep one block's activations at a time.")
@option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float64"]),
    default="float32",
    help="To compute in. With bfloat16 the trained weights stay float32: all of them (which "
    "--shard fsdp2 keeps), or the adapters of --lora.",
)
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
@option("--save-every", type=int, default=50, help="Steps between two checkpoints.")
@option("--keep", type=int, default=2, help="Checkpoints that stay.")
@training(memory="run fewer sequences --at-once, or take --checkpointing, --lora or --shard fsdp2")
def cli(**asked: Any) -> int:
    """Train a masked diffusion language model on preferences (VRPO, arXiv:2505.19223).

    The defaults are the paper's. The result is in OUT/model (LLaDA's layout) or OUT/adapters, a
    line for each step in OUT/log.jsonl, and what the run was in OUT/run.json.

    DATA has lines such as {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}; each may be
    text, messages with role and content, or token ids.
    """
    if asked["deterministic"]:
        deterministic()
    with refusing(ValueError):
        options, design = options_of(asked), design_of(asked)
        scores: Path | None = asked["precompute_reference"]
        if scores is None:
            check_out(options.out, resume=options.resume, results=RESULTS)
        else:
            check_scores(scores)
    with ExitStack() as stack:
        with refusing(ValueError, OSError, ImportError):
            world = stack.enter_context(start(asked["device"], group=options.shard == "fsdp2"))
            data = read_data(options)
            recipe = recipe_of(asked, design, len(data.kept))
            run = Run(options, recipe, data, world) if scores is None else None
        if world.first:
            _list_skipped(data)
            if run is not None and not run.finished:
                _warn(recipe)
        if scores is not None:
            precompute_scores(scores, options, recipe, data, world)
        elif run is not None:
            run.train()
        if world.first:
            click.echo(f"done: {scores if run is None else run.result}")
    return 0


def _list_skipped(data: Preferences) -> None:
    if data.bad:
        click.echo(f"left out {len(data.bad)} of {len(data.bad) + len(data.kept)}:", err=True)
        for bad in data.bad:
            click.echo(f"  {bad.where}: {bad.reason}", err=True)


def _warn(recipe: Recipe) -> None:
    if recipe.steps < recipe.warmup:
        highest = recipe.learning_rate * recipe.steps / recipe.warmup
        click.echo(
            f"note: {recipe.steps} step(s) end within --warmup {recipe.warmup}: the learning rate "
            f"gets to {highest:.3g}, never to {recipe.learning_rate:.3g}",
            err=True,
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, that of this process if none is given; return the exit code."""
    return end_of(cli, arguments, "python -m core.vrpo.train", resume=RESUME)


if __name__ == "__main__":
    take_sigterm()
    sys.exit(main())
