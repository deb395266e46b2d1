"""The lab as a chapter uses it: in a kernel, its outputs kept in a notebook."""

import base64

import nbformat
import pytest
from nbclient import NotebookClient

PLOT = "fig, (ax,) = figure()\nax.plot([1, 2])\nax.legend(['a']);"
CELLS = [
    "from core.lab import Ledger, figure, quote\nledger = Ledger('mesa')",
    PLOT,
    PLOT,
    "quote('mesa-slope', 0.6)",
    "for n, expected in enumerate(['holds', 'corrected']):\n"
    "    ledger.record(f'mesa-e{n}', 'Thm. 1', '<s>', paper='1', here='0.9', verdict='holds',\n"
    "                  expected=expected)",
    "ledger",
    "ledger.verify()",
    "import numpy as np\nfrom core.lab import clip, heat_maps\nheat_maps({'m': [[1.0, -2.0]]})",
    "clip({'a': np.full((2, 3, 4, 4), 0.2)}, alt='grey', caption='grey')",
]


@pytest.fixture(scope="module")
def outputs():
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    nb = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(nb, kernel_name="python3", allow_errors=True, timeout=60).execute()
    return [cell.outputs for cell in nb.cells]


def test_a_figure_is_the_same_bytes_twice_and_names_no_software(outputs):
    first, second = (
        base64.b64decode(out["data"]["image/png"])
        for cell in (outputs[1], outputs[2])
        for out in cell
        if "image/png" in out.get("data", {})
    )
    assert first == second
    assert b"tEXt" not in first


def test_a_figure_carries_the_numbers_behind_it(outputs):
    for cell in (outputs[1], outputs[2]):
        (shown,) = [out for out in cell if "image/png" in out.get("data", {})]
        (panel,) = shown["metadata"]["core"]["figure"]
        assert panel["series"] == [{"kind": "line", "n": 2, "x": "0 1", "y": "1 2"}]


def test_heat_maps_and_clips_carry_theirs(outputs):
    maps, film = outputs[7][0], outputs[8][0]
    assert maps["metadata"]["core"]["figure"][0]["series"][0]["colour"] == "1 -2"
    assert "image/png" in maps["data"]
    (series,) = film["metadata"]["core"]["figure"][0]["series"]
    assert series == {"kind": "clip", "label": "a", "n": 6, "colour": " ".join(["0.2"] * 6)}


def test_a_quoted_number_travels_and_shows(outputs):
    glued, shown = outputs[3]
    assert glued["data"] == {"application/papermill.record/text/plain": "0.6"}
    assert shown["text"] == "mesa-slope = 0.6\n"


def test_a_claim_shows_where_it_is_proved_and_carries_no_metadata(outputs):
    first, second = outputs[4]
    assert "mesa-e0</strong> (Thm. 1): &lt;s&gt;." in first["data"]["text/html"]
    assert 'class="verdict verdict-holds"' in second["data"]["text/html"]
    assert "core" not in first["metadata"]


def test_the_table_is_html_and_carries_no_claims(outputs):
    (table,) = outputs[5]
    assert "&lt;s&gt;" in table["data"]["text/html"]
    assert "core" not in table["metadata"]


def test_a_failed_verify_still_leaves_every_row(outputs):
    shown, error = outputs[6]
    assert set(shown["data"]) == {"text/plain"}
    claims = shown["metadata"]["core"]["claims"]
    assert [list(c) for c in claims] == 2 * [
        ["id", "source", "statement", "paper", "here", "verdict", "expected"]
    ]
    assert (error["ename"], "mesa-e1: holds, expected corrected" in error["evalue"]) == (
        "AssertionError",
        True,
    )
