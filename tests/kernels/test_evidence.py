import json
from copy import deepcopy
from html.parser import HTMLParser
from typing import Any

import pytest

from core.kernels import evidence

ROW = {
    "case": "plain",
    "dtype": "float32",
    "shape": {"B": 4, "T": 2048},
    "pass": "forward",
    "impl": "torch",
    "error": 2.081e-07,
    "allowed": 1e-6,
    "seconds": 0.006944,
    "peak_bytes": 10977280,
    "floor_seconds": 0.0007438,
    "floor_is": "FLOP",
    "of_floor": 0.1071,
    "peers": {
        "quick": {"error": 1e-7, "seconds": 0.005, "ratio": 0.72, "peak_bytes": None},
        "slow": {"error": 1e-7, "seconds": 1.5, "ratio": 216.0, "peak_bytes": 2_500_000_000},
        "wrong": {"error": 0.5, "why": "error 5.0e-01, allowed 1.0e-06"},
    },
}
DOCUMENT = {
    "bench": "op",
    "kind": "cpu",
    "device": "A <CPU>",
    "driver": None,
    "provenance": {
        "commit": "0123456789abcdef",
        "dirty": False,
        "threads": 1,
        "packages": {"torch": "2.13.0", "triton": "3.7.1"},
    },
    "ceilings": {
        "copy": {"bytes": 1, "bytes_per_second": 13.6e9},
        "product": {"n": 1024, "flop_per_second": {"bfloat16": 1.2e12, "float32": 180e9}},
    },
    "peers": {
        "quick": {"what": "", "version": "9.8", "not_here": None},
        "slow": {"what": "", "version": None, "not_here": None},
        "wrong": {"what": "", "version": None, "not_here": None},
        "absent": {"what": "", "version": None, "not_here": "needs CUDA"},
    },
    "rows": [ROW],
}


