"""How a training command ends: its exit code, and one line that says why."""

import signal

import click
import pytest
import torch

from core.train.command import Declined, declining, end_of, option, take_sigterm
from core.train.folder import Diverged


def command(error):
    @click.command()
    @option("--steps", type=int, default=3, help="How many.")
    def cli(steps):
        if error is not None:
            raise error
        click.echo(str(steps))

    return cli


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (Declined("no such file"), 2, "refused: no such file\n"),
        (click.BadParameter("not that"), 2, "refused: Invalid value: not that\n"),
        (Diverged("a loss of nan"), 1, "diverged: a loss of nan\n"),
        (ValueError("want one"), 1, "failed: want one\n"),
        (OSError("full"), 1, "failed: full\n"),
        (torch.OutOfMemoryError("none left\nat all"), 1, "failed: none left: take less\n"),
        (KeyboardInterrupt(), 130, "interrupted: --resume goes on from the last checkpoint\n"),
    ],
)
def test_a_command_ends_with_its_code_and_a_line(capsys, error, code, said):
    assert end_of(command(error), [], "it", memory="take less") == code
    told = capsys.readouterr()
    assert told.err.lstrip("\n") == said  # click ends the line of a Ctrl-C
    assert told.out == ("3\n" if error is None else "")


def test_an_option_shows_its_default(capsys):
    assert end_of(command(None), ["--help"], "it", memory="") == 0
    assert "How many.  [default: 3]" in capsys.readouterr().out


def test_only_the_named_errors_are_refusals():
    with pytest.raises(Declined, match="small"), declining(ValueError):
        raise ValueError("small")
    with pytest.raises(KeyError), declining(ValueError):
        raise KeyError("other")


def test_a_sigterm_is_a_ctrl_c():
    before = signal.getsignal(signal.SIGTERM)
    try:
        take_sigterm()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
