r"""Procedural videos whose correct edit is known: one object moves over a ground.

Every pixel is a formula of the scene, so what a real video keeps to itself is known here: the mask,
where each point of the object went, the controls, and the edit itself: the same scene with another
colour, texture or shape, rendered again.

A caption names some of what is seen; the rest is left open: the ground and its gradient, the shade
of a colour, the phase of stripes. (Where a prompt fixes all, frames agree by themselves, and no
attention between them has anything to do.)

Symbols: `F` frames (or images), `S` pixels of a side; coordinates run over [-1, 1], y downwards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

COLOURS = {
    "red": (0.85, 0.15, 0.15),
    "green": (0.15, 0.70, 0.20),
    "blue": (0.15, 0.30, 0.85),
    "yellow": (0.90, 0.85, 0.15),
    "white": (0.92, 0.92, 0.92),
    "black": (0.08, 0.08, 0.08),
}
"""Nominal RGB in [0, 1] of the words."""
SHAPES = ("circle", "square", "triangle")
TEXTURES = ("plain", "striped")
NAMED = {"texture": 0.75, "colour": 0.75, "shape": 1.0, "ground": 0.3}
"""How often a caption says what they are."""
CONTROLS = ("edges", "depth", "segmentation", "pose")
SHADE = 0.10
"""Half-width of what a shade adds to each channel."""
SIZE = 24
"""S, of the small models."""
STRIPES = 1.1
"""Periods of the stripes over one radius."""


@dataclass(frozen=True)
class Scenes:
    """F scenes; the frames of a video, or unrelated images."""

    x: Tensor
    """`[F]`, as `y`: the object's centre."""
    y: Tensor
    radius: Tensor
    """`[F]`"""
    angle: Tensor
    """`[F]` radians."""
    shape: Tensor
    """`[F]` index in `SHAPES`."""
    colour: Tensor
    """`[F]` index in `COLOURS`."""
    texture: Tensor
    """`[F]` index in `TEXTURES`."""
    phase: Tensor
    """`[F]` radians, of the stripes."""
    shade: Tensor
    """`[F, 3]` added to the object's nominal colour."""
    ground: Tensor
    """`[F]` index in `COLOURS`."""
    ground_shade: Tensor
    """`[F, 3]` added to the ground's nominal colour."""
    slope: Tensor
    """`[F, 2]` of the ground's brightness along x and y."""
    light: Tensor
    """`[F]` factor of all colours."""

    def __len__(self) -> int:
        """Return F."""
        return len(self.x)

    def map(self, change: "dict[str, Tensor]") -> Self:
        """Return the scenes with fields replaced; each is spread over the frames."""
        spread = {
            name: value.to(getattr(self, name)).expand_as(getattr(self, name))
            for name, value in change.items()
        }
        return replace(self, **spread)

    def edited(
        self,
        *,
        colour: str | None = None,
        texture: str | None = None,
        shape: str | None = None,
        ground: str | None = None,
    ) -> Self:
        """Return what a correct edit shows: something else is named, all the rest as before.

        Raises:
            ValueError: a word that is not known.
        """
        words = {"colour": colour, "texture": texture, "shape": shape, "ground": ground}
        named = {name: word for name, word in words.items() if word is not None}
        return self.map({name: torch.tensor(_index(name, word)) for name, word in named.items()})

    def __getitem__(self, at: slice | Sequence[int]) -> Self:
        """Return some of the scenes."""
        index = at if isinstance(at, slice) else list(at)
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def words(self, i: int = 0) -> dict[str, str]:
        """Return the words for what scene i shows."""
        return {
            "texture": TEXTURES[int(self.texture[i])],
            "colour": list(COLOURS)[int(self.colour[i])],
            "shape": SHAPES[int(self.shape[i])],
            "ground": list(COLOURS)[int(self.ground[i])],
        }


def _index(name: str, word: str) -> int:
    known = {"shape": SHAPES, "texture": TEXTURES}.get(name, tuple(COLOURS))
    if word not in known:
        raise ValueError(f"want a {name} of {', '.join(known)}, got {word!r}")
    return list(known).index(word)