class Tables(HTMLParser):
    """Texts of the cells, a list for each row, and whether every tag is closed in turn."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.open, self.caption, self.scopes = [], [], "", []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag != "br":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag == "th":
            self.scopes.append(dict(attrs)["scope"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "caption" in self.open:
            self.caption += data
        elif "th" in self.open or "td" in self.open:
            self.rows[-1][-1] += data


@pytest.fixture
def folder(tmp_path):
    """A folder with a run on a CPU and one on a GPU, where no peer is faster."""
    gpu: dict[str, Any] = deepcopy(DOCUMENT) | {
        "kind": "cuda",
        "device": "NVIDIA H200",
        "driver": "580.1",
    }
    gpu["provenance"]["dirty"] = True
    gpu["rows"][0]["peers"]["quick"]["ratio"] = 1.25
    for name, document in {"op-a-gpu": gpu, "op-cpu": DOCUMENT, "other-cpu": {}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    return tmp_path


def test_the_rows_of_a_cpu_and_of_a_gpu_stand_apart(folder):
    assert [document["kind"] for document in evidence.documents("op", folder)] == ["cpu", "cuda"]
    cpu, gpu = (evidence.as_html("op", kind, folder) for kind in ("cpu", "cuda"))
    assert "NVIDIA" not in cpu
    assert "A &lt;CPU&gt;" in cpu
    assert "A &lt;CPU&gt;" not in gpu


def test_a_table_says_where_it_comes_from(folder):
    cpu, gpu = (Tables(evidence.as_html("op", kind, folder)) for kind in ("cpu", "cuda"))
    assert cpu.caption == (
        "op on A <CPU> (1 thread, torch 2.13.0, triton 3.7.1, quick 9.8), commit 0123456789"
    )
    assert gpu.caption == (
        "op on NVIDIA H200 (driver 580.1, torch 2.13.0, triton 3.7.1, quick 9.8), "
        "commit 0123456789, with changes that are not committed"
    )


def test_a_table_has_the_numbers_rounded(folder):
    heads, row = Tables(evidence.as_html("op", "cpu", folder)).rows
    assert dict(zip(heads, row, strict=True)) == {
        "Case": "plain, forwardfloat32, B = 4, T = 2048",
        "Served by": "torch",
        "Time": "6.94 ms",
        "Of the floor": "11 % (FLOP)",
        "Peak memory": "11 MB",
        "Error": "2e-07",
        "Against quick": "0.72×: the peer is faster5 ms, not known",  # noqa: RUF001
        "Against slow": "216×1.5 s, 2.5 GB",  # noqa: RUF001
    }


def test_heads_name_their_columns_and_rows(folder):
    assert Tables(evidence.as_html("op", "cpu", folder)).scopes == ["col"] * 8 + ["row"]


def test_where_a_peer_is_faster_is_said_plainly(folder):
    cpu, gpu = (evidence.as_html("op", kind, folder) for kind in ("cpu", "cuda"))
    assert "A peer is faster: quick (plain, forward, float32, B = 4, T = 2048: 0.72)." in cpu
    assert cpu.count("<strong>") == 1
    assert "No peer is faster." in gpu
    assert "the peer is faster" not in gpu


def test_peers_without_a_number_are_listed_with_the_reason(folder):
    html = evidence.as_html("op", "cpu", folder)
    assert "<li>absent: needs CUDA</li>" in html
    wrong = "wrong: error 5.0e-01, allowed 1.0e-06 (plain, forward, float32, B = 4, T = 2048)"
    assert f"<li>{wrong}</li>" in html
    assert "Against wrong" not in html


def test_the_machine_at_its_best_is_shown(folder):
    html = evidence.as_html("op", "cpu", folder)
    assert "a copy at 13.6 GB/s; a product of two 1024 &times; 1024 at bfloat16 1.2 TFLOP/s" in html


def test_what_is_not_measured_is_said(tmp_path):
    said = "<p>No measurement of op on a GPU is committed.</p>"
    assert evidence.as_html("op", "cuda", tmp_path) == said
    assert evidence.as_html("op", "cuda", tmp_path / "nowhere") == said
    assert "No measurement of what the compiler makes" in evidence.aot_html(tmp_path)


def test_a_file_that_is_something_else_is_refused(folder):
    with pytest.raises(ValueError, match=r"other-cpu\.json: want a result"):
        evidence.documents("other", folder)


def test_what_the_compiler_made_is_a_table(tmp_path):
    code = {"registers": 132, "spilled": 0}
    rows = [
        {"op": "op", "arch": 90, "tensor_cores": True, "code": code, "faults": []},
        {"op": "op", "arch": 100, "tensor_cores": False, "code": None, "faults": ["a < b", "c"]},
    ]
    document = {"bench": "aot", "triton": "3.7.1", "provenance": {"commit": None}, "rows": rows}
    (tmp_path / "aot.json").write_text(json.dumps(document))
    found = Tables(evidence.aot_html(tmp_path))
    assert found.caption == "Compiled ahead of time, without a GPU, by Triton 3.7.1"
    heads, first, second = (dict(zip(found.rows[0], row, strict=True)) for row in found.rows)
    assert list(heads)[2] == "tensor cores"
    assert (first["registers"], first["tensor cores"], first["faults"]) == ("132", "yes", "none")
    assert (second["registers"], second["tensor cores"], second["faults"]) == ("", "no", "a < b; c")
    document["rows"].append({**rows[0], "op": "other", "arch": 80})
    (tmp_path / "aot.json").write_text(json.dumps(document))
    assert len(Tables(evidence.aot_html(tmp_path)).rows) == 1 + 3
    assert len(Tables(evidence.aot_html(tmp_path, op="other")).rows) == 1 + 1


def test_all_that_is_committed_can_be_shown():
    for path in evidence.FOLDER.glob("*.json"):
        document = json.loads(path.read_text())
        Tables(evidence.aot_html() if document["bench"] == "aot" else evidence.table(document))
