"""`python -m core.mup`: what muP makes of a model, whether that is right, and what is not of yours.

    python -m core.mup explain diffusers:SD3Transformer2DModel --base num_attention_heads=6
    python -m core.mup check diffusers:DiTTransformer2DModel
    python -m core.mup doctor train.py:make --base num_attention_heads=4

Exit codes: 0 done, and right; 1 done, and not flat or not right, or it failed; 2 refused, or asked
wrongly; 130 interrupted.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from core.command import FILE, Failed, Refused, end_of, refusing
from core.mup import _shown, script
from core.mup._asked import (
    ABOVE_ZERO,
    JSON,
    MODEL,
    PARAMETRIZATION,
    RECIPE,
    SAVE,
    loaded,
    note_wider,
    numbers,
    plan_of,
    planned,
    to_check,
    usable,
)
from core.mup.coordinates import coord_check
from core.mup.doctor import examine
from core.mup.explain import COLUMNS, rows
from core.mup.initial import RECIPES
from core.mup.plan import Plan
from core.mup.rules import OPTIMIZERS
from core.mup.source import source_of


@contextmanager
def told() -> Iterator[None]:
    """Refuse what is wrong of a request; what somebody's class raises is a failure, with its place.

    Raises:
        Refused: a value or a file is wrong.
        Failed: anything else went wrong.
    """
    try:
        with refusing(ValueError, OSError):
            yield
    except (Refused, Failed):
        raise
    except Exception as error:  # at a width that the class does not take
        raise Failed(script.one_line(error)) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Tune a narrow model, train a wide one: muP for diffusion transformers (arXiv:2505.15270).

    A model class is named as module:Class, such as diffusers:SD3Transformer2DModel.
    """


@cli.command(short_help="What each parameter of a model takes.")
@click.argument("source", metavar="MODULE:CLASS")
@MODEL
@click.option(
    "--optimizer",
    type=click.Choice(list(OPTIMIZERS)),
    default="adamw",
    show_default=True,
    help="Whose factors are shown.",
)
@PARAMETRIZATION
@SAVE
@JSON
@told()
def explain(
    source: str, optimizer: str, parametrization: str, save: Path | None, json: bool, **asked: Any
) -> None:
    """Show what each parameter of a model takes: kind, initialisation, learning rate, decay.

    The numbers are factors on what was tuned at the base.

    \b
    python -m core.mup explain diffusers:SD3Transformer2DModel --base num_attention_heads=6
    python -m core.mup explain diffusers:PixArtTransformer2DModel \\
        --base num_attention_heads=4 --config caption_channels=4096
    """
    made = planned(source, source_of(source), **asked).under(parametrization)
    note_wider(made)
    keep(made, save)
    if json:
        found = [dict(zip(COLUMNS, row, strict=True)) for row in rows(made, optimizer)]
        _shown.as_json({"model": source, "rows": found, "warnings": made.warnings})
    else:
        _shown.table(made, optimizer)


