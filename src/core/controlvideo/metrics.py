r"""How good an edit is, where the correct one is known.

On procedural videos (`scenes`) everything can be counted: what the prompt asked for, what should
have stayed, and whether a point of the object looks the same wherever it goes. `temporal_cosine`
and `clip_features` are what the field uses elsewhere; they see less (a drift so slow that each step
is small, a video that does not move).

Symbols: `F` frames, `S` pixels of a side, `P` points.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, grid_sample, max_pool2d, normalize

from core.controlvideo.scenes import COLOURS, SHAPES, Rendered, Scenes, beside, render

CONTRAST = 0.12
"""Brightness between dark and bright parts from which an object counts as striped."""
STEP = 0.12
"""At a pixel there is an edge where a channel differs by more between the pixels on both sides."""
CORE = 2.4
"""An object's core is what lies `CORE / S` within its border, 1.2 pixels: the ground has less than
a hundredth of that."""
SMALLEST = 17
"""S from which every object of `scenes.draw` has a pixel in its core, wherever it is."""


@dataclass(frozen=True)
class Score:
    """An edited video beside the true edit.

    `colour` to `error` and `iou` are means over frames; the others are pooled: pixels, edges or
    points of all frames are counted together, so that frames with more of them weigh more.

    The true edit has no error and no missed edge, and its colour and texture are found. Its iou is
    0.79 or more, with S = 24, where the ground looks like a part of the object; one in a hundred
    videos has frames in which that passes for another shape.
    """

    colour: float
    """Part of the frames whose object has the colour that was asked for."""
    texture: float
    """Part of the frames whose object is plain or striped as was asked for."""
    shape: float
    """Part of the frames whose object looks most like the shape that was asked for."""
    prompt: float
    """Part of the frames where colour, texture and shape are right."""
    error: float
    """|edit - true edit|, of pixels in [0, 1]; frames have equally many."""
    ground_error: float
    """The same, pooled over what is seen of the ground."""
    object_error: float
    """The same, pooled over the object."""
    iou: float
    """Of the object's mask: intersection over union, a mean over frames."""
    edge_f1: float
    """Of edges, to a pixel; found and missed ones pooled."""
    object_flicker: float
    """Standard deviation over frames of a point that moves with the object, at full light.

    A root mean square, pooled over points and channels. Points lie between pixels, so that the true
    edit does not have zero. With S = 24 and 8 frames its floor is below 0.0001 for a plain circle
    or square, 0.005 for a plain triangle, whose border is near, and 0.03 for what is striped.
    """
    ground_flicker: float
    """The same of a pixel of the ground that is seen in all frames; its floor is 0.0002."""

    def asdict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)


def score(edit: Tensor, truth: Scenes) -> Score:
    """Return how an edit compares with the true one.

    Args:
        edit: `[F, 3, S, S]` in [0, 1].
        truth: the scenes that a correct edit shows; see `Scenes.edited`.

    Raises:
        ValueError: other numbers of frames, no square images, images so small that an object has
            no pixels of its own, or frames without light.
    """
    if edit.ndim != 4 or edit.shape[:2] != (len(truth), 3) or edit.shape[2] != edit.shape[3]:
        raise ValueError(f"want an edit [{len(truth)}, 3, S, S], got {list(edit.shape)}")
    size = edit.shape[-1]
    seen = render(truth, size)
    _check_scorable(truth, seen)
    lit = edit / truth.light[:, None, None, None]
    colour, texture = recognised(lit, seen)
    masks = found_mask(edit, seen)
    of_shapes = torch.stack(
        [_iou(masks, render(truth.edited(shape=name), size).mask > 0.5) for name in SHAPES]
    )
    right = torch.stack(
        [colour == truth.colour, texture == truth.texture, of_shapes.argmax(0) == truth.shape]
    )
    off = (edit - seen.image).abs().mean(1)
    inside = seen.mask
    parts = right.float().mean(1).tolist()
    return Score(
        colour=parts[0],
        texture=parts[1],
        shape=parts[2],
        prompt=float(right.all(0).float().mean()),
        error=float(off.mean()),
        ground_error=float((off * (1 - inside)).sum() / (1 - inside).sum()),
        object_error=float((off * inside).sum() / inside.sum()),
        iou=float(_iou(masks, seen.mask > 0.5).mean()),
        edge_f1=edge_f1(edit, seen.image),
        object_flicker=flicker(object_points(lit, truth)),
        ground_flicker=flicker(ground_points(lit, seen)),
    )


