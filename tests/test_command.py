"""How commands are asked and how they end: first one of its own, then those of all rooms."""

import signal
from importlib import import_module

import click
import pytest

from core.command import (
    Failed,
    Refused,
    end_of,
    first_line,
    option,
    options,
    refusing,
    take_sigterm,
)

ERRORS = [
    (Refused("no such file"), 2, "refused: no such file\n"),
    (Failed("no such luck"), 1, "failed: no such luck\n"),
    (ValueError("want one"), 1, "failed: want one\n"),
    (OSError(28, "No space left on device"), 1, "failed: [Errno 28] No space left on device\n"),
]
COMMANDS = {
    "core.batch": ("core.batch.cli", "list"),
    "core.bench": ("core.bench", ""),
    "core.controlvideo": ("core.controlvideo.__main__", "tune in.mp4 --out out"),
    "core.controlvideo.pretrain": ("core.controlvideo.pretrain", "--out out"),
    "core.kernels.aot": ("core.kernels.aot", ""),
    "core.kernels.bench": ("core.kernels.bench", "adaln"),
    "core.multisource": ("core.multisource.cli", f"advise {__file__} --by site"),
    "core.mup": ("core.mup.__main__", "explain torch.nn:Linear"),
    "core.mup.encode": ("core.mup.encode", "--images in --out out --vae none"),
    "core.mup.train": ("core.mup.train", "--data in --out out"),
    "core.vrpo.train": ("core.vrpo.train", "--model in --data in --out out"),
}
"""Module that has the command, and what it may be asked, by name."""


def stopping(error):
    @click.command()
    @options(option("--steps", type=int, default=3, help="How many."), option("--name"))
    def cli(steps, name):
        if error is not None:
            raise error
        click.echo(f"{steps} {name}")
        return 1 if name == "wrong" else None

    return cli


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        *ERRORS,
        (KeyboardInterrupt(), 130, "\ninterrupted: go on\n"),  # click ends the line of a Ctrl-C
        (KeyboardInterrupt("out is as it was"), 130, "\ninterrupted: out is as it was\n"),
        (click.FileError("a.csv", "torn"), 1, "Error: Could not open file 'a.csv': torn\n"),
    ],
    ids=repr,
)
def test_a_command_that_goes_wrong_ends_with_its_code_and_a_line(capsys, error, code, said):
    assert end_of(stopping(error), [], "it", resume="go on") == code
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", said)


def test_a_command_that_goes_well_ends_in_0_or_in_what_it_returns(capsys):
    assert end_of(stopping(None), ["--name", "a"], "it") == 0
    assert end_of(stopping(None), ["--name", "wrong"], "it") == 1
    assert capsys.readouterr().out == "3 a\n3 wrong\n"


def test_an_error_that_nobody_foresaw_keeps_its_traceback():
    with pytest.raises(KeyError, match="surprise"):
        end_of(stopping(KeyError("surprise")), [], "it")


def test_a_wrong_option_is_told_with_the_usage(capsys):
    assert end_of(stopping(None), ["--steps", "many"], "python -m it") == 2
    usage, *_, last = capsys.readouterr().err.splitlines()
    assert usage == "Usage: python -m it [OPTIONS]"
    assert last == "Error: Invalid value for '--steps': 'many' is not a valid integer."


def test_an_option_shows_its_default_and_options_keep_their_order(capsys):
    assert end_of(stopping(None), ["--help"], "it") == 0
    shown = capsys.readouterr().out
    assert "How many.  [default: 3]" in shown
    assert shown.index("--steps") < shown.index("--name")


def test_only_the_named_errors_are_refusals():
    with pytest.raises(Refused, match="small"), refusing(ValueError, OSError):
        raise ValueError("small")
    with pytest.raises(KeyError), refusing(ValueError, OSError):
        raise KeyError("other")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one\ntwo"), "one"),
        (EOFError(), "no reason given"),
    ],
)
def test_the_first_line_of_an_error_is_there_even_where_it_says_nothing(error, line):
    assert first_line(error) == line


def test_a_sigterm_is_a_ctrl_c():
    before = signal.getsignal(signal.SIGTERM)
    try:
        take_sigterm()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(params=COMMANDS)
def command(request, monkeypatch):
    """A command of a room: its name, and a call that lets it raise an error where it would work."""
    where, asked = COMMANDS[request.param]
    module = import_module(where)

    def ends(*more, error=None):
        def work(**_):
            if error is not None:
                raise error

        inner = module.cli
        if isinstance(inner, click.Group):
            inner = inner.commands[asked.split()[0]]
        monkeypatch.setattr(inner, "callback", work)
        # `main` of a room's bench is what `core.bench` calls
        main = module.command_line if request.param == "core.kernels.bench" else module.main
        return main([*asked.split(), *more])

    return request.param, ends


def test_every_command_ends_in_0_where_nothing_is_wrong(command):
    _, ends = command
    assert ends() == 0


def test_every_command_tells_a_wrong_option_with_its_usage(command, capsys):
    name, ends = command
    assert ends("--nonsense") == 2
    usage, *_, last = capsys.readouterr().err.splitlines()
    assert usage.startswith(f"Usage: python -m {name} ")
    assert last.startswith("Error: No such option '--nonsense'")


@pytest.mark.parametrize(("error", "code", "said"), ERRORS, ids=repr)
def test_every_command_tells_what_goes_wrong_in_a_line(command, capsys, error, code, said):
    _, ends = command
    assert ends(error=error) == code
    assert capsys.readouterr().err == said


def test_every_command_ends_in_130_where_it_is_interrupted(command, capsys):
    _, ends = command
    assert ends(error=KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.startswith("\ninterrupted")
