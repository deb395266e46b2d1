r"""Make the small model: `python -m core.controlvideo.pretrain --out FOLDER`.

    base         text encoder and UNet learn to paint captioned scenes
    objects      they go on, with a loss in which the object weighs more: it is a sixth of the
                 picture, and its colour and texture a small part of what there is to learn
    controlnets  one for each control, on the frozen base, from a copy of its encoder
    card         what the result can do, counted on new scenes, and a sheet of samples

Each stage writes what it made, and then in `manifest.json` from what: its settings, versions and
the hashes of its files. What stands there is not done again by the same command; a stage that was
interrupted is. What is random is named by (seed, stage, step).
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTextModel, CLIPTokenizer

from core.command import Refused, end_of, refusing, take_sigterm
from core.controlvideo import scenes as scene
from core.controlvideo import small
from core.controlvideo._losses import Log
from core.controlvideo.metrics import score
from core.files import whole_folder, write_json
from core.provenance import provenance
from core.train.progress import Show
from core.train.seeds import generator


@dataclass(frozen=True)
class Recipe:
    """How the small model is made."""

    steps: int = 2400
    """Of the base."""
    object_steps: int = 1000
    """Of the base, with objects that weigh more; ControlNets learn with the same weights."""
    emphasis: float = 8.0
    """How much more a pixel of the object weighs."""
    control_steps: int = 1200
    """Of each ControlNet."""
    batch: int = 32
    learning_rate: float = 2e-3
    without_caption: float = 0.1
    """How often the base sees an empty caption: guidance needs it."""
    without_caption_controlled: float = 0.3
    """How often a ControlNet does: what the caption does not say, the control has to."""
    on_card: int = 4
    """Scenes that each prompt of the card is painted on."""
    seed: int = 0


HERE = Path(__file__).parent
MANIFEST = "manifest.json"
BASE = "stage_base"
"""Folder of the first stage's weights."""
SMOKE = Recipe(steps=60, object_steps=10, control_steps=20, batch=8, on_card=1)
"""A minute; shows that the loss falls, and makes nothing worth having."""


