"""What the committed measurements of the kernels say, as tables for the book.

`python -m core.kernels.bench` and `python -m core.kernels.aot` write JSON to the folder; nothing is
measured here, and neither torch nor a GPU is needed to read.
"""

import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).parents[3] / "book" / "evidence" / "gpu_kernels"
Document = dict[str, Any]
Row = Mapping[str, Any]
Kind = Literal["cpu", "cuda"]

HEADS = ("Case", "Served by", "Time", "Of the floor", "Peak memory", "Error")
ABSENT = "<p>No measurement of {what} is committed.</p>"
PLACES = {"cpu": "a CPU", "cuda": "a GPU"}


def documents(op: str, folder: Path = FOLDER) -> list[Document]:
    """Return the committed benches of an op, those on a CPU first.

    Raises:
        ValueError: a file that bears the op's name is no result of its bench.
    """
    found = []
    for path in sorted(folder.glob(f"{op}-*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("bench") != op:
            raise ValueError(f"{path.name}: want a result of core.kernels.bench {op}")
        found.append(document)
    return sorted(found, key=lambda document: document["kind"] != "cpu")


def as_html(op: str, kind: Kind, folder: Path = FOLDER) -> str:
    """Return a table for each machine of a kind, and where a peer is faster; or that there is none.

    Args:
        op: its name.
        kind: "cpu" or "cuda".
        folder: where the results are.
    """
    found = [document for document in documents(op, folder) if document["kind"] == kind]
    return "".join(map(table, found)) or ABSENT.format(what=f"{op} on {PLACES[kind]}")


def aot_html(folder: Path = FOLDER, *, op: str | None = None) -> str:
    """Return what the compiler made of the kernels, or that nothing is committed.

    Args:
        folder: where the results are.
        op: whose kernels; None: all.
    """
    path = folder / "aot.json"
    if not path.is_file():
        return ABSENT.format(what="what the compiler makes of the kernels")
    document = json.loads(path.read_text(encoding="utf-8"))
    rows = [_flat(row) for row in document["rows"] if op in (None, row["op"])]
    heads = list(dict.fromkeys(key for row in rows for key in row))
    body = [[_plain(row.get(key)) for key in heads] for row in rows]
    caption = f"Compiled ahead of time, without a GPU, by Triton {document['triton']}"
    return _table(f"{caption}{_commit(document)}", [head.replace("_", " ") for head in heads], body)


def table(document: Document) -> str:
    """Return one bench as HTML: the rows, the machine's ceilings, what is faster or absent."""
    rows = document["rows"]
    peers = [name for name in document["peers"] if any("ratio" in _of(row, name) for row in rows)]
    heads = [*HEADS, *(f"Against {name}" for name in peers)]
    body = [[*_cells(row), *(_against(_of(row, name)) for name in peers)] for row in rows]
    return _table(_caption(document), heads, body) + _notes(document)


def title(row: Row) -> str:
    """Return what tells a row from the others, on one line."""
    shape = ", ".join(f"{axis} = {n}" for axis, n in row["shape"].items())
    return f"{row['case']}, {row['pass']}, {row['dtype']}, {shape}"


def faster_peers(document: Document) -> list[tuple[str, str, float]]:
    """Return where a peer is faster: its name, the row's title, its time divided by ours."""
    return [
        (name, title(row), peer["ratio"])
        for row in document["rows"]
        for name, peer in row["peers"].items()
        if peer.get("ratio", 1) < 1
    ]


def reasons(document: Document) -> list[str]:
    """Return why a peer has no number, a line for each reason."""
    missing = {name: about["not_here"] for name, about in document["peers"].items()}
    lines = [f"{name}: {reason}" for name, reason in missing.items() if reason]
    cases: dict[str, list[str]] = {}
    for row in document["rows"]:
        for name, peer in row["peers"].items():
            if "why" in peer:
                cases.setdefault(f"{name}: {peer['why']}", []).append(title(row))
    return lines + [f"{reason} ({'; '.join(titles)})" for reason, titles in cases.items()]


def _caption(document: Document) -> str:
    packages = document["provenance"]["packages"]
    versions = [f"{name} {packages[name]}" for name in ("torch", "triton") if name in packages]
    about = document["peers"].items()
    versions += [f"{name} {peer['version']}" for name, peer in about if peer["version"]]
    driver = [f"driver {document['driver']}"] if document["driver"] else []
    threads = [f"{document['provenance']['threads']} thread"] if document["kind"] == "cpu" else []
    machine = ", ".join([*threads, *driver, *versions])
    return f"{document['bench']} on {document['device']} ({machine}){_commit(document)}"


def _commit(document: Document) -> str:
    source = document["provenance"]
    if not source.get("commit"):
        return ""
    changed = ", with changes that are not committed" if source.get("dirty") else ""
    return f", commit {source['commit'][:10]}{changed}"


def _notes(document: Document) -> str:
    faster = [f"{escape(n)} ({escape(t)}: {r:.2f})" for n, t, r in faster_peers(document)]
    verdict = f"A peer is faster: {'; '.join(faster)}." if faster else "No peer is faster."
    notes = [
        f"The machine at its best: {_ceilings(document['ceilings'])}.",
        "A ratio is the peer's time divided by ours.",
        verdict,
    ]
    absent = "".join(f"<li>{escape(line)}</li>" for line in reasons(document))
    listed = f"<p>Peers without a number:</p><ul>{absent}</ul>" if absent else ""
    return f"<p>{' '.join(notes)}</p>{listed}"


def _ceilings(ceilings: Mapping[str, Any]) -> str:
    product = ceilings["product"]
    rates = product["flop_per_second"].items()
    shown = ", ".join(f"{escape(dtype)} {_scaled(rate, 'FLOP/s')}" for dtype, rate in rates)
    copy = _scaled(ceilings["copy"]["bytes_per_second"], "B/s")
    return f"a copy at {copy}; a product of two {product['n']} &times; {product['n']} at {shown}"


def _cells(row: Row) -> list[str]:
    first, last = escape(f"{row['case']}, {row['pass']}"), escape(title(row))
    below = last.removeprefix(f"{first}, ")
    return [
        f"{first}<br><small>{below}</small>",
        escape(row["impl"]),
        _seconds(row["seconds"]),
        f"{100 * row['of_floor']:.0f} % ({escape(row['floor_is'])})",
        _bytes(row["peak_bytes"]),
        f"{row['error']:.0e}",
    ]


def _against(peer: Mapping[str, Any]) -> str:
    if "ratio" not in peer:
        return "none"
    cost = f"<small>{_seconds(peer['seconds'])}, {_bytes(peer['peak_bytes'])}</small>"
    ratio = f"{peer['ratio']:.2f}" if peer["ratio"] < 10 else f"{peer['ratio']:.0f}"
    if peer["ratio"] < 1:
        return f"<strong>{ratio}&times;: the peer is faster</strong><br>{cost}"
    return f"{ratio}&times;<br>{cost}"


def _of(row: Row, peer: str) -> Mapping[str, Any]:
    return row["peers"].get(peer, {})


def _table(caption: str, heads: Iterable[str], body: Iterable[list[str]]) -> str:
    """Return a table from texts for its heads and HTML for its cells; the first names its row."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    rows = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for first, *cells in body
    )
    return (
        f'<table class="bench"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _flat(row: Row) -> dict[str, Any]:
    """Return a row with the fields of a mapping in its place."""
    fields = (v.items() if isinstance(v, Mapping) else [(k, v)] for k, v in row.items())
    return {key: value for pairs in fields for key, value in pairs}


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return escape("; ".join(map(str, value))) or "none"
    return "" if value is None else escape(str(value))


def _seconds(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} &micro;s"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _bytes(number: int | None) -> str:
    if number is None:
        return "not known"
    return f"{number / 1e6:.3g} MB" if number < 1e9 else f"{number / 1e9:.3g} GB"


def _scaled(number: float, unit: str) -> str:
    for size, prefix in ((1e12, "T"), (1e9, "G")):
        if number >= size:
            return f"{number / size:.3g} {prefix}{unit}"
    return f"{number / 1e6:.3g} M{unit}"
