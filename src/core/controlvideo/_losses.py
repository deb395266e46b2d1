"""The losses of a stage of `core.controlvideo.pretrain`, as a table."""

import csv
import time
from pathlib import Path

import numpy as np


class Log:
    """The loss of a stage, its mean over each 20 steps, as a table."""

    EVERY = 20

    def __init__(self, path: Path) -> None:
        """Name the file."""
        self.path, self.losses, self.began = path, [], time.monotonic()

    def __enter__(self) -> "Log":
        """Write the head."""
        self.file = self.path.open("w", newline="")
        self.table = csv.writer(self.file)
        self.table.writerow(["step", "loss", "seconds"])
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self.file.close()

    def take(self, loss: float) -> None:
        """Take the loss of one step."""
        self.losses.append(loss)
        if len(self.losses) % self.EVERY == 0:
            seconds = time.monotonic() - self.began
            self.table.writerow([len(self.losses), f"{self.recent:.5f}", f"{seconds:.0f}"])
            self.file.flush()

    @property
    def recent(self) -> float:
        """The mean of the last steps."""
        return float(np.mean(self.losses[-self.EVERY :]))