class Run:
    """A folder that fills with the stages of a run."""

    def __init__(self, out: Path, recipe: Recipe, *, show: bool = True) -> None:
        """Start a run, or go on with one.

        Raises:
            ValueError: the folder holds something that is no such run.
        """
        self.out, self.recipe, self.show = out, recipe, show
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not (out / MANIFEST).exists():
            raise ValueError(f"want an empty folder, or one with a {MANIFEST}, got {out}")
        if not all(isinstance(n, dict) and "settings" in n for n in self.notes().values()):
            raise ValueError(f"want stages with their settings in {out / MANIFEST}, got others")
        self.scheduler = small.make_scheduler(small.LEARNT)
        write_json(out / MANIFEST, self.notes())

    def notes(self) -> dict[str, Any]:
        """Return what is noted of each stage that is done."""
        path = self.out / MANIFEST
        return json.loads(path.read_text()) if path.exists() else {}

    def done(self, stage: str, settings: dict[str, Any]) -> bool:
        """Return whether a stage is done.

        Raises:
            Refused: it was done with other settings.
        """
        noted = self.notes().get(stage)
        if noted and noted["settings"] != settings:
            raise Refused(
                f"{self.out} has its {stage} of {noted['settings']}, want {settings}: take another "
                "folder, or that recipe"
            )
        return noted is not None

    def made(self, stage: str, settings: dict[str, Any], files: Sequence[str]) -> None:
        """Note that a stage is done, from what, and which files it made."""
        found = [f for name in files for f in sorted((self.out / name).rglob("*.safetensors"))]
        content = {
            "settings": settings,
            "files": {str(f.relative_to(self.out)): digest(f) for f in found},
            "made": provenance(HERE),
        }
        write_json(self.out / MANIFEST, self.notes() | {stage: content})

    def settings(self, *names: str) -> dict[str, Any]:
        """Return the recipe's values of these, and of what all stages share."""
        shared = ("batch", "learning_rate", "seed")
        return {name: getattr(self.recipe, name) for name in (*names, *shared)}

    def base(self) -> None:
        """Train text encoder and UNet together."""
        settings = self.settings("steps", "without_caption")
        if self.done("base", settings):
            return
        torch.manual_seed(self.recipe.seed)
        tokenizer = small.make_tokenizer()
        tokenizer.save_pretrained(self.out / "tokenizer")
        small.make_scheduler().save_pretrained(self.out / "scheduler")
        text_encoder = small.make_text_encoder(len(tokenizer))
        unet = small.make_unet()
        self.paint("base", 0, self.recipe.steps, tokenizer, text_encoder, unet, emphasis=0.0)
        self.keep(text_encoder, f"{BASE}/text_encoder")
        self.keep(unet, f"{BASE}/unet")
        self.made("base", settings, [BASE])

    def objects(self) -> None:
        """Go on with both; objects weigh more."""
        settings = self.settings("object_steps", "emphasis", "without_caption")
        if self.done("objects", settings):
            return
        tokenizer, text_encoder, unet = self.read(self.out / BASE)
        stage, steps = 1 + len(scene.CONTROLS), self.recipe.object_steps
        weight = self.recipe.emphasis
        self.paint("objects", stage, steps, tokenizer, text_encoder, unet, emphasis=weight)
        self.keep(text_encoder, "text_encoder")
        self.keep(unet, "unet")
        self.made("objects", settings, ["text_encoder", "unet"])

    def paint(
        self,
        name: str,
        stage: int,
        steps: int,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        unet: Any,
        *,
        emphasis: float,
    ) -> None:
        """Train text encoder and UNet for a while."""
        model = nn.ModuleList([text_encoder, unet])
        for step, take in self.train(model, name, steps):
            noised, t, wanted, words, seen = self.batch(stage, step, self.recipe.without_caption)
            found = unet(noised, t, encode(tokenizer, text_encoder, words)).sample
            take(weighed(found - wanted, seen, emphasis))

    def read(self, folder: Path) -> tuple[CLIPTokenizer, CLIPTextModel, Any]:
        """Return what a stage has kept."""
        tokenizer = CLIPTokenizer.from_pretrained(self.out / "tokenizer")
        text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").float()
        return tokenizer, text_encoder, UNet2DConditionModel.from_pretrained(folder / "unet")

    def controlnet(self, kind: str) -> None:
        """Train the ControlNet of one control."""
        name = f"controlnet_{kind}"
        settings = self.settings("control_steps", "emphasis", "without_caption_controlled")
        if self.done(name, settings):
            return
        tokenizer, text_encoder, unet = self.read(self.out)
        stage = 1 + scene.CONTROLS.index(kind)
        torch.manual_seed(self.recipe.seed)
        net = small.make_controlnet(unet)
        unet.requires_grad_(False)
        text_encoder.requires_grad_(False)
        without = self.recipe.without_caption_controlled
        for step, take in self.train(net, name, self.recipe.control_steps):
            noised, t, wanted, words, seen = self.batch(stage, step, without)
            states = encode(tokenizer, text_encoder, words)
            found = controlled(unet, net, noised, t, states, scene.control(seen, kind))
            take(weighed(found - wanted, seen, self.recipe.emphasis))
        self.keep(net, name)
        self.made(name, settings, [name])

    def batch(
        self, stage: int, step: int, without: float
    ) -> tuple[Tensor, Tensor, Tensor, list[str], scene.Scenes]:
        """Return noised images, their times, the v to predict, captions and scenes."""
        rng = generator(self.recipe.seed, stage, step)
        seen = scene.draw(self.recipe.batch, rng)
        words = [w if rng.random() >= without else "" for w in scene.captions(seen, rng)]
        x = scene.render(seen).image * 2 - 1
        noise = torch.from_numpy(rng.standard_normal(x.shape)).float()
        t: Any = torch.from_numpy(rng.integers(small.LEARNT, size=len(x)))
        noised = self.scheduler.add_noise(x, noise, t)
        return noised, t, self.scheduler.get_velocity(x, noise, t), words, seen

    def train(self, model: nn.Module, name: str, steps: int) -> Iterator[tuple[int, Any]]:
        """Yield steps, each with a function that takes its loss; at the end keep the average."""
        model.train()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=self.recipe.learning_rate, weight_decay=1e-3, betas=(0.9, 0.99)
        )
        rate = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            self.recipe.learning_rate,
            total_steps=steps,
            pct_start=min(0.3, 50 / steps),
            cycle_momentum=False,
        )
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
        path = self.out / f"loss_{name}.csv"
        with Log(path) as log, Show(name, steps, quiet=not self.show) as shown:
            for step in range(steps):

                def take(loss: Tensor) -> None:
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    rate.step()
                    averaged.update_parameters(model)
                    log.take(loss.item())

                yield step, take
                shown(step + 1, f"loss {log.recent:.4f}")
        model.load_state_dict(averaged.module.state_dict())
        model.eval()

    def keep(self, model: Any, name: str) -> None:
        """Write a part of the checkpoint in half precision, whole or not at all.

        Raises:
            OSError: it could not be written.
        """
        path = self.out / name
        path.parent.mkdir(exist_ok=True)
        try:
            with whole_folder(path, over=True) as new:
                model.half().save_pretrained(new)
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(f"{path} could not be written: {error}") from error
        model.float()

    def card(self) -> None:
        """Count what the ControlNets that are there can do, unless that is known of just these."""
        nets = [name for name in self.notes() if name.startswith("controlnet_")]
        settings = {name: self.notes()[name]["files"] for name in nets}
        if self.notes().get("card", {}).get("settings") != settings:
            kinds = [name.removeprefix("controlnet_") for name in nets]
            card(self.out, kinds, images=self.recipe.on_card, seed=self.recipe.seed)
            self.made("card", settings, [])


