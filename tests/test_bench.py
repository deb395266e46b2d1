import json
from types import SimpleNamespace

import pytest

from core import bench

RESULTS = {"one step, T = 100": {"loop (s)": 1.2, "blocked (s)": 0.05, "ratio": 24.0, "on": "cpu"}}


@pytest.fixture
def room(monkeypatch):
    """A room `tiny` whose bench returns what a test puts in `room.results`."""
    tiny = SimpleNamespace(results=RESULTS)
    tiny.main = lambda: tiny.results
    monkeypatch.setattr(bench, "import_module", {"core.tiny.bench": tiny}.__getitem__)
    monkeypatch.setattr(bench, "found", lambda: ["tiny"])
    return tiny


def test_a_bench_is_printed_and_written_with_its_provenance(room, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert bench.main([]) == 0
    shown = capsys.readouterr().out
    assert "24×" in shown  # noqa: RUF001
    assert "0.05" in shown
    written = json.loads((tmp_path / "_build/bench/tiny.json").read_text())
    assert written["bench"] == "tiny"
    assert written["results"] == RESULTS
    assert {"commit", "cpu", "threads"} <= set(written["provenance"])


def test_an_unknown_bench_is_refused_with_those_there_are(capsys):
    assert bench.main(["nosuch"]) == 2
    said = capsys.readouterr().err
    assert "'nosuch' is not" in said
    assert all(name in said for name in bench.found())


def test_a_room_with_a_bench_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "HERE", tmp_path)
    for name in ("mup", "mesa", "lab"):
        (tmp_path / name).mkdir()
    for name in ("mup", "mesa"):
        (tmp_path / name / "bench.py").touch()
    assert bench.found() == ["mesa", "mup"]


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {},
        {"ratio": 24.0},
        {"one step": {}},
        {"one step": {"ratio": float("nan")}},
        {"one step": {"ratio": [1, 2]}},
    ],
    ids=str,
)
def test_what_is_no_comparison_is_refused(room, wrong):
    room.results = wrong
    with pytest.raises(ValueError, match=r"core\.tiny\.bench\.main"):
        bench.run("tiny")
