"""What the command line refuses, in one line and with nothing written; and what it lists."""

import shlex

import pytest
from tiny_book import batch_process, everything_in

from core.batch.cli import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("run nosuch", "unknown chapter 'nosuch': the book has tiny"),
        ("refresh tiny nosuch", "unknown chapter 'nosuch'"),
        ("run tiny --scale huge", "unknown scale 'huge': chapter tiny has cpu, long"),
        (
            "run tiny -p runs 3",
            "unknown parameter 'runs': chapter tiny has seed, rate, widths, name",
        ),
        ("run tiny -p seed 1.5", "parameter seed wants int, got '1.5'"),
        ("run tiny -p seed True", "parameter seed wants int"),
        ("run tiny -p seed 007", "parameter seed wants int"),
        ("run tiny -p rate nan", "parameter rate wants float"),
        ("run tiny -p widths [1,2.0]", "parameter widths wants list[int]"),
        ("run tiny --scale long --evidence -p seed 1", "evidence is of a scale other than cpu"),
        ("run tiny --evidence", "evidence is of a scale other than cpu"),
        (
            "run tiny --out book/tiny.py/below",
            "cannot write to book/tiny.py/below: Not a directory",
        ),
        ("run tiny --out ''", "--out is empty: name a folder"),
        ("run tiny -p seed 1 -p seed 1", "parameter seed is given twice"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(book, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(book)
    before = everything_in(book)
    assert main(shlex.split(arguments)) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.startswith("refused: ")
    assert told.count("\n") == 1
    assert everything_in(book) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("run", "Missing argument 'CHAPTER'"),
        ("run tiny --timeout -1", "Invalid value for '--timeout': -1 is not in the range"),
        ("run tiny --sale long", "No such option '--sale'"),
        ("rnu tiny", "No such command 'rnu'"),
    ],
)
def test_what_is_asked_wrongly_is_said_with_the_usage(capsys, arguments, said):
    assert main(shlex.split(arguments)) == 2
    usage, *_, last = capsys.readouterr().err.splitlines()
    assert usage.startswith("Usage: python -m core.batch ")
    assert last.startswith(f"Error: {said}")


def test_a_wrong_scale_file_is_refused(book, monkeypatch, capsys):
    monkeypatch.chdir(book)
    (book / "book" / "scales" / "tiny" / "long.yaml").write_text("rate: 1e-3\n")
    assert main(["run", "tiny", "--scale", "long"]) == 2
    told = capsys.readouterr().err
    # YAML takes 1e-3 for a string
    assert "book/scales/tiny/long.yaml: parameter rate wants float, got '1e-3'" in told
    assert "write 1.0e-3" in told


def test_away_from_a_book_it_says_where_to_go(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["list"]) == 2
    assert "no book/_toc.yml" in capsys.readouterr().err


def test_the_process_ends_with_the_exit_code(book):
    ended = batch_process(book, "run", "nosuch")
    assert ended.returncode == 2
    assert ended.stderr == "refused: unknown chapter 'nosuch': the book has tiny\n"


def test_list_shows_title_scales_and_typed_parameters(book, monkeypatch, capsys):
    monkeypatch.chdir(book / "book")  # from any folder of the book
    assert main(["list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "tiny: A die is fair",
        "  scales: cpu, long",
        "  seed: int = 0  # base seed",
        "  rate: float = 1.0",
        "  widths: list[int] = [1, 2]",
        "  name: str = 'die'",
        "  device: str = 'auto'",
    ]


def test_without_a_command_it_shows_those_there_are(capsys):
    assert main([]) == 2
    assert "refresh" in capsys.readouterr().err


def test_a_help_is_no_error(capsys):
    assert main(["--help"]) == 0
    assert "refresh" in capsys.readouterr().out
