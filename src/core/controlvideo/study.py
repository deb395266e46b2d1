r"""Variants of the method on videos whose correct edit is known.

A `Case` is a source video with an edit; an `Arm` is a variant: what frames see of each other, what
is tuned, where the branches are. `Bench` tunes an arm on a case and scores its edits. All arms of a
case start from the same noise and are tuned on the same noise, so that differences are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from core.controlvideo import scenes as scene
from core.controlvideo.adapter import WHERE, ControlVideoAdapter
from core.controlvideo.attention import Place, Sees
from core.controlvideo.metrics import Score, score
from core.controlvideo.norms import Norm
from core.controlvideo.pipeline import ControlVideoPipeline, Start
from core.controlvideo.tuning import Recipe, Trained, tune
from core.stats import student
from core.train.seeds import generator


@dataclass(frozen=True)
class Case:
    """A source video, what is said of it, and the edit that is asked for."""

    source: scene.Scenes
    change: dict[str, str]
    """What the edit names anew, as `Scenes.edited` takes it."""
    named: tuple[str, ...] = ("texture", "colour")
    """What prompts say besides the shape."""

    @property
    def truth(self) -> scene.Scenes:
        """The correct edit."""
        return self.source.edited(**self.change)

    @property
    def source_prompt(self) -> str:
        """The caption of the source."""
        return self._says(self.source)

    @property
    def prompt(self) -> str:
        """The caption of the edit."""
        return self._says(self.truth)

    @property
    def image(self) -> Tensor:
        """The source's frames, `[F, 3, S, S]`."""
        return scene.render(self.source).image

    def control(self, kind: str = "edges") -> Tensor:
        """Return a control of the source, `[F, 3, S, S]`."""
        return scene.control(self.source, kind)

    def _says(self, seen: scene.Scenes) -> str:
        words = seen.words()
        return scene.caption(words["shape"], **{name: words[name] for name in self.named})


def draw_case(seed: int, index: int, frames: int, **motion: float) -> Case:
    """Return a video and an edit of its object's colour to another that the ground has not.

    Args:
        seed: of the study.
        index: of the case; it gives the same one whatever cases are drawn besides.
        frames: F.
        **motion: as of `scenes.video`.
    """
    rng = generator(seed, 100, index)
    source = scene.video(frames, rng, **motion)
    words = source.words()
    free = [c for c in scene.COLOURS if c not in (words["colour"], words["ground"])]
    return Case(source, {"colour": free[int(rng.integers(len(free)))]})


@dataclass(frozen=True)
class Arm:
    """A variant of the method."""

    sees: Sees = "key"
    norm: Norm = "frame"
    keys: tuple[int, ...] = (0,)
    steps: int = 0
    """Of tuning; 0 leaves the base as it is."""
    trained: Trained = "both"
    """What of the adapter is tuned."""
    projections: tuple[str, ...] = ("to_out",)
    """Of self-attention, that have something to tune."""
    branches: bool = True
    where: tuple[str, ...] = WHERE
    place: Place = "parallel"
    positions: bool = False
    copied: bool = True
    """Branches start from self-attention."""

    def __post_init__(self) -> None:
        """Refuse what cannot be tuned."""
        if self.steps and not self.branches and self.trained != "projections":
            raise ValueError(
                f"want trained='projections' of a tuned arm without branches, got {self.trained!r}"
            )


PER_FRAME = Arm(sees="own", branches=False)
KEY_FRAME = Arm(branches=False)


