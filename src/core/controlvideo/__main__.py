"""`python -m core.controlvideo`: tune on one video, and edit it by a text.

    python -m core.controlvideo edit car.mp4 --prompt "a car" --edit "a red car" --out red.mp4 \\
        --base stable-diffusion-v1-5 --controlnet control_v11p_sd15_canny --control canny
    python -m core.controlvideo render car.mp4 --adapter red.tuned --edit "a bus" --out bus.mp4

Exit codes: 0 done; 1 began and failed; 2 refused, and nothing was written; 130 interrupted, by
Ctrl-C or by SIGTERM: go on with --resume.
"""

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from core.command import PATH, end_of, option, refusing, take_sigterm
from core.controlvideo._asked import (
    DTYPES,
    MACHINE,
    MADE,
    SAMPLING,
    TUNING,
    device_of,
    given_of,
    made_of,
    recipe_of,
)
from core.controlvideo._made import FILE, Made, Scene, scene
from core.controlvideo._notes import notes
from core.controlvideo._places import check_apart
from core.controlvideo._tuned import RESULT, Tuning
from core.controlvideo.pipeline import ControlVideoPipeline
from core.controlvideo.predictor import check_long
from core.controlvideo.video import Video, check_target, write
from core.train.command import RESUME, training
from core.train.folder import check_out

WRONG = (ValueError, OSError, ImportError)
SMALLER = "take fewer --frames, a smaller --height and --width,"
"""What to do where memory is short; tuning is in float32."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Text-driven editing of one video (ControlVideo, arXiv:2305.17098)."""


@cli.command(short_help="Tune on a video, and edit it.")
@click.argument("source", metavar="INPUT", type=PATH)
@option("--out", type=PATH, required=True, help="The edit: .mp4, .gif, or a folder of frames.")
@MADE
@SAMPLING
@TUNING
@MACHINE
@training(memory=f"{SMALLER} or --checkpointing; once it is tuned, --resume with --dtype bfloat16")
def edit(source: Path, out: Path, **asked: Any) -> None:
    """Tune an adapter on the video INPUT (a film, or a folder of images), and edit the video.

    The adapter is left beside OUT, in a folder OUT.tuned: `render` takes it for other edits. Look
    at the key frame first, in a fraction of the time: --preview.
    """
    with refusing(*WRONG):
        _check_sampling(asked, out)
        made, device = made_of(source, asked), device_of(asked)
        tuned, tuning = out.with_name(f"{out.stem}.tuned"), None
        if not asked["preview"]:
            check_apart(tuned, *made.videos)
            check_out(tuned, resume=asked["resume"], results=(RESULT,))
        on = _scene(made, asked, out, device)
        if not asked["preview"]:
            tuning = Tuning(made, on, recipe_of(asked, made), tuned, device=device)
        pipe = tuning.pipe if tuning else on.checkpoint.load(device=device)
    _note(pipe, made.prompt, asked["edit"], asked["negative"])
    if not tuning:
        _rendered(pipe, on, made, asked, out)
        return
    tuning.tune(save_every=asked["save_every"])
    try:
        _render(pipe, on, made, asked, out)
    except OSError as error:
        raise OSError(f"{error}; it is tuned: --resume edits, and does not tune again") from error


@cli.command(short_help="Tune an adapter on a video.")
@click.argument("source", metavar="INPUT", type=PATH)
@option("--out", type=PATH, required=True, help="Folder for the run; may exist, hold no other.")
@MADE
@TUNING
@MACHINE
@training(memory=f"{SMALLER} or --checkpointing")
def tune(source: Path, out: Path, **asked: Any) -> None:
    """Tune an adapter on the video INPUT (a film, or a folder of images).

    The result is in OUT/adapter, with all that it was made with; a line for each step in
    OUT/log.jsonl. Of a long video some frames will do: `render` may take more.
    """
    with refusing(*WRONG):
        check_out(out, resume=asked["resume"], results=(RESULT,))
        made, device = made_of(source, asked), device_of(asked)
        check_apart(out, *made.videos)
        recipe = recipe_of(asked, made)
        tuning = Tuning(made, scene(made, device), recipe, out, device=device)
    _note(tuning.pipe, made.prompt)
    tuning.tune(save_every=asked["save_every"])
    click.echo(f"done: {out / RESULT}")