def weighed(off: Tensor, seen: scene.Scenes, emphasis: float) -> Tensor:
    """Return the mean square of what is off, `[B, 3, S, S]`; the object's pixels weigh more."""
    weight = 1 + emphasis * scene.render(seen).mask[:, None]
    return (weight * off.square()).mean() / weight.mean()


def encode(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, words: Sequence[str]) -> Tensor:
    """Return the states of prompts, `[B, tokens, width]`."""
    ids = tokenizer(list(words), padding="max_length", max_length=small.TOKENS, return_tensors="pt")
    return text_encoder(ids.input_ids)[0]


def controlled(
    unet: Any, net: ControlNetModel, x: Tensor, t: Tensor, states: Tensor, control: Tensor
) -> Tensor:
    """Return the prediction of a UNet with the residuals of one ControlNet."""
    down, mid = net(x, t, states, control, return_dict=False)
    return unet(
        x, t, states, down_block_additional_residuals=down, mid_block_additional_residual=mid
    ).sample


@torch.random.fork_rng()  # a pipeline draws an adapter, which is left out
def card(out: Path, controls: Sequence[str], *, images: int = 4, seed: int = 0) -> None:
    """Count what the model can do on scenes that it has not seen; write numbers and a sheet.

    Args:
        out: a checkpoint.
        controls: of its ControlNets.
        images: of each of twelve prompts.
        seed: of scenes and noise.
    """
    words = [
        {"texture": texture, "colour": colour, "shape": scene.SHAPES[i % 3]}
        for texture in scene.TEXTURES
        for i, colour in enumerate(scene.COLOURS)
    ]
    found, sheet = {}, []
    for kind in controls:
        pipe = small.small((kind,), out)
        scores, row = [], []
        for i, each in enumerate(words):
            seen = scene.draw(images, generator(seed, 200, i)).edited(**each)
            made = pipe(
                scene.caption(**each),
                scene.control(seen, kind),
                start="independent",
                sees="own",
                branches=False,
                num_inference_steps=20,
                guidance_scale=2,
                generator=torch.Generator().manual_seed(len(words) * seed + i),
                output_type="pt",
            ).frames
            scores.append(score(made, seen).asdict())
            row += [scene.control(seen[[0]], kind)[0], made[0]]
        found[kind] = {
            name: float(np.mean([s[name] for s in scores]))
            for name in ("colour", "texture", "shape", "prompt", "iou", "edge_f1")
        }
        sheet.append(torch.cat(row, -1))
    (out / "card.json").write_text(json.dumps(found, indent=1) + "\n")
    pixels = (255 * torch.cat(sheet, -2).permute(1, 2, 0)).round().byte().numpy()
    Image.fromarray(pixels).resize((4 * pixels.shape[1], 4 * pixels.shape[0]), 0).save(
        out / "samples.png", optimize=True
    )


def digest(path: Path) -> dict[str, Any]:
    """Return size and hash of a file."""
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--smoke", is_flag=True, help="A minute's run: does the script still learn?")
@click.option("--control", "controls", multiple=True, type=click.Choice(scene.CONTROLS))
@click.option("--seed", default=0, show_default=True)
@click.option("--quiet", is_flag=True, help="No progress.")
def cli(out: Path, smoke: bool, controls: tuple[str, ...], seed: int, quiet: bool) -> None:
    """Train the small text-to-image model and its ControlNets on procedural scenes."""
    recipe = Recipe(**{**asdict(SMOKE if smoke else Recipe()), "seed": seed})
    with refusing(ValueError):
        run = Run(out, recipe, show=not quiet)
    run.base()
    run.objects()
    for kind in controls or scene.CONTROLS:
        run.controlnet(kind)
    run.card()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, that of this process if none is given; return the exit code."""
    resume = "the same command goes on with the stage"
    return end_of(cli, arguments, "python -m core.controlvideo.pretrain", resume=resume)


if __name__ == "__main__":
    take_sigterm()
    sys.exit(main())
