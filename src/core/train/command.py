"""What training commands have in common beside `core.command`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from core.command import Failed, first_line
from core.train.folder import Diverged

RESUME = "--resume goes on from the last checkpoint"
"""What to do after an interruption."""


def deterministic() -> None:
    """Have the same bits in every run on a GPU; call it before the first number is computed."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


@contextmanager
def training(*, memory: str) -> Iterator[None]:
    """Tell in a line that memory or the disk is short, or that a run diverged; decorates a command.

    Args:
        memory: what to do where it is short.

    Raises:
        Failed: one of the three.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise Failed(f"{first_line(error)}: {memory}") from error
    except SafetensorError as error:  # what it makes of a full disk
        raise Failed(f"weights could not be written: {first_line(error)}") from error
    except Diverged as found:
        raise Failed(f"it diverged: {found}") from found
