"""How fast an op is, against what the machine can do and against its peers.

    python -m core.kernels.bench OP [--peers NAME]... [--device auto|cpu|cuda] [--out FOLDER]

First the machine's ceilings, a large copy and a large product. Then for each case: a check against
the formula in 64 bits (no check, no number), the median time, which part of it the floor is (what
the ceilings allow at best), peak memory, and the same for each peer, in this process, by turns. A
ratio is the peer's time divided by ours.

The result goes to `book/evidence/gpu_kernels/<op>-<cpu or name of the GPU>.json` below the current
folder, once all cases are through. Exit codes: 0 done, 1 failed, a check say, 2 refused or asked
wrongly, 130 interrupted.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from core.command import Failed, Refused, end_of, refusing
from core.files import write_text
from core.kernels._ceilings import ceilings_of
from core.kernels._measure import Row, Wrong, measure
from core.kernels._subject import HERE, Peer, Subject, found, load
from core.kernels.evidence import reasons, title
from core.provenance import provenance

OUT = Path("book", "evidence", "gpu_kernels")
WIDTH = 144
Document = dict[str, Any]


def run(
    op: str,
    device: str = "auto",
    peers: tuple[str, ...] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> Document:
    """Measure an op; on a CPU on one thread.

    Args:
        op: its name.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
        peers: which to compare with, each of which has to be able to run here; none means all
            that can.
        progress: is told what is measured next.

    Returns:
        What is written: `bench`, `kind` ("cpu" or "cuda"), `device`, `driver`, `provenance`,
        `ceilings`, `peers` (what each is, its version, why it is not here), `rows`.

    Raises:
        Refused: no such op, peer or device; a peer that was named cannot run here.
        Wrong: the op failed its check.
    """
    with refusing(ValueError):
        subject = load(op)
    kind = _kind(device)
    chosen = _chosen(op, subject, kind, peers)
    with _one_thread(kind):
        rows, ceilings = _rows(subject, kind, chosen, progress)
        source = {**provenance(HERE), "threads": torch.get_num_threads()}
    return {
        "bench": op,
        "kind": kind,
        "device": torch.cuda.get_device_name() if kind == "cuda" else source["cpu"],
        "driver": _driver() if kind == "cuda" else None,
        "provenance": source,
        "ceilings": ceilings,
        "peers": {name: _about(subject.peers[name], kind) for name in peers or subject.peers},
        "rows": rows,
    }


def save(document: Document, folder: Path) -> Path:
    """Write a result where the book looks for it; what is there is replaced as a whole."""
    name = "cpu" if document["kind"] == "cpu" else _slug(document["device"])
    path = folder / f"{document['bench']}-{name}.json"
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, text + "\n")
    return path


def main() -> dict[str, dict[str, float | str]]:
    """Run the bench of every op, for `core.bench`; writes nothing."""
    return {f"{op}: {title(row)}": _quantities(row) for op in found() for row in run(op)["rows"]}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("op")
@click.option("--peers", multiple=True, metavar="NAME", help="Compare with these; all by default.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help=f"{OUT} by default.")
def cli(op: str, peers: tuple[str, ...], device: str, out: Path | None) -> None:
    """Measure the kernel OP against the machine and against its peers."""
    if out is None and not OUT.parent.parent.is_dir():
        raise Refused(f"want {OUT} below this folder: go to the repository's root, or give --out")
    console = Console(width=max(WIDTH, Console().width))  # a pipe would have 80 columns
    try:
        document = run(op, device, peers, progress=console.print)
    except Wrong as error:
        raise Failed(f"the check failed, nothing is written. {error}") from error
    console.print(as_table(document))
    for line in reasons(document):
        console.print(line)
    console.print(str(save(document, out or OUT)))


def as_table(document: Document) -> Table:
    """Return a result as a table for the terminal."""
    head = f"{document['bench']}, {document['device']}"
    table = Table(box=SIMPLE, title=head, caption="peers: their time divided by ours")
    timed = [name for name, about in document["peers"].items() if about["not_here"] is None]
    heads = ("by", "time", "% of floor", "peak", "error", *timed)
    table.add_column("case", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right")
    for row in document["rows"]:
        first = f"{row['case']}, {row['pass']}"
        lines = f"{first}\n{title(row).removeprefix(f'{first}, ')}"
        table.add_row(lines, *_cells(row), *(_ratio(row["peers"][name]) for name in timed))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    peak = row["peak_bytes"]
    return (
        row["impl"],
        f"{row['seconds'] * 1e3:.3g} ms",
        f"{row['of_floor'] * 100:.0f}",
        "" if peak is None else f"{peak / 1e6:,.0f} MB",
        f"{row['error']:.0e}",
    )


def _ratio(peer: Mapping[str, Any]) -> str:
    return "none" if "why" in peer else f"{peer['ratio']:.3g}×"  # noqa: RUF001


def _quantities(row: Row) -> dict[str, float | str]:
    """Return a row as `core.bench` wants it."""
    found: dict[str, float | str] = {"by": row["impl"], "seconds": row["seconds"]}
    found |= {"% of the floor": 100 * row["of_floor"], "error": row["error"]}
    for name, peer in row["peers"].items():
        if "why" in peer:
            found[name] = peer["why"]
        else:
            found[f"ratio to {name}"] = peer["ratio"]
    return found


def _rows(
    subject: Subject, kind: str, peers: dict[str, Peer], progress: Callable[[str], None]
) -> tuple[list[Row], dict[str, Any]]:
    cases = subject.cases(kind)
    progress("the machine's ceilings")
    ceilings = ceilings_of(kind, [case.dtype for case in cases])
    rows = []
    for case in cases:
        progress(str(case))
        rows.append(measure(subject, case, kind, ceilings, peers))
    return rows, ceilings.as_dict()


def _kind(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise Refused("--device cuda: torch sees no CUDA device here; take --device cpu")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _chosen(op: str, subject: Subject, kind: str, names: tuple[str, ...]) -> dict[str, Peer]:
    """Return the peers to run: those named, or all that can."""
    for name in names:
        if name not in subject.peers:
            there = ", ".join(subject.peers)
            raise Refused(f"want a peer of {op} ({there}), got {name!r}")
        reason = subject.peers[name].missing(kind)
        if reason is not None:
            raise Refused(f"the peer {name} cannot run here: {reason}")
    can = {name: peer for name, peer in subject.peers.items() if peer.missing(kind) is None}
    return {name: can[name] for name in names or can}


def _about(peer: Peer, kind: str) -> dict[str, str | None]:
    try:
        version = metadata.version(peer.package) if peer.package else None
    except metadata.PackageNotFoundError:
        version = None
    return {"what": peer.what, "version": version, "not_here": peer.missing(kind)}


@contextmanager
def _one_thread(kind: str) -> Iterator[None]:
    """Keep a CPU to one thread: seconds of the processor add up over threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if kind == "cpu" else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _driver() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[0].strip() or None


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def command_line(arguments: list[str] | None = None) -> int:
    """Run the command line, that of this process if none is given; return the exit code."""
    return end_of(cli, arguments, "python -m core.kernels.bench")


if __name__ == "__main__":
    sys.exit(command_line())
