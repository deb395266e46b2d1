r"""Long videos by overlapping windows, as in the second version of the paper.

At each step of the sampler the video is cut into windows, [i (S - O), i (S - O) + S), each of which
is an ordinary video with its own first frame for a key frame. Their predictions are averaged where
they overlap, with weights that fall towards a window's ends; and a video of all windows' first
frames, whose key frame is the first of all, is blended in at those frames.

Source: gracezhao1997/Controlvideo_project_code at 432a829, `libs/piplines.py` and `util.py`. There
the last, shorter window takes the left part of the weights, and an overlap as long as a window
never ends; here weights belong to the window's own length, and such an overlap is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Weights = Literal["gaussian", "constant", "linear"]
Predict = Callable[[Sequence[int]], Tensor]
"""From frame numbers, the first of them the key frame, to predictions `[frames, C, H, W]`."""


@dataclass(frozen=True)
class Windows:
    """How a long video is cut."""

    size: int = 24
    """S, frames of a window."""
    overlap: int = 8
    """O, frames that two windows share."""
    weights: Weights = "gaussian"
    key_weight: float = 0.2
    """lambda, of the video of key frames; 0 leaves it out."""

    def __post_init__(self) -> None:
        """Refuse what never ends or weighs nothing."""
        if self.size < 1 or not 0 <= self.overlap < self.size:
            raise ValueError(
                "want windows of at least one frame and an overlap shorter than they are, got "
                f"size {self.size}, overlap {self.overlap}"
            )
        if not 0 <= self.key_weight <= 1:
            raise ValueError(f"want a key_weight in [0, 1], got {self.key_weight}")
        if self.weights not in ("gaussian", "constant", "linear"):
            raise ValueError(f"want gaussian, constant or linear weights, got {self.weights!r}")

    def cut(self, frames: int) -> list[range]:
        """Return the windows of a video of `frames`; the last one may be shorter."""
        starts = range(0, max(1, frames - self.overlap), self.size - self.overlap)
        return [range(s, min(s + self.size, frames)) for s in starts]

    def borders(self, frames: int) -> list[int]:
        """Return the frames at which a window begins or has ended, within a video of `frames`."""
        ends = {end for window in self.cut(frames) for end in (window.start, window.stop)}
        return sorted(ends - {0, frames})

    def weigh(self, frames: int) -> Tensor:
        """Return the weights of a window of `frames`, float64, above zero, symmetric."""
        at = torch.arange(frames, dtype=torch.float64)
        if self.weights == "constant":
            return torch.ones(frames, dtype=torch.float64)
        middle = (frames - 1) / 2
        if self.weights == "linear":
            return middle + 1 - (at - middle).abs()
        return torch.exp(-((at - middle) ** 2) / (2 * 0.1 * frames**2))

    def fuse(self, frames: int, predict: Predict) -> Tensor:
        """Return the predictions of all frames, `[frames, C, H, W]`.

        Args:
            frames: of the whole video.
            predict: of the frames of one window.
        """
        windows = self.cut(frames)
        total, weight = None, torch.zeros(frames, dtype=torch.float64)
        for window in windows:
            found = predict(window)
            w = self.weigh(len(window))
            if total is None:
                total = found.new_zeros(frames, *found.shape[1:])
            total[window.start : window.stop] += w.to(found)[:, None, None, None] * found
            weight[window.start : window.stop] += w
        assert total is not None
        fused = total / weight.to(total)[:, None, None, None]
        keys = [window.start for window in windows]
        if self.key_weight and len(keys) > 1:
            fused[keys] = torch.lerp(fused[keys], predict(keys), self.key_weight)
        return fused
