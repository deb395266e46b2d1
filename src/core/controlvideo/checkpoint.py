r"""A pipeline from what lies in a folder or on the Hub: a base, ControlNets, and maybe an adapter.

The base is a checkpoint in diffusers' layout, of Stable Diffusion 1.5's kind (2.x has it too),
without a ControlNet of its own; or what `ControlVideoPipeline.save_pretrained` wrote, which has
them. What does not go together is refused by the configurations, before weights are read.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from core.command import first_line
from core.controlvideo.adapter import ControlVideoAdapter
from core.controlvideo.pipeline import ControlVideoPipeline

SAVED, ADAPTER = "ControlVideoPipeline", "ControlVideoAdapter"
PARTS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
    "scheduler": None,
}
"""Of a base: the names of their classes; any scheduler will do, its noise is DDIM's."""
NOISE = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
"""What Stable Diffusion's DDIM has, where the base's scheduler says nothing of it."""


@dataclass(frozen=True)
class Checkpoint:
    """What `find` found to go together."""

    base: str
    controlnets: tuple[str, ...]
    """Empty where the base has its own."""
    count: int
    """Of ControlNets."""
    factor: int
    """Of which the sides of a video are multiples."""
    size: tuple[int, int] | None
    """H and W that the base was trained at, if it says so."""
    steps: int
    """Most that sampling can take, by the scheduler."""
    pixels: bool
    """Whether the UNet works on pixels: there is no VAE."""

    def load(
        self,
        adapter: str | Path | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> ControlVideoPipeline:
        """Read the weights.

        Args:
            adapter: folder of a tuned edit; None: one that changes nothing, or the base's own.
            dtype: of all weights.
            device: of all weights.

        Raises:
            ValueError: weights that are not there, or an adapter of other models.
        """
        pipe = self._parts() if self.controlnets else self._saved()
        nets = getattr(pipe.controlnet, "nets", ())
        if len(nets) == 1:  # several of one, which would want a list of one control
            pipe.register_modules(controlnet=nets[0])
        if adapter is not None:
            pipe.register_modules(adapter=_adapter(adapter, pipe))
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                nn.Module.to(part, device, dtype)  # diffusers' own warns, of nothing
        return pipe

    def _saved(self) -> ControlVideoPipeline:
        return _told(self.base, lambda: ControlVideoPipeline.from_pretrained(self.base))

    def _parts(self) -> ControlVideoPipeline:
        nets = [_read(ControlNetModel, net) for net in self.controlnets]
        return ControlVideoPipeline(
            vae=None if self.pixels else _read(AutoencoderKL, self.base, "vae"),
            text_encoder=_read(CLIPTextModel, self.base, "text_encoder"),
            tokenizer=_read(CLIPTokenizer, self.base, "tokenizer"),
            unet=_read(UNet2DConditionModel, self.base, "unet"),
            controlnet=nets if len(nets) > 1 else nets[0],
            scheduler=_scheduler(self.base),
        )


def load(
    base: str | Path,
    controlnets: Sequence[str | Path] = (),
    adapter: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> ControlVideoPipeline:
    """Return a pipeline; see `find` for what goes together, and `Checkpoint.load`."""
    return find(base, controlnets).load(adapter, dtype=dtype, device=device)


def find(base: str | Path, controlnets: Sequence[str | Path] = ()) -> Checkpoint:
    """Return what there is to load, by its configurations alone.

    Args:
        base: folder or name on the Hub of a checkpoint of Stable Diffusion's kind; or folder of a
            saved ControlVideoPipeline.
        controlnets: folders or names of its ControlNets; none for a saved ControlVideoPipeline.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: another family, ControlNets of another base, or none.
    """
    place, nets = _place(base), tuple(map(_place, controlnets))
    index = _index(place)
    configs = _controlnets(place, nets, saved=index.get("_class_name") == SAVED)
    unet = _config(UNet2DConditionModel, place, "unet")
    _check_unet(place, unet)
    pixels = index["vae"][1] is None
    vae = {"block_out_channels": (1,)} if pixels else _config(AutoencoderKL, place, "vae")
    ratio = 2 ** (len(vae["block_out_channels"]) - 1)
    for net, config in configs.items():
        _check_controlnet(net, config, unet, ratio)
    side = unet["sample_size"]
    H, W = (side, side) if isinstance(side, int | None) else side
    return Checkpoint(
        base=place,
        controlnets=nets,
        count=len(configs),
        factor=ratio * 2 ** (len(unet["block_out_channels"]) - 1),
        size=None if H is None else (H * ratio, W * ratio),
        steps=_steps(place),
        pixels=pixels,
    )


def _controlnets(place: str, nets: Sequence[str], *, saved: bool) -> dict[str, dict[str, Any]]:
    """Return the configurations of all ControlNets, given or the base's own."""
    if saved and nets:
        raise ValueError(f"{place} has ControlNets of its own: want none besides, got {nets[0]}")
    if not saved and not nets:
        raise ValueError(f"want at least one ControlNet for {place}, which has none of its own")
    if not saved:
        return {net: _config(ControlNetModel, net) for net in nets}
    own = sorted(path.name for path in Path(place).glob("controlnet*"))
    return {f"{place}/{name}": _config(ControlNetModel, place, name) for name in own}


def _place(given: str | Path) -> str:
    """Return a folder's absolute path, or a name on the Hub."""
    path = Path(given).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if path.is_file():
        raise ValueError(
            f"want a folder in diffusers' layout, got the file {given}: a single-file checkpoint "
            "becomes one by StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(given)) or str(given)[0] == ".":
        raise FileNotFoundError(f"no folder {given}, and no name on the Hub (owner/name)")
    return str(given)


def _index(place: str) -> dict[str, Any]:
    index = _json(place, "model_index.json")
    parts = {name: part for name, part in index.items() if type(part) is tuple}
    found = f"{index.get('_class_name')} with {', '.join(parts) or 'no parts'}"
    wanted = f"want a base of Stable Diffusion 1.5's kind in {place}"
    for name, kind in PARTS.items():
        if name not in parts:
            raise ValueError(f"{wanted}, got a {found}: it has no {name}")
        got = parts[name][1]
        if kind is not None and got != kind and not (name == "vae" and got is None):
            raise ValueError(
                f"{wanted}, with {name} a {kind}, got a {found}: its {name} is a {got}"
            )
    if "text_encoder_2" in parts:
        raise ValueError(f"{wanted}, got a {found}: it has two text encoders, as SDXL")
    return index


def _check_unet(place: str, unet: Mapping[str, Any]) -> None:
    wanted = f"want a UNet of Stable Diffusion 1.5's kind in {place}"
    if unet.get("addition_embed_type") or unet.get("class_embed_type"):
        told = unet.get("addition_embed_type") or unet.get("class_embed_type")
        raise ValueError(f"{wanted}, got one that is told more than text ({told}), as SDXL's")
    if unet.get("time_cond_proj_dim") is not None:
        raise ValueError(
            f"{wanted}, got a latent consistency model, which is told its guidance "
            f"(time_cond_proj_dim {unet['time_cond_proj_dim']}) and samples by steps of its own"
        )
    if unet["in_channels"] != unet["out_channels"]:
        raise ValueError(
            f"{wanted}, got one of {unet['in_channels']} channels in and {unet['out_channels']} "
            "out: one for inpainting?"
        )
    text = _json(place, "text_encoder/config.json").get("hidden_size")
    if unet["cross_attention_dim"] != text:
        raise ValueError(
            f"{wanted}, got one for text of width {unet['cross_attention_dim']} beside a text "
            f"encoder of {text}"
        )


def _check_controlnet(
    place: str, config: Mapping[str, Any], unet: Mapping[str, Any], ratio: int
) -> None:
    kind = config.get("_class_name")
    if kind != "ControlNetModel":
        raise ValueError(f"want a ControlNetModel in {place}, got a {kind}")
    for key, what in (
        ("cross_attention_dim", "for text of width"),
        ("block_out_channels", "of channels"),
        ("layers_per_block", "of layers per block"),
        ("in_channels", "of input channels"),
    ):
        here, there = config[key], unet[key]
        if here != there:
            raise ValueError(
                f"want a ControlNet {what} {there}, as the UNet's, got {here} in {place}: it is of "
                "another base"
            )
    halved = 2 ** (len(config["conditioning_embedding_out_channels"]) - 1)
    if halved != ratio:
        raise ValueError(
            f"want a ControlNet whose images are {ratio} times as large as latents, as the VAE's, "
            f"got {halved} times in {place}: it is of another base"
        )


def _noise(base: str) -> Any:
    """Return the configuration of the base's noise, for DDIM and its inversion."""
    ours = {"num_train_timesteps": 1000, "timestep_spacing": "leading"}  # DDIM's own
    config = ours | NOISE | _json(base, "scheduler/scheduler_config.json")
    if config["timestep_spacing"] == "linspace":  # of which diffusers has no inversion
        config["timestep_spacing"] = "leading"
    return config


def _scheduler(base: str) -> Any:
    return DDIMScheduler.from_config(_noise(base))


def _steps(base: str) -> int:
    config = _noise(base)
    first = config["steps_offset"] if config["timestep_spacing"] == "leading" else 0
    return config["num_train_timesteps"] - first


def _adapter(folder: str | Path, pipe: ControlVideoPipeline) -> ControlVideoAdapter:
    there = Path(folder) / "config.json"
    if not there.is_file() or json.loads(there.read_text()).get("_class_name") != ADAPTER:
        raise FileNotFoundError(f"no adapter in {folder}: want the folder of a tuned edit")
    adapter = _read(ControlVideoAdapter, str(folder))
    try:
        adapter.install(pipe.unet, pipe.controlnet).uninstall()
    except ValueError as error:
        raise ValueError(f"{folder} does not go with these models: {error}") from error
    return adapter


def _read(kind: Any, place: str, subfolder: str = "") -> Any:
    return _told(place, lambda: kind.from_pretrained(place, subfolder=subfolder))


def _config(kind: Any, place: str, folder: str = "") -> dict[str, Any]:
    """Return a configuration, with the defaults of its class."""
    given = inspect.signature(kind.__init__).parameters.values()
    return {p.name: p.default for p in given} | _json(place, f"{folder}/config.json".lstrip("/"))


def _json(place: str, file: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download  # diffusers brings it

    def read() -> dict[str, Any]:
        here = Path(place) / file
        path = here if Path(place).is_dir() else hf_hub_download(place, file)
        return {
            key: tuple(value) if type(value) is list else value
            for key, value in json.loads(Path(path).read_text()).items()
        }

    return _told(place, read)


def _told(place: str, read: Callable[[], Any]) -> Any:
    """Return what is read; what is missing is told in a line, with what to do."""
    try:
        return read()
    except FileNotFoundError as error:
        if not Path(place).is_dir() or error.filename is None:
            raise _unread(place, error) from error
        held = ", ".join(sorted(p.name for p in Path(place).iterdir())[:8]) or "nothing"
        wanted = Path(error.filename).relative_to(place)
        raise ValueError(
            f"want {wanted} in {place}, as diffusers lays a model out; it holds {held}"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise _unread(place, error) from error


def _unread(place: str, error: Exception) -> ValueError:
    reason = first_line(error).split(". ")[0]
    if Path(place).is_dir():
        return ValueError(f"{place} cannot be read: {reason}")
    return ValueError(
        f"{place} is no folder here, and could not be had from the Hub ({reason}): get it where "
        f"there is a network (hf download {place}), or give a folder"
    )
