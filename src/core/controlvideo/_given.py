"""What the pipeline is given, and what of it is refused."""

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL.Image import Image
from torch import Tensor

from core.controlvideo.video import check_frames, check_size
from core.controlvideo.windows import Windows


def video_of(frames: Any, factor: int) -> Tensor:
    """Return `[F, 3, H, W]` in [0, 1] of that, of `[F, H, W, 3]` in numpy, or of images.

    Raises:
        ValueError: it is none, or its sides are no multiples of `factor`.
    """
    if isinstance(frames, Tensor):
        x = frames.float()
    elif isinstance(frames, np.ndarray):
        x = torch.from_numpy(frames).float()
        x = x.permute(0, 3, 1, 2) if x.ndim == 4 else x
    else:
        frames = list(frames)
        wrong = {type(f).__name__ for f in frames if not isinstance(f, Image)}
        if wrong:
            raise ValueError(f"want a tensor, an array or PIL images, got a list of {wrong}")
        if len(sides := {f.size for f in frames}) > 1:
            told = " and ".join(f"{H} x {W}" for W, H in sorted(sides)[:2])
            raise ValueError(f"want images of one size, got {told}")
        x = VaeImageProcessor.pil_to_numpy(frames) if frames else torch.zeros(0, 3, 0, 0)
        x = x if isinstance(x, Tensor) else VaeImageProcessor.numpy_to_pt(x).float()
    check_frames(x)
    check_size((x.shape[2], x.shape[3]), factor)
    return x


def check_prompt(prompt: Any) -> None:
    """Refuse what is no string: a pipeline edits one video."""
    if not isinstance(prompt, str):
        raise ValueError(f"want one prompt, a string, got a {type(prompt).__name__}: call for each")


def check_sampling(scheduler: Any, steps: int, guidance: float = 1.0) -> None:
    """Refuse what is not DDIM, no steps or more than there are, and guidance by no number."""
    if not isinstance(scheduler, DDIMScheduler):
        raise ValueError(
            f"want a DDIMScheduler, whose inversion this is, got {type(scheduler).__name__}: "
            "pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)"
        )
    known = scheduler.config
    offset = known["steps_offset"] if known["timestep_spacing"] == "leading" else 0
    most = known["num_train_timesteps"] - offset
    if not isinstance(steps, Integral) or not 1 <= steps <= most:
        raise ValueError(f"want num_inference_steps in 1..{most}, got {steps!r}")
    if not math.isfinite(guidance):
        raise ValueError(f"want a finite guidance_scale, got {guidance}")


def check_inverted(scheduler: Any) -> None:
    """Refuse timesteps of which diffusers has no inversion."""
    spacing = scheduler.config["timestep_spacing"]
    if spacing not in ("leading", "trailing"):
        raise ValueError(
            f"want timestep_spacing leading or trailing to invert a video, got {spacing!r}: "
            "pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, "
            "timestep_spacing='leading'), or start='shared'"
        )


def scales_of(scale: Any, nets: int) -> list[float]:
    """Return a scale for each ControlNet, of one for all or of a list.

    Raises:
        ValueError: it is no finite number, nor a list of such.
    """
    try:
        found = np.atleast_1d(np.asarray(scale, dtype=float))
    except (TypeError, ValueError):
        found = np.array([np.nan])
    if found.ndim != 1 or not np.isfinite(found).all() or isinstance(scale, str):
        raise ValueError(f"want control_scale a finite number, or a list of such, got {scale!r}")
    return found.tolist() * (1 if np.ndim(scale) else nets)


def check_latents(x: Tensor, controls: Sequence[Tensor], channels: int, factor: int) -> None:
    """Refuse latents `[F, C, h, w]` of another size than the controls', `[F, 3, H, W]`."""
    F, _, H, W = controls[0].shape
    wanted = [F, channels, H // factor, W // factor]
    if list(x.shape) != wanted:
        raise ValueError(
            f"want a control image for each frame, of its size: {F} of {H} x {W} pixels go with "
            f"latents {wanted}, got {list(x.shape)}"
        )


def why_apart(
    key: int, keys: Sequence[int], options: Mapping[str, Any], *, couples: bool
) -> Iterator[str]:
    """Yield why the edit of one frame is not that frame of the video's edit.

    Args:
        key: the frame.
        keys: key frames of the video's edit.
        options: of the pipeline's call.
        couples: whether the adapter's branches would do something.
    """
    sees = options.get("sees", "key")
    if options.get("norm") == "video":
        yield "norms over the video"
    if sees == "key" and {*keys} != {key}:
        yield f"attention to key frames {', '.join(map(str, keys))}"
    if sees == "sparse-causal" and key:
        yield f"attention to frames 0 and {key - 1}"
    if options.get("branches", True) and couples:
        yield "tuned temporal branches"
    if isinstance(options.get("long"), Windows) and key:
        yield "windows, whose own first frames are their keys"
    if options.get("start") == "independent" and options.get("latents") is None:
        yield "noise of each frame's own, unless latents are given"


def check_told(names: Sequence[str], known: Sequence[str]) -> None:
    """Refuse to tell a callback of what there is not."""
    if unknown := set(names) - set(known):
        raise ValueError(
            f"want callback_on_step_end_tensor_inputs among {', '.join(known)}, got "
            + ", ".join(sorted(unknown))
        )