def _check_scorable(truth: Scenes, seen: Rendered) -> None:
    if not truth.light.min() > 0:
        raise ValueError(f"want frames with light, got factors of it {truth.light.tolist()}")
    if not (cores := _core(seen).flatten(1).any(1)).all():
        lost, size = (~cores).nonzero().flatten().tolist(), seen.image.shape[-1]
        raise ValueError(
            f"want objects with pixels in their core, got none in frames {lost} of {size} x {size} "
            f"pixels: from {SMALLEST} x {SMALLEST} those of scenes.draw have them"
        )


def _core(seen: Rendered) -> Tensor:
    """Return which pixels are within the object, `[F, S, S]` bool."""
    return seen.distance < -CORE / seen.image.shape[-1]


def recognised(image: Tensor, seen: Rendered) -> tuple[Tensor, Tensor]:
    """Return the nearest colour and texture of objects, `[F]` indices each.

    The brightest and the darkest third of the pixels within the object are the two colours of a
    striped one; where they hardly differ it is plain. Colours are those of full light.
    """
    nominal = torch.tensor(list(COLOURS.values()))
    other = beside(nominal, torch.arange(len(nominal))[:, None])
    high, low = torch.maximum(nominal, other), torch.minimum(nominal, other)
    colours, textures = [], []
    for frame, where in zip(image, _core(seen), strict=True):
        pixels = frame[:, where].T  # [P, 3]
        order = pixels[pixels.mean(1).argsort()]
        third = max(1, len(order) // 3)
        dark, bright = order[:third].mean(0), order[-third:].mean(0)
        striped = bool((bright - dark).mean() > CONTRAST)
        plain = (pixels.mean(0) - nominal).square().sum(1)
        both = (bright - high).square().sum(1) + (dark - low).square().sum(1)
        colours.append(int((both if striped else plain).argmin()))
        textures.append(int(striped))
    return torch.tensor(colours), torch.tensor(textures)


def found_mask(image: Tensor, seen: Rendered) -> Tensor:
    """Return where an object is found, `[F, S, S]` bool.

    A pixel belongs to it if its colour is nearer to one that the object has in its core than to
    what a plane fitted to the ground has there.
    """
    size = image.shape[-1]
    at = (torch.arange(size) + 0.5) / size * 2 - 1
    Y, X = torch.meshgrid(at, at, indexing="ij")
    plane = torch.stack([torch.ones_like(X), X, Y], -1)  # [S, S, 3]
    out = []
    for frame, distance, core in zip(image, seen.distance, _core(seen), strict=True):
        outside = distance > 3 / size
        fit = torch.linalg.lstsq(plane[outside], frame[:, outside].T).solution
        ground = (plane @ fit).permute(2, 0, 1)
        pixels = frame[:, core].T
        order = pixels[pixels.mean(1).argsort()]
        third = max(1, len(order) // 3)
        own = torch.stack([order[:third].mean(0), order[-third:].mean(0)])
        to_own = (frame[None] - own[:, :, None, None]).square().sum(1).amin(0)
        out.append(to_own < (frame - ground).square().sum(0))
    return torch.stack(out)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)


def edge_f1(image: Tensor, truth: Tensor) -> float:
    """Return the F1 score of edges, `[F, 3, S, S]` each, where a pixel beside counts as found."""
    a, b = edges(image), edges(truth)
    near_a, near_b = (max_pool2d(e.float()[:, None], 3, 1, 1)[:, 0] > 0 for e in (a, b))
    if not a.any() or not b.any():
        return float(not a.any() and not b.any())
    precision = (a & near_b).sum() / a.sum()
    recall = (b & near_a).sum() / b.sum()
    return float(2 * precision * recall / (precision + recall).clamp(min=1e-9))


def edges(image: Tensor) -> Tensor:
    """Return where a channel changes by more than `STEP` over two pixels, `[F, S, S]` bool."""
    out = torch.zeros(len(image), *image.shape[2:], dtype=torch.bool)
    across = (image[..., 2:] - image[..., :-2]).abs().amax(1)
    down = (image[..., 2:, :] - image[..., :-2, :]).abs().amax(1)
    out[..., 1:-1] |= across > STEP
    out[..., 1:-1, :] |= down > STEP
    return out


def object_points(image: Tensor, scenes: Scenes) -> Tensor:
    """Return what points of the object look like, `[F, 3, P]`, each followed where it goes.

    They lie within 0.3 radii of its centre both ways. Of a video's objects with S = 24 less than a
    thousandth of a point is ground, of a triangle's corner points up to a tenth.
    """
    at = torch.linspace(-0.3, 0.3, 9)
    v, u = torch.meshgrid(at, at, indexing="ij")
    cos, sin, r = (
        a[:, None, None] for a in (scenes.angle.cos(), scenes.angle.sin(), scenes.radius)
    )
    x = scenes.x[:, None, None] + r * (cos * u - sin * v)
    y = scenes.y[:, None, None] + r * (sin * u + cos * v)
    grid = torch.stack([x, y], -1)
    return grid_sample(image, grid, align_corners=False).flatten(2)


def ground_points(image: Tensor, seen: Rendered) -> Tensor:
    """Return what points of the ground look like that no frame's object hides, `[F, 3, P]`."""
    free = (seen.distance > 3 / image.shape[-1]).all(0)
    return image[:, :, free]


def flicker(points: Tensor) -> float:
    """Return the standard deviation over frames, root mean square over points `[F, 3, P]`."""
    return float(points.var(0, unbiased=False).mean().sqrt())


def seam(points: Tensor, begins: Sequence[int], besides: Sequence[int] = ()) -> float:
    """Return how much more points change, on average, at some frames than at all others.

    Args:
        points: `[F, 3, P]`; see `ground_points`.
        begins: frames, in 1..F-1, at which a change from the frame before is suspected.
        besides: frames that are left out of the others.

    Raises:
        ValueError: no such frames, or no others.
    """
    change = (points[1:] - points[:-1]).mean(-1).abs().mean(-1)  # [F - 1]
    if not begins or not all(1 <= i <= len(change) for i in begins):
        raise ValueError(f"want frames in 1..{len(change)}, got {list(begins)}")
    there = torch.zeros(len(change), dtype=torch.bool)
    there[[i - 1 for i in begins]] = True
    calm = ~there
    calm[[i - 1 for i in besides]] = False
    if not calm.any():
        raise ValueError("want frames besides those to compare with, got none")
    return float(change[there].mean() / change[calm].mean())


def temporal_cosine(features: Tensor) -> float:
    """Return the mean cosine of consecutive frames' features `[F, D]` (CLIP-temp, with CLIP's)."""
    if len(features) < 2:
        raise ValueError(f"want features of at least two frames, got {list(features.shape)}")
    return float(cosine_similarity(features[1:], features[:-1], dim=-1).mean())


@torch.no_grad()
def clip_features(frames: Tensor, prompt: str, model: Any, processor: Any) -> tuple[Tensor, Tensor]:
    """Return CLIP's unit features of frames `[F, D]` and of a prompt `[D]`.

    Their mean product is CLIP-text; `temporal_cosine` of the former is CLIP-temp.

    Args:
        frames: `[F, 3, H, W]` in [0, 1].
        prompt: what they should show.
        model: a `transformers.CLIPModel`.
        processor: its `CLIPProcessor`.
    """
    inputs = processor(
        text=[prompt], images=list(frames), return_tensors="pt", padding=True, do_rescale=False
    ).to(model.device)
    found = model(**inputs)
    return normalize(found.image_embeds, dim=-1), normalize(found.text_embeds[0], dim=-1)
