from xml.etree import ElementTree

from core.lab import VERDICTS, Ledger


def table(*statements):
    ledger = Ledger("mesa")
    for n, (statement, verdict) in enumerate(statements):
        ledger.record(
            f"mesa-e{n}",
            "Thm. 1",
            statement,
            paper="1",
            here="1",
            verdict=verdict,
            expected="holds",
        )
    return ElementTree.fromstring(ledger._repr_html_())


def test_markup_in_a_statement_is_shown_not_obeyed():
    text = '<script>a < b & "c"</script>'
    cell = table((text, "holds")).find("tbody/tr/td[2]")
    assert cell is not None
    assert (cell.text, list(cell)) == (text, [])


def test_the_id_leads_to_the_cell_that_proves_it():
    link = table(("s", "holds")).find("tbody/tr/th[@scope='row']/a")
    assert link is not None
    assert (link.text, link.get("href")) == ("mesa-e0", "#mesa-e0")


def test_a_screen_reader_hears_caption_heads_and_verdict():
    every = [(v, v) for v in VERDICTS if v != "not tried"]
    found = table(*every)
    assert found.get("class") == "ledger"
    assert found.findtext("caption") == f"Claims of mesa: {len(every)}"
    assert [th.get("scope") for th in found.findall("thead/tr/th")] == ["col"] * 6
    spans = found.findall("tbody/tr/td/span")
    assert [s.text for s in spans] == [v for v, _ in every]
    assert [s.get("class") for s in spans][1] == "verdict verdict-holds-at-this-scale"


def test_the_text_is_padded_and_counted():
    ledger = Ledger("mesa")
    for row, verdict in (("e8", "holds"), ("e10", "corrected"), ("e11", "holds")):
        ledger.record(
            f"mesa-{row}", "s", "s", paper="1", here="1.5", verdict=verdict, expected="holds"
        )
    assert repr(ledger).splitlines() == [
        "mesa-e8   holds",
        "mesa-e10  corrected",
        "mesa-e11  holds",
        "3 claims: 1 corrected, 2 holds",
    ]
