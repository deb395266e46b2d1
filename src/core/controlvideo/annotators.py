r"""Controls of a video: edges, depth, parts and poses of its frames, by libraries that make them.

Each takes `[F, 3, H, W]` in [0, 1] and returns the same shape, as `ControlVideoPipeline` and the
ControlNets of Stable Diffusion want it. Edges need no weights; the others need a model in a folder,
or one that the Hub's cache has.

Depth is scaled over all frames together: what keeps its distance keeps its grey.

Source: thu-ml/controlvideo at 23b6b0b: edges with thresholds 100 and 100, MiDaS, OpenPose.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.command import first_line
from core.controlvideo.video import bytes_of, tensor_of

MIDAS = "Intel/dpt-hybrid-midas"
"""Depth, as in the paper."""
OPENPOSE = "lllyasviel/Annotators"
"""Where `controlnet_aux` has OpenPose's weights."""
PALETTE = "palette.json"
"""Beside a segmentation model: the colours of its classes."""


def annotate(
    frames: Tensor, kinds: Sequence[str], *, device: torch.device | str = "cpu"
) -> list[Tensor]:
    """Return a control video of each kind.

    Args:
        frames: `[F, 3, H, W]` in [0, 1].
        kinds: `canny`, `depth`, `segmentation` or `pose`, with what it takes after a `=`:
            thresholds (`canny=100,200`), or a folder with weights (`depth=FOLDER`).
        device: where models run.

    Raises:
        ValueError: an unknown kind, or weights that are not there.
        ImportError: what makes it is not installed.
    """
    return [_one(frames, kind, device) for kind in kinds]


def check_kind(asked: str) -> None:
    """Refuse what no annotator is called.

    Raises:
        ValueError: with the names that there are.
    """
    kind, _, how = asked.partition("=")
    if kind not in KINDS:
        raise ValueError(f"want a control of {', '.join(KINDS)}, got {asked!r}")
    if kind == "canny":
        _thresholds(how)
    if kind == "segmentation":
        _palette(how)