@cli.command(short_help="Whether activations depend on the width while training.")
@click.argument("source", metavar="MODULE:CLASS")
@MODEL
@click.option(
    "--loss",
    metavar="SOURCE",
    help="path/to/file.py:function or module:function, called with a model and a seed; returns a "
    "scalar, of the same batch each time. The networks of the paper have one, on digits.",
)
@click.option("--widths", callback=numbers, metavar="N,N,..", help="Values of the base's key.")
@click.option("--lr", type=ABOVE_ZERO, default=2**-8, show_default=True, help="The base's.")
@click.option("--seeds", type=int, default=3, show_default=True, help="Draws of the weights.")
@click.option("--steps", type=int, default=3, show_default=True, help="Updates with AdamW.")
@click.option("--recipe", type=click.Choice(list(RECIPES)), default="torch", show_default=True)
@click.option("--device", default="cpu", show_default=True, callback=usable, help="Where to train.")
@PARAMETRIZATION
@JSON
@told()
def check(
    source: str,
    loss: str | None,
    widths: tuple[int, ...] | None,
    parametrization: str,
    json: bool,
    **asked: Any,
) -> int:
    """Train at several widths, and see whether activations and their moves depend on the width.

    \b
    python -m core.mup check diffusers:DiTTransformer2DModel
    python -m core.mup check diffusers:DiTTransformer2DModel --parametrization standard
    python -m core.mup check my.nets:Net --base hidden_size=64 --config layers=2 \\
        --loss train.py:loss
    """
    how = {key: asked.pop(key) for key in ("lr", "seeds", "steps", "recipe", "device")}
    made, called = to_check(source, loss, asked)
    base = made.base_config[made.given[0]]
    over = widths or tuple(base * ratio for ratio in (1, 2, 4, 8))
    click.echo(f"training at {made.given[0]} = {', '.join(map(str, over))}", err=True)
    seen = coord_check(made.under(parametrization), called, widths=over, **how)
    failures = seen.failures()
    if json:
        _shown.as_json({"flat": not failures, "failures": failures} | _shown.slopes(seen))
    else:
        _shown.verdict(seen, failures, parametrization)
    return int(bool(failures))


@cli.command(short_help="What is wrong of a training script's model and optimizer.")
@click.argument("source", metavar="SCRIPT.py:FUNCTION")
@MODEL
@click.option("--model", metavar="SOURCE", help="The model's class; else the type of what is made.")
@click.option("--plan", "saved", type=FILE, help="A saved plan, instead of --base.")
@click.option("--tuned", metavar="SOURCE", help="A function that makes the base's own, likewise.")
@click.option("--lr", type=ABOVE_ZERO, help="The base's; else read off what keeps the base's.")
@click.option("--weight-decay", type=float, help="Likewise.")
@click.option("--eps", type=float, help="Likewise.")
@RECIPE
@click.option(
    "--optimizer",
    "rule",
    type=click.Choice(list(OPTIMIZERS)),
    help="What an optimizer that is not torch's is like.",
)
@PARAMETRIZATION
@SAVE
@JSON
@told()
def doctor(
    source: str,
    model: str | None,
    saved: Path | None,
    tuned: str | None,
    parametrization: str,
    save: Path | None,
    json: bool,
    **asked: Any,
) -> int:
    """Hold a training script's model and optimizer against the plan, and name what is wrong.

    FUNCTION is called without arguments and returns (model, optimizer), or (model, [optimizers]),
    as they are before the first step. The script is imported, not run: what stands under
    `if __name__ == "__main__"` does not happen. package.module:function does as well.

    The class and its configuration are the model's own, if it is one of diffusers; else give
    --config, and --model where the class is not the model's type.

    \b
    python -m core.mup doctor train.py:make --base num_attention_heads=4
    python -m core.mup doctor train.py:make --base num_attention_heads=4 --lr 1e-3
    python -m core.mup doctor train.py:make --plan checkpoint/mup_plan.json
    """
    how = {key: asked.pop(key) for key in ("lr", "weight_decay", "eps", "recipe", "rule")}
    built, optimizers = script.model_and_optimizer(source)
    made = loaded(saved, asked) if saved else plan_of(script.bare(built), model, asked)
    note_wider(made)
    base = script.model_and_optimizer(tuned) if tuned else None
    found = examine(made.under(parametrization), built, optimizers, tuned=base, **how)
    keep(made, save)
    if json:
        _shown.as_json(found.as_dict())
    else:
        _shown.lines(found.as_text())
    return int(bool(found.findings))


def keep(made: Plan, save: Path | None) -> None:
    """Write a plan to a file, if there is to be one.

    Raises:
        Failed: it could not be written.
    """
    try:
        if save is not None:
            made.save(save)
    except OSError as error:
        raise Failed(f"{save} could not be written: {error.strerror}") from error


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, that of this process if none is given; return the exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of diffusers, about its own future
        return end_of(cli, arguments, "python -m core.mup")


if __name__ == "__main__":
    sys.exit(main())
