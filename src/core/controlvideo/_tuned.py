"""A tuning in a folder, which can be gone on with; see `core.train.folder` for what is in it."""

import dataclasses
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from core.controlvideo._made import Made, Scene
from core.controlvideo.pipeline import ControlVideoPipeline
from core.controlvideo.tuning import Recipe, Tuner
from core.files import whole_folder
from core.provenance import provenance
from core.train.checkpoint import checkpoints, plain
from core.train.folder import Folder

RESULT = "adapter"


class Tuning:
    """Ready to begin, or to go on."""

    def __init__(
        self, made: Made, scene: Scene, recipe: Recipe, out: Path, *, device: torch.device
    ) -> None:
        """Load the models, and take up the last checkpoint.

        Raises:
            ValueError, OSError: something cannot be loaded, or the folder is of another run.
        """
        self.made, self.recipe = made, recipe
        self.folder = Folder(out, command="core.controlvideo", result=RESULT)
        self.identity = made.identity() | {
            name: plain(value) for name, value in dataclasses.asdict(recipe).items()
        }
        self.identity.pop("checkpointing")  # a run may go on with less memory
        found = checkpoints(out / "checkpoints")
        done = int(found[-1].stem.removeprefix("step-")) if found else 0
        self.finished = self.folder.check(self.identity, done=done, steps=recipe.steps)
        adapter = self.folder.result if self.finished else None
        self.pipe = scene.checkpoint.load(adapter, device=device)
        if not self.finished:
            self.tuner = Tuner(
                self.pipe,
                scene.source.frames,
                made.prompt,
                scene.control,
                recipe,
                control_scale=scene.scales if len(scene.scales) > 1 else scene.scales[0],
            )
            if found:
                self.tuner.resume(found[-1])

    def tune(self, *, save_every: int) -> ControlVideoPipeline:
        """Take all steps that are left, write the adapter, and return the pipeline with it.

        Raises:
            Diverged: the loss is no number.
            OSError: something could not be written.
        """
        if not self.finished:
            with self.folder.telling(self._record, first=True):
                self.folder.begin(self.tuner.done, (), self._record("running"))
                self._steps(save_every)
                self._write()
        return self.pipe

    def _steps(self, save_every: int) -> None:
        began, kept = time.monotonic(), self.folder.out / "checkpoints"
        with closing(self.tuner.run(kept, save_every=save_every)) as losses:
            for loss in losses:
                now = time.monotonic()
                seconds, began = round(now - began, 4), now
                self.folder.add({"step": self.tuner.done, "loss": loss, "seconds": seconds})

    def _write(self) -> None:
        if self.folder.result.exists():
            return
        with whole_folder(self.folder.result) as new:
            try:
                # half the size, 0.14 GB at SD 1.5's; and what is edited now is what is kept
                self.pipe.adapter.half().save_pretrained(new)
                self.pipe.adapter.float()
            except SafetensorError as error:  # what it makes of a full disk
                raise OSError(f"{self.folder.result} could not be written: {error}") from error
            self.made.save(new)

    def _record(
        self, status: str, seconds: float | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        return {
            "status": status,
            "reason": reason,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "steps": self.recipe.steps,
            "done": self.tuner.done,
            "seconds": seconds,
            "identity": self.identity,
            "provenance": provenance(Path(__file__).parent),
        }
