"""What the training commands have in common: how they are asked, what they refuse, how they end.

Exit codes: 0 done; 1 began and failed; 2 refused, and nothing was written; 130 interrupted, by
Ctrl-C or by SIGTERM.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import torch

from core.train.folder import Diverged


class Declined(Exception):
    """What is asked cannot be done; nothing was written."""


@contextmanager
def declining(*kinds: type[Exception]) -> Iterator[None]:
    """Take errors of these kinds for a refusal."""
    try:
        yield
    except kinds as error:
        raise Declined(str(error)) from error


def option(*names: str, **how: Any) -> Any:
    """Return a click option that shows its default, if it has one."""
    return click.option(*names, show_default=how.get("default") is not None, **how)


def deterministic() -> None:
    """Have the same bits in every run on a GPU; call it before the first number is computed."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def end_of(command: click.Command, arguments: list[str] | None, name: str, *, memory: str) -> int:
    """Run a command and return its exit code; what went wrong is told in a line.

    Args:
        command: returns None, or a code.
        arguments: those of this process where None.
        name: as people call it, `python -m core.vrpo.train`.
        memory: what to do where memory is short.
    """
    try:
        return command.main(arguments, name, standalone_mode=False) or 0
    except Declined as why:
        return _told(2, f"refused: {why}")
    except click.ClickException as wrong:
        return _told(2, f"refused: {wrong.format_message()}")
    except torch.OutOfMemoryError as error:
        return _told(1, f"failed: {str(error).splitlines()[0]}: {memory}")
    except Diverged as found:
        return _told(1, f"diverged: {found}")
    except (ValueError, OSError) as error:
        return _told(1, f"failed: {error}")
    except (KeyboardInterrupt, click.Abort):
        return _told(130, "interrupted: --resume goes on from the last checkpoint")


def _told(code: int, line: str) -> int:
    click.echo(line, err=True)
    return code


def take_sigterm() -> None:
    """Take a SIGTERM for a Ctrl-C, from now on."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
