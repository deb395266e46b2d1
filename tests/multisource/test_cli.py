import json
import subprocess
import sys

import numpy as np
import pytest

from core.multisource.cli import main


@pytest.fixture
def data(tmp_path):
    """A file of three sources that share `b` and differ in `a`."""
    rng = np.random.default_rng(1)
    path = tmp_path / "data.csv"
    lines = ["site,a,b"]
    for k, site in enumerate(("oslo", "rome", "lima")):
        lines += [f"{site},{a + 9 * k:.4f},{b:.4f}" for a, b in rng.standard_normal((30, 2))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_command_says_what_to_pool(data, capsys):
    assert main(["advise", str(data), "--by", "site"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "keep apart" in rows["a"]
    assert "pool" in rows["b"]
    assert "3 sources of 30 samples. Verdict: pool in part." in out


def test_json_has_the_estimates(data, capsys):
    asked = [
        "advise",
        str(data),
        "--by",
        "site",
        "--json",
        "--columns",
        "b",
        "--sources",
        "oslo,rome",
    ]
    assert main(asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sources"] == {"oslo": 30, "rome": 30}
    assert list(found["columns"]) == ["b"]
    values = [float(line.split(",")[2]) for line in data.read_text().splitlines()[1:31]]
    assert found["columns"]["b"]["single"]["oslo"] == pytest.approx(np.mean(values))


def test_other_delimiters_marks_and_blank_lines_are_read(tmp_path, capsys):
    path = tmp_path / "data.csv"
    path.write_text("\ufeffk; x\n1;2\n1;3\n\n2;2.5\n2;4\n", encoding="utf-8")
    assert main(["advise", str(path), "--by", "k", "--delimiter", ";", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["columns"]) == ["x"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", [], "want a first line with the columns' names, got none"),
        ("site,a\n", [], "want samples, got a first line only"),
        ("place,a\nx,1\n", [], "no column site; there are place, a"),
        ("site,a\nx,1\ny,red\n", [], "line 3: want a number in column 'a', got 'red': leave"),
        ("site,a\nx,1\ny,\n", [], "line 3: want a number in column 'a', got '': leave"),
        ("site,a\nx,1\ny,nan\n", [], "want a number in column 'a', got 'nan'"),
        ("site,a\nx,1,2\n", [], "line 2: want 2 values, got 3"),
        ("site,a\n,1\n", [], "line 2: want a source in column 'site', got none"),
        ("site,a,a\nx,1,2\n", [], "want each column once, got a twice"),
        ("site\nx\n", [], "want columns of numbers beside 'site'"),
        ("site,a\nx,1\nx,2\n", [], "two sources or more to compare, got one source, x"),
        ("site,a\nx,1\nx,2\ny,3\n", [], "two samples of each source, to tell how much it varies"),
        ("site,a\nx,1\nx,2\n", ["--sources", "x,z"], "no sample is of source z; there are x"),
        ("site,a\nx,1\nx,2\n", ["--columns", "b"], "no column b; there are site, a"),
        (b"site,a\n\xff,1\n", [], "want text in UTF-8"),
    ],
)
def test_what_is_refused_is_said_in_one_line(tmp_path, capsys, text, options, message):
    path = tmp_path / "data.csv"
    if isinstance(text, bytes):
        path.write_bytes(text)
    else:
        path.write_text(text, encoding="utf-8")
    assert main(["advise", str(path), "--by", "site", *options]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("refused: ")
    assert said.err.count("\n") == 1
    assert not said.out


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["nowhere.csv"], "Invalid value for 'DATA': File 'nowhere.csv' does not exist."),
        ([], "Missing argument 'DATA'."),
        ([__file__, "--delimiter", "::"], "Invalid value for --delimiter: want one character"),
    ],
)
def test_what_is_asked_wrongly_is_said_with_the_usage(capsys, asked, message):
    assert main(["advise", "--by", "site", *asked]) == 2
    usage, *_, last = capsys.readouterr().err.splitlines()
    assert usage == "Usage: python -m core.multisource advise [OPTIONS] DATA"
    assert last.startswith(f"Error: {message}")


def test_without_a_command_it_shows_those_there_are(capsys):
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("Usage: python -m core.multisource [OPTIONS] COMMAND")


def test_the_module_runs(data):
    done = subprocess.run(
        [sys.executable, "-m", "core.multisource", "advise", str(data), "--by", "nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"refused: {data}: no column nowhere; there are site, a, b\n"