def caption(
    shape: str, *, texture: str | None = None, colour: str | None = None, ground: str | None = None
) -> str:
    """Return "a [texture] [colour] shape [on ground]"; what is None stays open."""
    words = ["a", texture, colour, shape, *(("on", ground) if ground else ())]
    return " ".join(word for word in words if word)


def draw(n: int, rng: np.random.Generator) -> Scenes:
    """Return n unrelated scenes; the ground is never of the object's colour."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (n, *shape))).float()

    def choice(k: int) -> Tensor:
        return torch.from_numpy(rng.integers(k, size=n))

    colour = choice(len(COLOURS))
    return Scenes(
        x=uniform(-0.4, 0.4),
        y=uniform(-0.4, 0.4),
        radius=uniform(0.36, 0.58),
        angle=uniform(0, 2 * math.pi),
        shape=choice(len(SHAPES)),
        colour=colour,
        texture=choice(len(TEXTURES)),
        phase=uniform(0, 2 * math.pi),
        shade=uniform(-SHADE, SHADE, 3),
        ground=(colour + 1 + choice(len(COLOURS) - 1)) % len(COLOURS),
        ground_shade=uniform(-SHADE, SHADE, 3),
        slope=uniform(-0.15, 0.15, 2),
        light=torch.ones(n),
    )


def captions(scenes: Scenes, rng: np.random.Generator) -> list[str]:
    """Return a caption for each scene, which names texture, colour and ground now and then.

    Args:
        scenes: what is seen.
        rng: decides what is named.
    """
    out = []
    for i in range(len(scenes)):
        words = scenes.words(i)
        kept = {name: word for name, word in words.items() if rng.random() < NAMED[name]}
        out.append(caption(**kept))  # type: ignore[arg-type]
    return out


def video(
    frames: int,
    rng: np.random.Generator,
    *,
    turn: float = 1.2,
    move: float = 0.5,
    grow: float = 0.15,
    light: float = 0.0,
) -> Scenes:
    """Return the frames of one moving object over a ground that stands.

    Args:
        frames: F.
        rng: draws the scene and the motion's direction.
        turn: radians over the whole video.
        move: distance over the whole video.
        grow: by which part the radius changes.
        light: by which part brightness falls, from the first frame to the last.

    Raises:
        ValueError: no frame is asked for.
    """
    if frames < 1:
        raise ValueError(f"want a video of at least one frame, got {frames}")
    one = draw(1, rng)
    t = torch.linspace(-0.5, 0.5, frames) if frames > 1 else torch.zeros(1)
    heading, bend = rng.uniform(0, 2 * math.pi), rng.uniform(-0.2, 0.2)
    scenes = one[[0] * frames]
    return scenes.map(
        {
            "x": 0.5 * one.x + move * t * math.cos(heading),
            "y": 0.5 * one.y + move * t * math.sin(heading) + bend * (4 * t**2 - 0.5),
            "radius": one.radius.clamp(0.42, 0.52) * (1 + grow * t),
            "angle": one.angle + turn * t,
            "light": 1 - light * (t + 0.5),
        }
    )


@dataclass(frozen=True)
class Rendered:
    """Images of scenes, and what is known of every pixel."""

    image: Tensor
    """`[F, 3, S, S]` in [0, 1]."""
    mask: Tensor
    """`[F, S, S]` in [0, 1]: how much of the pixel is object."""
    distance: Tensor
    """`[F, S, S]` to the object's border, below zero inside."""
    place: Tensor
    """`[F, 2, S, S]`: which point of the object is seen, in radii of the object's own frame."""
    stripe: Tensor
    """`[F, S, S]`: where in its period a stripe is, in [-1, 1], zero at its borders."""


