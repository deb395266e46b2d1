"""What the commands of all rooms have in common: how they are asked, and how they end.

Exit codes: 0 done; 1 began and failed; 2 refused, or asked wrongly, and nothing was written; 130
interrupted. On standard error a line says why; who asked wrongly gets the usage too.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


class Refused(Exception):
    """What is asked cannot be done; nothing was written. Its text is one line."""


class Failed(Exception):
    """What is asked began, and could not be done. Its text is one line."""


@contextmanager
def refusing(*kinds: type[Exception]) -> Iterator[None]:
    """Take errors of these kinds for a refusal."""
    try:
        yield
    except kinds as error:
        raise Refused(str(error)) from error


def option(*names: str, **how: Any) -> Any:
    """Return a click option that shows its default, if it has one."""
    return click.option(*names, show_default=how.get("default") is not None, **how)


def options(*chosen: Callable[..., Any]) -> Callable[..., Any]:
    """Return the decorator that is all of these."""

    def together(function: Callable[..., Any]) -> Callable[..., Any]:
        for one in reversed(chosen):
            function = one(function)
        return function

    return together


def first_line(said: object) -> str:
    """Return the first line of what an error says."""
    return (str(said).strip().splitlines() or ["no reason given"])[0]


def end_of(
    command: click.Command, arguments: list[str] | None, name: str, *, resume: str = ""
) -> int:
    """Run a command and return its exit code; what went wrong is told in a line.

    Args:
        command: returns None, or a code.
        arguments: those of this process where None.
        name: as people call it, `python -m core.vrpo.train`.
        resume: how to go on after an interruption; one that has a text says it itself.
    """
    try:
        return command.main(arguments, name, standalone_mode=False) or 0
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except Refused as why:
        return _told(2, f"refused: {why}")
    except (Failed, ValueError, OSError) as error:
        return _told(1, f"failed: {error}")
    except (KeyboardInterrupt, click.Abort) as stop:  # click makes the second of the first
        hint = str(stop.__cause__ or "") or resume
        return _told(130, f"interrupted: {hint}" if hint else "interrupted")


def take_sigterm() -> None:
    """Take a SIGTERM for a Ctrl-C, from now on."""
    signal.signal(signal.SIGTERM, _interrupt)


def _told(code: int, line: str) -> int:
    click.echo(line, err=True)
    return code


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
