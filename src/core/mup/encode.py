"""`python -m core.mup.encode`: a folder of pictures becomes a folder of latents, once.

    python -m core.mup.encode --images ILSVRC/train --out latents --vae stabilityai/sd-vae-ft-ema
    python -m core.mup.encode --images digits --out latents --vae none --size 8 --grey

A shard is written whole or not at all: after a kill the same command goes on. Under torchrun the
processes share the shards. Exit codes: 0 done; 1 began and failed; 2 refused, and nothing was
written; 130 interrupted.
"""

import sys
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from core.command import PATH, end_of, option, refusing, take_sigterm
from core.mup.encoding import Asked, Encoding
from core.mup.latents import INDEX, read_index
from core.mup.pictures import find
from core.train.command import training
from core.train.distributed import start


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@option("--images", type=PATH, required=True, help="Folder with a sub-folder for each class.")
@option("--out", type=PATH, required=True, help="Folder for the latents; goes on where it is.")
@option(
    "--vae",
    required=True,
    help="AutoencoderKL of diffusers: a folder or a name on the hub; none: pixels as latents.",
)
@option("--size", type=int, default=256, help="Pixels a side; longer sides are cut at the centre.")
@option("--grey", is_flag=True, help="One channel; with --vae none.")
@option("--mean-only", is_flag=True, help="Half the disk: latents are means, not drawn.")
@option("--mirrored", is_flag=True, help="Keep mirrored pictures too, and draw one of both.")
@option(
    "--class-names",
    type=PATH,
    help="File with a sub-folder's name in each line, label 0 first; else all, sorted.",
)
@option("--skip-bad", is_flag=True, help="Leave out what cannot be read, count and list it.")
@option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    help="Of what is kept; the VAE runs in float32.",
)
@option("--shard", type=int, default=8192, help="Pictures in a file.")
@option("--batch", type=int, default=32, help="Pictures that the VAE sees at once.")
@option("--workers", type=int, default=4, help="Threads that read pictures, for each process.")
@option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="Where the VAE runs; auto: on a GPU if there is one, one for each process.",
)
@training(memory="take a smaller --batch")
def cli(**asked: Any) -> int:
    """Encode pictures once, for `python -m core.mup.train`.

    IMAGES has a sub-folder for each class, as ImageNet is kept. OUT gets an index, shards of means
    and log-variances in safetensors, and a list of what was left out.
    """
    out: Path = asked["out"]
    with ExitStack() as stack:
        with refusing(ValueError, OSError, ImportError):
            how = Asked(**{field.name: asked[field.name] for field in fields(Asked)})
            if asked["workers"] < 1:
                raise ValueError(f"want --workers >= 1, got {asked['workers']}")
            pictures = find(
                asked["images"], classes=_names(asked["class_names"]), skip_bad=how.skip_bad
            )
            world = stack.enter_context(start(asked["device"]))
            encoding = Encoding(pictures, out, how, world)
        encoding.run(asked["workers"])
    index = read_index(out)
    if index["status"] != "done":  # another process is the last
        return 0
    if index["skipped"]:
        click.echo(f"left out {index['skipped']}: see {out / 'skipped.jsonl'}", err=True)
    click.echo(f"done: {out / INDEX}, {index['images']} of {len(index['classes'])} classes")
    return 0


def _names(path: Path | None) -> list[str]:
    if path is None:
        return []
    names = path.read_text(encoding="utf-8").split()
    if not names:
        raise ValueError(f"want names of classes in {path}, found none")
    return names


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, that of this process if none is given; return the exit code."""
    return end_of(cli, arguments, "python -m core.mup.encode", resume="the same command goes on")


if __name__ == "__main__":
    take_sigterm()
    sys.exit(main())