def render(scenes: Scenes, size: int = SIZE) -> Rendered:
    """Return the images `[F, 3, size, size]` of scenes; borders are smoothed over a pixel."""
    at = (torch.arange(size) + 0.5) / size * 2 - 1
    Y, X = torch.meshgrid(at, at, indexing="ij")
    dx, dy = X - _each(scenes.x), Y - _each(scenes.y)
    cos, sin, radius = _each(scenes.angle.cos()), _each(scenes.angle.sin()), _each(scenes.radius)
    u, v = (cos * dx + sin * dy) / radius, (cos * dy - sin * dx) / radius
    distance = _distance(_each(scenes.shape), u, v) * radius
    pixel = 2 / size
    mask = torch.sigmoid(-4 * distance / pixel)
    stripe = torch.sin(2 * math.pi * STRIPES * u + _each(scenes.phase))
    sharp = 4 / (2 * math.pi * STRIPES * pixel)  # a border of stripes is as soft as the object's
    dark = torch.sigmoid(sharp * radius * stripe) * (_each(scenes.texture) == 1)
    nominal = torch.tensor(list(COLOURS.values()))
    colour = (nominal[scenes.colour] + scenes.shade).clamp(0, 1)[:, :, None, None]
    below = (nominal[scenes.ground] + scenes.ground_shade)[:, :, None, None]
    below = below + (_each(scenes.slope[:, 0]) * X + _each(scenes.slope[:, 1]) * Y)[:, None]
    painted = torch.lerp(colour, beside(colour, scenes.colour[:, None, None, None]), dark[:, None])
    image = torch.lerp(below.clamp(0, 1), painted, mask[:, None]) * _each(scenes.light)[:, None]
    return Rendered(image.clamp(0, 1), mask, distance, torch.stack([u, v], 1), stripe)


def beside(colour: Tensor, index: Tensor) -> Tensor:
    """Return what stripes have beside a colour: a brighter one beside black, else a darker one.

    Args:
        colour: RGB, shaded or not.
        index: in `COLOURS`, of the word for it; broadcast to `colour`.
    """
    return torch.where(index == list(COLOURS).index("black"), colour + 0.5, 0.3 * colour)


def _each(a: Tensor) -> Tensor:
    return a[:, None, None]


def _distance(shape: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return the distance to the border of shapes of radius about one, below zero inside."""
    circle = (u * u + v * v).sqrt() - 1
    square = torch.maximum(u.abs(), v.abs()) - 0.85
    root = math.sqrt(3)
    triangle = torch.maximum((root * u.abs() + v) / 2, -v) - 0.6
    return torch.where(shape == 0, circle, torch.where(shape == 1, square, triangle))


def control(scenes: Scenes, kind: str, size: int = SIZE) -> Tensor:
    """Return a control of scenes, `[F, 3, size, size]` in [0, 1].

    Args:
        scenes: what is seen.
        kind: `edges` of the object and of its stripes; `depth`, a cushion before a wall;
            `segmentation`, object or not; `pose`, a line from the centre to the object's front,
            which tells neither shape nor texture.
        size: S.

    Raises:
        ValueError: another kind.
    """
    if kind not in CONTROLS:
        raise ValueError(f"want a control of {', '.join(CONTROLS)}, got {kind!r}")
    seen, radius = render(scenes, size), _each(scenes.radius)
    thin = 1.4 / size
    if kind == "edges":
        slope = 2 * math.pi * STRIPES / radius  # of a stripe, at its border
        border = torch.exp(-((seen.distance / thin) ** 2))
        stripes = torch.exp(-((seen.stripe / slope / thin) ** 2)) * seen.mask
        out = torch.maximum(border, stripes * (_each(scenes.texture) == 1))
    elif kind == "depth":
        out = 0.2 + seen.mask * (0.4 + 0.4 * (-seen.distance / radius).clamp(0, 1))
    elif kind == "segmentation":
        out = seen.mask
    else:
        u, v = seen.place.unbind(1)
        beside = torch.hypot(u - u.clamp(0, 0.8), v) * radius
        out = torch.exp(-((beside / (2 * thin)) ** 2))
    return out[:, None].expand(-1, 3, -1, -1)
