"""What the command line of `core.controlvideo` is asked."""

import math
import re
from pathlib import Path
from typing import Any

import click
import torch

from core.command import option, options
from core.controlvideo._made import ALL_FRAMES, Made, is_kind
from core.controlvideo.annotators import KINDS
from core.controlvideo.predictor import Stream
from core.controlvideo.tuning import Recipe
from core.controlvideo.windows import Windows

STEPS = {"canny": 80, "depth": 500, "pose": 1500}
"""Of tuning, as the authors have them; the less a control says of the source, the more."""
OTHER = 300
"""Of any other control, as theirs for soft edges."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
COUNT = click.IntRange(1)


class Finite(click.FloatRange):
    """A number, neither infinity nor none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return it."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"want a finite number, got {value}", param, ctx)
        return found


ABOVE_ZERO = Finite(0, min_open=True)


def frames(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """Return how many frames, or that it is all of them."""
    if value is None or value == "all":
        return None if value is None else ALL_FRAMES
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"want a number from 1, or all, got {value!r}")
    return int(value)


def windows(_: click.Context, __: click.Parameter, value: str | None) -> Windows | None:
    """Return windows of a size and an overlap."""
    if value is None:
        return None
    if not re.fullmatch(r"\d+,\d+", value):
        raise click.BadParameter(f"want SIZE,OVERLAP, such as 24,8, got {value!r}")
    try:
        size, overlap = map(int, value.split(","))
        return Windows(size, overlap)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def stream(_: click.Context, __: click.Parameter, value: int | None) -> Stream | None:
    """Return a stream of chunks."""
    return None if value is None else Stream(value)


MADE = options(
    option("--prompt", help="What the video shows."),
    option("--base", help="Stable Diffusion 1.5, or one like it: folder in diffusers' layout."),
    option(
        "--controlnet",
        "controlnets",
        multiple=True,
        help="Its ControlNet: folder; several times for several. Names on the Hub do as well.",
    ),
    option(
        "--control",
        "controls",
        multiple=True,
        help=f"What each ControlNet sees: {', '.join(KINDS)}, or a video of it. canny=LOW,HIGH "
        "sets thresholds, depth=FOLDER says where weights are.  [default: canny]",
    ),
    option(
        "--scale", "scales", type=Finite(), multiple=True, help="Of each control.  [default: 1]"
    ),
    option("--frames", callback=frames, help="To take from the video, or all.  [default: 8]"),
    option("--first", type=click.IntRange(0), help="Number of the first.  [default: 0]"),
    option("--stride", type=COUNT, help="From one to the next; else as even as can be."),
    option("--height", type=COUNT, help="To scale to, in pixels; else the base's own."),
    option("--width", type=COUNT, help="Likewise."),
    option(
        "--fit",
        type=click.Choice(["crop", "pad"]),
        help="What is done about another aspect: cut, or black bars.  [default: crop]",
    ),
    option(
        "--norm",
        type=click.Choice(["frame", "video"]),
        help="Over what group norms are taken; the authors' code has video.  [default: frame]",
    ),
    option(
        "--key",
        "keys",
        type=click.IntRange(0),
        multiple=True,
        help="Of the frames that are taken, one that the others look at.  [default: 0]",
    ),
)
TUNING = options(
    option(
        "--steps",
        type=COUNT,
        help="Of tuning; else the authors' for the first control: "
        + ", ".join(f"{kind} {steps}" for kind, steps in STEPS.items())
        + f", others {OTHER}.",
    ),
    option("--lr", type=ABOVE_ZERO, default=3e-5, help="Learning rate."),
    option(
        "--trained",
        type=click.Choice(["projections", "temporal", "both"]),
        help="Output projections of self-attention, temporal branches, or both.  "
        "[default: both; for a --stream projections]",
    ),
    option("--checkpointing", is_flag=True, help="Less memory, more time."),
    option("--save-every", type=COUNT, default=50, help="Steps between two checkpoints."),
    option("--resume", is_flag=True, help="Go on with a run, or begin it: repeat its options."),
)
SAMPLING = options(
    option("--edit", "edit", required=True, help="What the video is to show."),
    option("--negative", default="", help="What it is not to show."),
    option(
        "--start",
        type=click.Choice(["inverted", "shared", "independent"]),
        default="inverted",
        help="From the source's inversion, one noise for all frames, or one for each.",
    ),
    option("--sample-steps", type=COUNT, default=50, help="Of the sampler, and of inversion."),
    option("--guidance", type=Finite(), default=12.0, help="1 or below is none."),
    option("--windows", callback=windows, metavar="SIZE,OVERLAP", help="For a long video."),
    option(
        "--stream",
        type=COUNT,
        callback=stream,
        help="For a very long video: frames at once; without temporal branches, which need all: "
        "tune with --trained projections.",
    ),
    option(
        "--preview",
        is_flag=True,
        help="Only the key frame, as an image (OUT.png); edit then does not tune.",
    ),
    option("--rate", type=ABOVE_ZERO, help="Frames a second; else as fast as the source."),
    option(
        "--dtype",
        type=click.Choice(list(DTYPES)),
        default="float32",
        help="To sample in; tuning is in float32.",
    ),
)
MACHINE = options(
    option("--seed", type=click.IntRange(0), default=0, help="Of tuning, and of noise."),
    option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        help="auto: a GPU if there is one.",
    ),
)


def made_of(source: Path, asked: dict[str, Any]) -> Made:
    """Return what an edit is made with.

    Raises:
        ValueError: no prompt, or no base.
    """
    given = given_of(asked)
    for name in ("prompt", "base"):
        if name not in given:
            raise ValueError(f"want --{name}, got none")
    trained = asked["trained"] or ("projections" if asked.get("stream") else "both")
    return Made(**given | {"source": _absolute(str(source)), "trained": trained})


def given_of(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `Made` that were given, with paths that hold from everywhere."""
    fields = [name for name in Made.__dataclass_fields__ if name in asked]
    given = {name: asked[name] for name in fields if asked[name] not in (None, ())}
    for name, absolute in (("controlnets", _absolute), ("controls", _control)):
        if name in given:
            given[name] = tuple(map(absolute, given[name]))
    if "base" in given:
        given["base"] = _absolute(given["base"])
    return given


def recipe_of(asked: dict[str, Any], made: Made) -> Recipe:
    """Return how to tune."""
    kinds = [control.partition("=")[0] for control in made.controls or ("canny",)]
    return Recipe(
        steps=asked["steps"] or STEPS.get(kinds[0], OTHER),
        learning_rate=asked["lr"],
        trained=made.trained,
        norm=made.norm,
        keys=made.keys,
        seed=asked["seed"],
        checkpointing=asked["checkpointing"],
    )


def device_of(asked: dict[str, Any]) -> torch.device:
    """Return where to compute.

    Raises:
        ValueError: there is no GPU.
    """
    there = torch.cuda.is_available()
    if asked["device"] == "cuda" and not there:
        raise ValueError("want a GPU for --device cuda, there is none that torch can use")
    return torch.device("cuda" if there and asked["device"] != "cpu" else "cpu")


def _control(given: str) -> str:
    """Return a control with a path that holds from everywhere: a video's, or after a kind's `=`."""
    if not is_kind(given):
        return _absolute(given)
    kind, _, how = given.partition("=")
    return f"{kind}={_absolute(how)}" if how and kind != "canny" else given


def _absolute(given: str) -> str:
    path = Path(given).expanduser()
    return str(path.resolve()) if path.exists() else given