@dataclass
class Bench:
    """Edits cases with arms on one base model."""

    pipe: ControlVideoPipeline
    steps: int = 20
    """Of inversion, and of the sampler after it."""
    drawn_steps: int | None = None
    """Of the sampler where it starts from drawn noise; None: as many."""
    guidance: float = 2.0
    learning_rate: float = 1e-3
    """Of tuning. (The paper's 3e-5 is for a model of 1.2 thousand million parameters.)"""
    control_scale: float | Sequence[float] = 1.0
    kinds: tuple[str, ...] = ("edges",)
    """Of controls, one for each ControlNet of the pipeline."""

    def prepare(self, case: Case, arm: Arm, seed: int = 0) -> list[float]:
        """Give the pipeline the arm's adapter, tuned on the source; return the tuning losses."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.pipe.adapter = ControlVideoAdapter.for_models(
                self.pipe.unet,
                self.pipe.controlnet,
                where=arm.where,
                place=arm.place,
                positions=arm.positions,
                projections=arm.projections,
                copied=arm.copied,
            )
        if not arm.steps:
            return []
        recipe = Recipe(
            steps=arm.steps,
            learning_rate=self.learning_rate,
            trained=arm.trained,
            norm=arm.norm,
            sees=arm.sees,
            keys=arm.keys,
            branches=arm.branches,
            seed=seed,
        )
        return tune(
            self.pipe,
            case.image,
            case.source_prompt,
            self.controls(case),
            recipe,
            control_scale=self.control_scale,
        )

    def controls(self, case: Case) -> Any:
        """Return what the pipeline takes for a control."""
        found = [case.control(kind) for kind in self.kinds]
        return found if len(found) > 1 else found[0]

    def edit(
        self, case: Case, arm: Arm, seed: int = 0, *, start: Start = "inverted", **options: Any
    ) -> Tensor:
        """Return the frames of the edit, `[F, 3, S, S]`, with the adapter that is there.

        They are on the CPU, as cases and what `score` compares with.

        Args:
            case: source and edit.
            arm: what frames see of each other.
            seed: of the start noise, where it is drawn.
            start: where sampling begins.
            **options: further ones of the pipeline's call.
        """
        drawn = None if start == "inverted" else self.drawn_steps
        out = self.pipe(
            case.prompt,
            self.controls(case),
            source=case.image,
            source_prompt=case.source_prompt,
            start=start,
            num_inference_steps=drawn or self.steps,
            guidance_scale=self.guidance,
            control_scale=self.control_scale,
            norm=arm.norm,
            sees=arm.sees,
            keys=arm.keys,
            branches=arm.branches,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
            **options,
        )
        return out.frames.cpu()

    def score(
        self,
        case: Case,
        arm: Arm,
        seeds: Sequence[int] = (0,),
        starts: Sequence[Start] = ("inverted",),
    ) -> dict[Start, list[Score]]:
        """Tune an arm on a case and score its edits, one for each start and seed.

        An arm that is not tuned, from an inversion, has nothing random: it is edited once.
        """
        found: dict[Start, list[Score]] = {start: [] for start in starts}
        for seed in seeds:
            left: list[Start] = [s for s in starts if arm.steps or s != "inverted" or not found[s]]
            if left:
                self.prepare(case, arm, seed)
            for start in left:
                found[start].append(score(self.edit(case, arm, seed, start=start), case.truth))
        return {
            start: each if len(each) > 1 else each * len(seeds) for start, each in found.items()
        }


def compare(
    bench: Bench,
    cases: Sequence[Case],
    arms: Mapping[Any, Arm],
    seeds: Sequence[int],
    starts: Sequence[Start] = ("inverted",),
) -> dict[str, dict[Any, dict[str, np.ndarray]]]:
    """Return the scores of arms, start -> arm -> name of the number -> `[cases, seeds]`.

    Each case draws its own noise from each seed, so that an interval over cases has the draw's part
    in it, too; all arms of a case and seed share it.

    Raises:
        ValueError: no cases, no seeds or no starts.
    """
    if not cases or not seeds or not starts:
        raise ValueError(
            f"want at least one case, seed and start, got {len(cases)} cases, {len(seeds)} seeds "
            f"and {len(starts)} starts"
        )
    out: dict[str, dict[Any, dict[str, np.ndarray]]] = {start: {} for start in starts}
    for name, arm in arms.items():
        scored = [
            bench.score(case, arm, [_own(seed, i) for seed in seeds], starts)
            for i, case in enumerate(cases)
        ]
        for start in starts:
            rows = [[s.asdict() for s in each[start]] for each in scored]
            out[start][name] = {
                key: np.array([[each[key] for each in row] for row in rows]) for key in rows[0][0]
            }
    return out


def _own(seed: int, case: int) -> int:
    """Return the seed of a case's noise."""
    return int(generator(seed, 101, case).integers(2**31))


class Resolution(TypedDict):
    """What a ledger's `record` takes for how much a run can tell."""

    error: float
    needs: float


@dataclass(frozen=True)
class Difference:
    """A mean over cases, and half of its 95 % interval."""

    mean: float
    half: float

    def __str__(self) -> str:
        """Return "mean ± half", with digits enough to see whether zero is left out."""
        digits, mean = 3, abs(self.mean)
        while digits < 6 and mean > self.half and round(mean, digits) <= round(self.half, digits):
            digits += 1
        return f"{self.mean:+.{digits}f} ± {self.half:.{digits}f}"

    @property
    def below(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.mean + self.half < 0

    @property
    def above(self) -> bool:
        """Whether it lies above."""
        return self.mean - self.half > 0

    def resolved(self, least: float) -> Resolution:
        """Return how much a run can tell of this difference.

        It tells that there is one where zero lies outside the interval, and that there is none that
        matters where the whole interval lies within `least` of zero.

        Args:
            least: the least difference that would matter.
        """
        if self.below or self.above:
            return {"error": self.half, "needs": abs(self.mean)}
        return {"error": abs(self.mean) + self.half, "needs": least}


def difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """Return the mean of a - b over cases, with Student's 95 % interval.

    Args:
        a: `[cases, seeds]`; seeds of one case are averaged first, they share the video.
        b: `[cases, seeds]`, of the same cases and seeds.

    Raises:
        ValueError: fewer than two cases, which have no spread.
    """
    each = (a - b).mean(1)
    if len(each) < 2:
        raise ValueError(f"want at least two cases for an interval, got {len(each)}")
    return Difference(*student(each))


def referred(case: Case, rng: np.random.Generator, images: int = 4) -> tuple[Tensor, scene.Scenes]:
    """Return reference images of an edit, and the edit that looks like them.

    They show objects as the prompt asks for, anywhere, on grounds that are shades of one colour,
    which the prompt does not name.

    Args:
        case: with prompts that do not name the ground.
        rng: of where the objects are, how large and of what shade.
        images: N.

    Returns:
        Images `[N, 3, S, S]`, and the correct edit on a ground of that colour.
    """
    words = case.truth.words()
    words["ground"] = "blue" if words["colour"] != "blue" else "white"
    shown = scene.draw(images, rng).edited(**words)
    flat = {"ground_shade": torch.zeros(3), "slope": torch.zeros(2)}
    return scene.render(shown).image, case.truth.edited(ground=words["ground"]).map(flat)


def freer(case: Case, named: Sequence[str]) -> Case:
    """Return the case with prompts that name other things; fewer leave more open."""
    return replace(case, named=tuple(named))
