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
from torch.nn.functional import group_norm

from core.controlvideo.clip import Clip

Norm = Literal["frame", "video"]


class VideoGroupNorm(nn.GroupNorm):
    """A group norm with the statistics of all frames of a video."""

    clip: Clip

    def forward(self, input: Tensor) -> Tensor:
        """Return `[B F, C, H, W]`, normalised over the frames of each video too."""
        video = self.clip.split(input).transpose(1, 2)  # [B, C, F, H, W]
        normed = group_norm(video, self.num_groups, self.weight, self.bias, self.eps)
        return normed.transpose(1, 2).flatten(0, 1)


def set_norms(model: nn.Module, norm: Norm, clip: Clip) -> None:
    """Make a UNet or ControlNet normalise over frames, or each frame alone, in place.

    The norms stay where they are, with their parameters; their class says what they do.

    Raises:
        ValueError: `norm` is neither `frame` nor `video`.
    """
    check_norm(norm)
    for module in group_norms(model):
        if norm == "video":
            module.__class__ = VideoGroupNorm
            object.__setattr__(module, "clip", clip)
        elif isinstance(module, VideoGroupNorm):
            object.__delattr__(module, "clip")
            object.__setattr__(module, "__class__", nn.GroupNorm)


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