@cli.command(short_help="Edit a video with an adapter that was tuned before.")
@click.argument("source", metavar="INPUT", type=PATH)
@option("--adapter", type=PATH, required=True, help="What tune or edit left: OUT.tuned.")
@option("--out", type=PATH, required=True, help="The edit: .mp4, .gif, or a folder of frames.")
@MADE
@SAMPLING
@MACHINE
@training(memory=f"{SMALLER} --windows, or --dtype bfloat16")
def render(source: Path, adapter: Path, out: Path, **asked: Any) -> None:
    """Edit the video INPUT with an adapter that was tuned on it.

    What is not given is as it was for tuning: prompt, models, controls, frames and sizes.
    """
    with refusing(*WRONG):
        _check_sampling(asked, out)
        folder = adapter if (adapter / FILE).exists() else adapter / RESULT
        given: dict[str, Any] = given_of(asked) | {"source": str(source)}
        made, device = Made.of(folder, **given), device_of(asked)
        on = _scene(made, asked, out, device)
        pipe = on.checkpoint.load(folder, device=device)
    _note(pipe, made.prompt, asked["edit"], asked["negative"])
    _rendered(pipe, on, made, asked, out)


def _check_sampling(asked: dict[str, Any], out: Path) -> None:
    check_target(out)
    if not asked["edit"].strip():
        raise ValueError("want --edit, what the video is to show, got nothing")
    if asked["windows"] and asked["stream"]:
        raise ValueError("want --windows or --stream, got both")
    if asked["preview"] != (out.suffix.lower() == ".png"):
        raise ValueError(
            f"want a name ending in .png for a --preview, and another for a video, got {out}"
        )


def _scene(made: Made, asked: dict[str, Any], out: Path, device: torch.device) -> Scene:
    check_apart(out, *made.videos)
    _check_long(made, asked)
    on = scene(made, device)
    H, W = on.source.frames.shape[2:]
    check_target(out, size=(H, W), rate=_rate(on, asked))
    if asked["sample_steps"] > on.checkpoint.steps:
        raise ValueError(
            f"want at most {on.checkpoint.steps} --sample-steps, by the scheduler of {made.base}, "
            f"got {asked['sample_steps']}"
        )
    return on


def _check_long(made: Made, asked: dict[str, Any]) -> None:
    long = asked["stream"] or asked["windows"]
    check_long(long, made.norm, "key", asked["stream"] is None)
    if asked["windows"] and made.keys != (0,):
        raise ValueError(
            "want --key 0 with --windows, whose own first frames are their keys, got "
            + ", ".join(map(str, made.keys))
        )
    if asked["stream"] and made.trained != "projections":
        raise ValueError(
            "want an adapter that was tuned with --trained projections for a --stream, which "
            f"leaves temporal branches out, got one with {made.trained}: tune another, or take "
            "--windows"
        )


def _rate(on: Scene, asked: dict[str, Any]) -> Fraction:
    rate = on.source.rate if asked["rate"] is None else Fraction(asked["rate"])
    return rate.limit_denominator(10**6)


def _note(pipe: ControlVideoPipeline, *prompts: str) -> None:
    """Have the pipeline warn of prompts before the work, and not in the midst of it."""
    for prompt in prompts:
        pipe.encode_prompt(prompt)


def _rendered(
    pipe: ControlVideoPipeline, on: Scene, made: Made, asked: dict[str, Any], out: Path
) -> None:
    """Sample and write where nothing was tuned, so that there is nothing to resume."""
    try:
        _render(pipe, on, made, asked, out)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"{out} is as it was") from stop


def _render(
    pipe: ControlVideoPipeline, on: Scene, made: Made, asked: dict[str, Any], out: Path
) -> None:
    """Sample, and write what came out."""
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            nn.Module.to(part, DTYPES[asked["dtype"]])
    options: dict[str, Any] = {
        "source": on.source.frames if asked["start"] == "inverted" else None,
        "source_prompt": made.prompt,
        "start": asked["start"],
        "negative_prompt": asked["negative"],
        "num_inference_steps": asked["sample_steps"],
        "guidance_scale": asked["guidance"],
        "control_scale": on.scales if len(on.scales) > 1 else on.scales[0],
        "norm": made.norm,
        "branches": asked["stream"] is None,
        "generator": torch.Generator().manual_seed(asked["seed"]),
        "output_type": "pt",
    }
    if asked["preview"]:
        options |= {"key": made.keys[0], "keys": made.keys}
        frames = pipe.preview(asked["edit"], on.control, **options).frames
    else:
        long = asked["stream"] or asked["windows"]
        frames = pipe(asked["edit"], on.control, keys=made.keys, long=long, **options).frames
    write(out, Video(frames, _rate(on, asked)))
    click.echo(f"done: {out}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, that of this process if none is given; return the exit code."""
    with notes():
        return end_of(cli, arguments, "python -m core.controlvideo", resume=RESUME)


if __name__ == "__main__":
    take_sigterm()
    sys.exit(main())