def canny(frames: Tensor, low: float = 100.0, high: float = 100.0) -> Tensor:
    """Return the edges of each frame, one or zero, by OpenCV.

    Args:
        frames: `[F, 3, H, W]` in [0, 1].
        low: an edge goes on while the gradient, |dx| + |dy| of a 3 x 3 Sobel filter on pixels in
            0..255, in the channel where it is largest, is above this.
        high: and it begins above that.

    Raises:
        ImportError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "want OpenCV for edges: pip install 'papers-executed[controlvideo]', or pip install "
            "opencv-python-headless"
        ) from error
    edges = np.stack([cv2.Canny(one, low, high) for one in bytes_of(frames)])
    return (torch.from_numpy(edges)[:, None].float() / 255).expand(-1, 3, -1, -1).clone()


@torch.no_grad()
def depth(frames: Tensor, weights: str = MIDAS, device: torch.device | str = "cpu") -> Tensor:
    """Return how near things are, 1 for the nearest of the video and 0 for the farthest.

    Args:
        frames: `[F, 3, H, W]` in [0, 1].
        weights: a depth model of transformers that predicts inverse depth, as MiDaS, DPT and Depth
            Anything do: a folder, or a name on the Hub, from which it is fetched once.
        device: where it runs.

    Raises:
        ValueError: no such model.
    """
    processor, model = _model("depth", "AutoModelForDepthEstimation", weights, device)
    size = tuple(frames.shape[2:])
    near = []
    for image in _images(frames):
        out = model(**processor(image, return_tensors="pt").to(device))
        found = processor.post_process_depth_estimation(out, target_sizes=[size])
        near.append(found[0]["predicted_depth"].float().cpu())
    x = torch.stack(near)[:, None]
    scaled = (x - x.min()) / (x.max() - x.min()).clamp_min(1e-12)
    return scaled.expand(-1, 3, -1, -1).clone()


@torch.no_grad()
def segmentation(frames: Tensor, weights: str, device: torch.device | str = "cpu") -> Tensor:
    """Return the parts of each frame, in the colours of their classes.

    Args:
        frames: `[F, 3, H, W]` in [0, 1].
        weights: folder of a segmentation model of transformers, with `palette.json`: a list of
            `[red, green, blue]` in 0..255, one of each class, those that the ControlNet was trained
            with.
        device: where it runs.

    Raises:
        ValueError: no such model or palette, or one of other classes.
    """
    palette = _palette(weights)
    processor, model = _model("segmentation", "AutoModelForSemanticSegmentation", weights, device)
    if len(palette) != model.config.num_labels:
        raise ValueError(
            f"want a colour for each of {model.config.num_labels} classes in "
            f"{Path(weights) / PALETTE}, got {len(palette)}"
        )
    size, parts = tuple(frames.shape[2:]), []
    for image in _images(frames):
        out = model(**processor(image, return_tensors="pt").to(device))
        found = processor.post_process_semantic_segmentation(out, target_sizes=[size])
        parts.append(palette[found[0].cpu().numpy()])
    return torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2).float() / 255


def pose(frames: Tensor, weights: str = OPENPOSE, device: torch.device | str = "cpu") -> Tensor:
    """Return the skeletons of the people in each frame, by OpenPose.

    Args:
        frames: `[F, 3, H, W]` in [0, 1].
        weights: of OpenPose, as `controlnet_aux` reads them: a folder, or a name that the Hub's
            cache has.
        device: where it runs.

    Raises:
        ImportError: `controlnet_aux` is not installed.
        ValueError: no such weights.
    """
    try:
        from controlnet_aux import OpenposeDetector  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError(
            "want controlnet_aux for poses: pip install controlnet-aux, or give a video of the "
            "poses as the control"
        ) from error
    try:
        detector = OpenposeDetector.from_pretrained(weights).to(device)
    except (OSError, ValueError) as error:
        raise ValueError(_missing("pose", weights, "body_pose_model.pth", error)) from error
    H, W = frames.shape[2:]
    found = [detector(image).resize((W, H)) for image in _images(frames)]
    return tensor_of(found)


def _one(frames: Tensor, asked: str, device: torch.device | str) -> Tensor:
    check_kind(asked)
    kind, _, how = asked.partition("=")
    if kind == "canny":
        return canny(frames, *_thresholds(how))
    given: dict[str, Any] = {"weights": how} if how else {}
    return KINDS[kind](frames, device=device, **given)


def _thresholds(how: str) -> list[float]:
    try:
        found = [float(part) for part in how.split(",")] if how else [100.0, 100.0]
    except ValueError:
        found = []
    if len(found) != 2 or not 0 <= found[0] <= found[1]:
        raise ValueError(f"want thresholds as canny=LOW,HIGH, such as canny=100,200, got {how!r}")
    return found


def _palette(weights: str) -> NDArray[np.uint8]:
    file = Path(weights) / PALETTE
    try:
        found = np.array(json.loads(file.read_text()))
    except (OSError, ValueError) as error:
        raise ValueError(_no_palette(file)) from error
    if (
        found.ndim != 2
        or found.shape[1] != 3
        or found.dtype.kind != "i"
        or found.min() < 0
        or found.max() > 255
    ):
        raise ValueError(_no_palette(file))
    return found.astype(np.uint8)


def _no_palette(file: Path) -> str:
    return (
        f"want segmentation=FOLDER, with a segmentation model of transformers and {PALETTE}: a "
        "list of [red, green, blue], one of each class, the colours that the ControlNet was "
        f"trained with (those of ADE20K for SD 1.5's); got {file}"
    )


def _model(kind: str, auto: str, weights: str, device: torch.device | str) -> tuple[Any, Any]:
    """Return the processor and the model of a folder or of the Hub."""
    import transformers

    try:
        processor = transformers.AutoImageProcessor.from_pretrained(weights)
        model = getattr(transformers, auto).from_pretrained(weights)
    except (OSError, ValueError, ImportError) as error:
        files = "config.json, preprocessor_config.json and model.safetensors"
        raise ValueError(_missing(kind, weights, files, error)) from error
    return processor, model.to(device).eval()


def _missing(kind: str, weights: str, files: str, error: Exception) -> str:
    return (
        f"no weights for {kind} at {weights!r}: give {kind}=FOLDER, with {files}, or a video of it "
        f"as the control ({first_line(error)})"
    )


def _images(frames: Tensor) -> list[Image.Image]:
    return [Image.fromarray(one) for one in bytes_of(frames)]


KINDS: dict[str, Callable[..., Tensor]] = {
    "canny": canny,
    "depth": depth,
    "segmentation": segmentation,
    "pose": pose,
}
"""The annotators by name."""
