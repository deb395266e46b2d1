r"""Over what group norms take their statistics: each frame alone, or all frames of a video.

The residual blocks of the authors' code normalise (b, c, f, h, w) tensors with `nn.GroupNorm`: mean
and variance are those of all frames together, a second coupling of frames, without parameters and
without a word in the code. diffusers' 2-D models normalise frame by frame. With `frame` a frame's
output depends on itself and on what attention shows it; with `video` on all frames.

Source: thu-ml/controlvideo at 23b6b0b, `libs/resnet.py` and `libs/unet.py` (`conv_norm_out`); the
norm of `Transformer3DModel` is per frame in both.
"""

from collections.abc import Iterator
from typing import Literal

from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from core.controlvideo.clip import Clip

Norm = Literal["frame", "video"]


def see_the_video(model: nn.Module, clip: Clip) -> list[RemovableHandle]:
    """Make the norms of a UNet or ControlNet take their statistics over all frames of a video.

    Each is given `[B, C, F, H, W]` and its output is cut into frames again, by hooks: they hold
    whatever else has taken hold of the norm, such as what moves its weights between devices.

    Returns:
        What takes the hooks away.
    """

    def whole(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (clip.split(args[0]).transpose(1, 2),)

    def frames(_: nn.Module, __: object, out: Tensor) -> Tensor:
        return out.transpose(1, 2).flatten(0, 1)

    return [
        handle
        for norm in group_norms(model)
        for handle in (norm.register_forward_pre_hook(whole), norm.register_forward_hook(frames))
    ]


def check_norm(norm: str) -> None:
    """Refuse what is neither `frame` nor `video`."""
    if norm not in ("frame", "video"):
        raise ValueError(f"want norm 'frame' or 'video', got {norm!r}")


def group_norms(model: nn.Module) -> Iterator[nn.GroupNorm]:
    """Yield the norms that the authors' code has over all frames."""
    for module in model.modules():
        if isinstance(module, ResnetBlock2D):
            yield from (m for m in (module.norm1, module.norm2) if isinstance(m, nn.GroupNorm))
    last = getattr(model, "conv_norm_out", None)
    if isinstance(last, nn.GroupNorm):
        yield last
