r"""The UNet with its ControlNets on a video: on all of it, on windows of it, or on a stream.

Symbols: `F` frames, `C` channels of latents; guidance has two halves, without and with the prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from core.controlvideo.adapter import Installation
from core.controlvideo.attention import Sees
from core.controlvideo.norms import Norm
from core.controlvideo.windows import Windows


@dataclass(frozen=True)
class Stream:
    """Frames a chunk at a time beside the key frames: activations for a chunk, however long.

    For frame norms without temporal branches, where it equals the whole, to rounding. It keeps the
    key frames' tokens of one step: at SD 1.5's size, 512 x 512, half precision, with one ControlNet
    some 32 MB for each half of guidance.
    """

    chunk: int = 8


class Predictor:
    """The UNet with its ControlNets, on a whole video, on windows of it, or on a stream."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel | MultiControlNetModel,
        scheduler: DDIMScheduler,
        edit: Installation,
        controls: list[Tensor],
        scales: list[float],
        keys: tuple[int, ...],
        long: Windows | Stream | None,
    ) -> None:
        """Take what `ControlVideoPipeline.predictor` is given."""
        self.unet, self.controlnet, self.scheduler = unet, controlnet, scheduler
        self.edit, self.controls, self.scales = edit, controls, scales
        self.keys, self.long = keys, long
        self.frames, self.size = len(controls[0]), controls[0].shape[2:]
        if not keys or not all(0 <= k < self.frames for k in keys):
            raise ValueError(f"want key frames in 0..{self.frames - 1}, got {keys}")
        if isinstance(long, Windows) and keys != (0,):
            raise ValueError(
                f"want key frame 0 with windows, whose own first frames are their keys, got {keys}"
            )
        edit.clip.keys = keys

    def __call__(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Return predictions `[halves F, C, h, w]` of latents `[F, C, h, w]`."""
        halves = len(text)
        everything = range(self.frames)
        if isinstance(self.long, Windows):
            self.edit.clip.keys = (0,)
            # windows are cut along frames: the halves go side by side in the channels
            fused = self.long.fuse(
                self.frames, lambda at: _beside(self._some(x, t, text, at), halves)
            )
            return fused.unflatten(1, (halves, -1)).transpose(0, 1).flatten(0, 1)
        if isinstance(self.long, Stream):
            return self._stream(x, t, text)
        return self._some(x, t, text, everything)

    def _stream(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        assert isinstance(self.long, Stream)
        clip, halves = self.edit.clip, len(text)
        out = x.new_empty(halves, *x.shape)
        clip.keys, clip.record = tuple(range(len(self.keys))), {}
        try:
            first = self._some(x, t, text, self.keys)
            out[:, list(self.keys)] = first.unflatten(0, (halves, -1))
            clip.cache, clip.record = clip.record, None
            rest = [i for i in range(self.frames) if i not in self.keys]
            for start in range(0, len(rest), self.long.chunk):
                at = rest[start : start + self.long.chunk]
                out[:, at] = self._some(x, t, text, at).unflatten(0, (halves, -1))
        finally:
            clip.cache, clip.record = None, None
        return out.flatten(0, 1)

    def _some(self, x: Tensor, t: Tensor, text: Tensor, at: Sequence[int]) -> Tensor:
        """Return predictions `[halves len(at), C, h, w]` of some of the frames."""
        halves, index = len(text), list(at)
        self.edit.clip.frames = len(index)
        some = x[index].repeat(halves, 1, 1, 1)  # DDIM does not scale a model's input
        states = text.repeat_interleave(len(index), 0)
        conds = [c[index].repeat(halves, 1, 1, 1) for c in self.controls]
        several = isinstance(self.controlnet, MultiControlNetModel)
        down, mid = self.controlnet(
            some,
            t,
            states,
            conds if several else conds[0],
            self.scales if several else self.scales[0],
            return_dict=False,
        )
        return self.unet(
            some,
            t,
            states,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]


def _beside(x: Tensor, halves: int) -> Tensor:
    """Return `[F, halves C, h, w]` of `[halves F, C, h, w]`."""
    return x.unflatten(0, (halves, -1)).transpose(0, 1).flatten(1, 2)


def check_long(long: Windows | Stream | None, norm: Norm, sees: Sees, branches: bool) -> None:
    """Refuse a stream where a frame depends on more than itself and the key frames."""
    if not isinstance(long, Windows | Stream | None):
        raise ValueError(f"want long=Windows(...), Stream(...) or None, got {long!r}")
    if isinstance(long, Stream) and (norm != "frame" or sees != "key" or branches):
        raise ValueError(
            "want norm='frame', sees='key' and branches=False for a stream, where a frame depends "
            f"on itself and the key frames alone, got {norm!r}, {sees!r} and branches={branches}: "
            "use Windows"
        )
    if isinstance(long, Stream) and long.chunk < 1:
        raise ValueError(f"want chunks of at least one frame, got {long.chunk}")
