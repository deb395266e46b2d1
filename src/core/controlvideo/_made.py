"""What an edit is made with, kept beside its adapter; and the video and controls that it names."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from core.controlvideo.annotators import KINDS, annotate, check_kind
from core.controlvideo.checkpoint import Checkpoint, find
from core.controlvideo.norms import Norm
from core.controlvideo.tuning import Trained
from core.controlvideo.video import ALL, Fit, Pick, Video, check_size, read
from core.files import write_json
from core.train.checkpoint import plain

FILE = "edit.json"
ALL_FRAMES = 0


@dataclass(frozen=True)
class Made:
    """All that tuning and rendering must agree on, and the video that was tuned on."""

    source: str
    prompt: str
    base: str
    controlnets: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    """Annotators, or paths of videos; one for each ControlNet."""
    scales: tuple[float, ...] = ()
    """Likewise; none is 1 for each."""
    frames: int = 8
    """`ALL_FRAMES`: all."""
    first: int = 0
    stride: int | None = None
    height: int | None = None
    width: int | None = None
    fit: Fit = "crop"
    norm: Norm = "frame"
    keys: tuple[int, ...] = (0,)
    trained: Trained = "both"

    @property
    def pick(self) -> Pick:
        """Which frames of the video."""
        return Pick(self.frames or None, self.first, self.stride)

    @property
    def videos(self) -> list[str]:
        """What is read: the source, and controls that are videos."""
        return [self.source, *(each for each in self.controls if not is_kind(each))]

    def identity(self) -> dict[str, Any]:
        """Return what a run is, by name."""
        return {name: plain(value) for name, value in dataclasses.asdict(self).items()}

    def save(self, folder: Path) -> None:
        """Write it to a folder."""
        write_json(folder / FILE, dataclasses.asdict(self))

    @classmethod
    def of(cls, folder: Path, **asked: Any) -> Self:
        """Return what an adapter was made with, but for what is asked now.

        Raises:
            ValueError: no such file beside the adapter.
        """
        try:
            kept = json.loads((folder / FILE).read_text())
            listed: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()
            }
            return cls(**listed | asked)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"want an adapter that tune or edit left, with its {FILE}, got {folder}"
            ) from error


class Scene(NamedTuple):
    """What there is to work on."""

    checkpoint: Checkpoint
    source: Video
    controls: list[Tensor]
    scales: list[float]

    @property
    def control(self) -> Any:
        """The controls, as the pipeline takes them."""
        return self.controls if len(self.controls) > 1 else self.controls[0]


def scene(made: Made, device: torch.device | str) -> Scene:
    """Return the models' configurations, the video and its controls; weights are not read.

    Raises:
        ValueError, OSError, ImportError: something is not there, or does not go together.
    """
    controls = made.controls or ("canny",)
    for control in controls:
        _check_control(control)
    checkpoint = find(made.base, made.controlnets)
    scales = list(made.scales) or [1.0] * checkpoint.count
    if not checkpoint.count == len(controls) == len(scales):
        raise ValueError(
            f"want a control and a scale for each ControlNet, got {checkpoint.count} ControlNets, "
            f"{len(controls)} controls ({', '.join(controls)}) and {len(scales)} scales"
        )
    size = _size(made, checkpoint)
    source = read(made.source, made.pick, size=size, fit=made.fit, factor=checkpoint.factor)
    F = len(source.frames)
    if not all(0 <= key < F for key in made.keys):
        raise ValueError(f"want key frames in 0..{F - 1}, got {made.keys}")
    return Scene(
        checkpoint, source, [_control(each, source, made, device) for each in controls], scales
    )


def _size(made: Made, checkpoint: Checkpoint) -> tuple[int, int]:
    own = checkpoint.size or (None, None)
    H, W = made.height or own[0], made.width or own[1]
    if H is None or W is None:
        raise ValueError(f"want --height and --width: {checkpoint.base} does not say its own")
    check_size((H, W), checkpoint.factor)
    return H, W


def _check_control(asked: str) -> None:
    if is_kind(asked):
        check_kind(asked)
    elif not Path(asked).exists():
        raise ValueError(
            f"want a control of {', '.join(KINDS)}, or a video of it, got {asked!r}, which is none"
        )


def is_kind(asked: str) -> bool:
    """Return whether a control is made here, and no video of it."""
    return asked.partition("=")[0] in KINDS


def _control(asked: str, source: Video, made: Made, device: torch.device | str) -> Tensor:
    """Return a control, of which the frames are picked as the source's were, or already are."""
    if is_kind(asked):
        return annotate(source.frames, [asked], device=device)[0]
    F, size = len(source.frames), (source.frames.shape[2], source.frames.shape[3])
    found = read(asked, ALL, size=size, fit=made.fit)
    if found.total not in (F, source.total):
        raise ValueError(
            f"want a control video of {source.total} frames, as {made.source}, or of the {F} that "
            f"are picked, got {found.total} in {asked}"
        )
    return found.frames if found.total == F else found.frames[list(made.pick.of(source.total))]
