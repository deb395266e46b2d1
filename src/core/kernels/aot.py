"""The ahead-of-time gate: compile the kernels for GPUs that are not there, read the machine code.

    python -m core.kernels.aot [OPS]... [--arch 90]... [--json PATH]

Each `<op>_triton.py` has `examples(arch)`: launches with tensors that have no memory. A stand-in
driver takes them through Triton's own launch, so that arguments are specialised as on a GPU (what
is divisible by 16 is known to be, a size of 1 is a constant); only the last step is left out. What
`cuobjdump`, which Triton brings along, then finds in the machine code has to keep these rules:

    compiles        it does, for every architecture
    spills          nothing is kept in local memory: not a byte of stack, not an LDL or STL
    memory          shared memory and tensor memory fit what a block can have
    tensor cores    an example that says its products run there has such instructions
    wide accesses   if all tensors are contiguous and aligned, their rows have 16, 32, ... numbers,
                    and the largest tile is 16 bytes a thread, global memory is read or written
                    16 bytes at a time (or in bulk) somewhere; an example may ask for it

Of other rows Triton does not know where they begin, unless a kernel says so: all that it knows of a
size is whether 16 divides it. Of a smaller tile no thread has 16 bytes to take. An instruction
counts once, however often it runs. Whether a result is right, and how fast it is there, no compiler
can tell: the tests and the bench do.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import format_exception
from types import SimpleNamespace
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table
from torch import Tensor

from core.command import PATH, Refused, end_of
from core.files import write_json
from core.kernels._choice import triton_interprets
from core.kernels._launch import Example
from core.provenance import provenance

HERE = Path(__file__).parent
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes of shared memory that a block can have, by compute capability (CUDA programming guide)."""
TENSOR_MEMORY = 512
"""Columns of tensor memory that a block can have, where there is any (sm_100)."""


class Code(NamedTuple):
    """What is read off the machine code of one kernel: resources, then counts of instructions."""

    registers: int  # a thread
    spilled: int  # bytes of local memory a thread
    shared: int  # bytes a block
    tensor_memory: int  # columns a block
    tile: int  # bytes of the largest tile that is read or written at once, a thread
    local: int  # accesses of local memory
    tensor_cores: int  # products on tensor cores
    wide: int  # accesses of global memory, 16 bytes or more at a time
    accesses: int  # all accesses of global memory


class Row(NamedTuple):
    """One example on one architecture."""

    op: str
    case: str
    dtype: str
    arch: int
    code: Code | None  # None if it does not compile
    faults: list[str]


def found() -> list[str]:
    """Return the ops that have a Triton kernel."""
    return sorted(path.stem.removesuffix("_triton") for path in HERE.glob("[!_]*_triton.py"))


def gate(
    examples: Callable[[int], Iterable[Example]], archs: Iterable[int] = tuple(SHARED)
) -> list[Row]:
    """Compile the examples of each architecture and hold them against the rules.

    For a process of its own, where Triton does not interpret. Nothing is taken from Triton's cache
    on disk, nor left in it.
    """
    jobs = [(example, arch) for arch in archs for example in examples(arch)]
    if not jobs:
        raise ValueError("want at least one example and one architecture, got none")
    from triton import knobs

    # reading takes as long as compiling, in another program: side by side
    with TemporaryDirectory() as folder, knobs.cache.scope(), ThreadPoolExecutor(1) as reader:
        knobs.cache.dir = folder
        rows = [reader.submit(_row, *job, _compiled(*job), Path(folder, "cubin")) for job in jobs]
        return [row.result() for row in rows]


def _compiled(example: Example, arch: int) -> Any:
    """Return what Triton compiles, or the error."""
    launch = example.launch
    options = {"num_warps": launch.warps, "num_stages": launch.stages, "grid": (launch.programs,)}
    try:
        with _stand_in(arch):
            return launch.kernel.warmup(**launch.arguments, **launch.constants, **options)
    except Exception as error:  # whatever a compiler throws: the other rows are still wanted
        return error


def _row(example: Example, arch: int, kernel: Any, cubin: Path) -> Row:
    from triton import knobs

    name = example.op, example.case, example.dtype, arch
    if isinstance(kernel, Exception):
        said = "".join(format_exception(kernel, limit=0)).strip()
        return Row(*name, None, [f"want a kernel that compiles, got:\n{said}"])
    cubin.write_bytes(kernel.asm["cubin"])
    tool = [knobs.nvidia.cuobjdump.path, "-res-usage", "-sass", str(cubin)]
    code = read(
        subprocess.run(tool, capture_output=True, text=True, check=True).stdout,
        shared=kernel.metadata.shared,
        tensor_memory=kernel.metadata.tmem_size or 0,
        tile=largest_tile(kernel.asm["ttgir"]) // (32 * example.launch.warps),
    )
    return Row(*name, code, list(faults(example, arch, code)))


@contextmanager
def _stand_in(arch: int) -> Iterator[None]:
    """Answer what Triton asks the driver between a launch and the compiler."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    answers = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", arch, 32),
        # a kernel keeps what it compiled by device: as many devices as targets
        get_current_device=lambda: arch,
        get_current_stream=lambda device: 0,
    )
    driver.set_active(answers)  # type: ignore[arg-type]
    try:
        yield
    finally:
        with suppress(RuntimeError):  # no GPU to go back to
            driver.reset_active()


_RESOURCES = re.compile(r"\bREG:(\d+) STACK:(\d+) .*?\bLOCAL:(\d+)")
# an address as a comment, perhaps a predicate, the instruction: /*0430*/  @!P0 STL.64 [R1], R4 ;
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
_LOCAL = re.compile(r"(LDL|STL)\b")
# HMMA, DMMA, HGMMA, UTCHMMA, ...; but HFMA2.MMA is an ordinary instruction
_TENSOR_CORES = re.compile(r"\w+MMA\b")
_IN_BULK = r"UTMALDG|UTMASTG|UTMAREDG|UBLKCP|UBLKRED"
# LD and ST find out which memory is meant when they run
_GLOBAL = re.compile(rf"(LDG|STG|LDGSTS|REDG?|ATOMG?|LD|ST|{_IN_BULK})\b")
# the width stands alone: in LDG.E.LTC128B it is the cache that fetches 128 bytes
_WIDE = re.compile(rf"({_IN_BULK})\b|(LDG|STG|LDGSTS|LD|ST)\.(.*\.)?(128|256)\b")


def read(dump: str, *, shared: int = 0, tensor_memory: int = 0, tile: int = 0) -> Code:
    """Return what is in a kernel.

    Args:
        dump: what `cuobjdump -res-usage -sass` prints of it.
        shared: as `Code` has it; the machine code has not, it is asked for at the launch.
        tensor_memory: likewise.
        tile: likewise.
    """
    resources = [[int(number) for number in line] for line in _RESOURCES.findall(dump)]
    names = _INSTRUCTION.findall(dump)
    if not (resources and names):
        raise ValueError(f"want the resources and instructions of a kernel, got {dump[:200]!r}")

    def count(kind: re.Pattern[str]) -> int:
        return sum(kind.match(name) is not None for name in names)

    return Code(
        registers=max(registers for registers, _, _ in resources),
        spilled=max(stack + local for _, stack, local in resources),
        shared=shared,
        tensor_memory=tensor_memory,
        tile=tile,
        local=count(_LOCAL),
        tensor_cores=count(_TENSOR_CORES),
        wide=count(_WIDE),
        accesses=count(_GLOBAL),
    )


def largest_tile(ttgir: str) -> int:
    """Return the bytes that the largest tensor of pointers, in Triton's last IR, points to."""
    found = re.findall(r"tensor<((?:\d+x)+)!tt\.ptr<[a-z]+(\d+)", ttgir)
    sizes = (prod(map(int, shape.split("x")[:-1])) * int(bits) // 8 for shape, bits in found)
    return max(sizes, default=0)


def faults(example: Example, arch: int, code: Code) -> Iterator[str]:
    """Yield the rules that are broken: what was wanted, what came, what to do."""
    if code.spilled or code.local:
        yield (
            f"want no spills, got {code.spilled:,} bytes a thread and {code.local:,} accesses of "
            f"them beside {code.registers} registers: take a smaller tile, more warps, fewer stages"
        )
    for what, most, got in (
        ("bytes of shared memory", SHARED[arch], code.shared),
        ("columns of tensor memory", TENSOR_MEMORY, code.tensor_memory),
    ):
        if got > most:
            yield f"want at most {most:,} {what}, got {got:,}: take a smaller tile, fewer stages"
    if example.tensor_cores and not code.tensor_cores:
        yield (
            "want products on tensor cores, got no such instruction: take a dtype, input_precision "
            "and tile that they have, or say tensor_cores=False in the example"
        )
    tensors = [x for x in example.launch.arguments.values() if isinstance(x, Tensor)]
    allowed = example.wide or all(map(_comes_in_16_bytes, tensors))
    if code.tile >= 16 and not code.wide and allowed:
        yield (
            f"want accesses of 16 bytes, which the tensors allow, got none among {code.accesses}: "
            "let threads read along rows, and strides and masks be multiples of 16"
        )


def _comes_in_16_bytes(x: Tensor) -> bool:
    rows = x.ndim > 0 and x.shape[-1] % 16 == 0
    return rows and x.is_contiguous() and x.data_ptr() % 16 == 0


def show(rows: list[Row]) -> None:
    """Print a table for each case, then what is wrong."""
    for title in dict.fromkeys(f"{row.op}, {row.case}" for row in rows):
        table = Table(title=title, title_justify="left")
        for column in ("dtype", "sm", "registers", "spilled", "shared", "MMA", "16 B", ""):
            table.add_column(column, justify="left" if column == "dtype" else "right")
        for row in (row for row in rows if f"{row.op}, {row.case}" == title):
            table.add_row(*_cells(row), style="bold red" if row.faults else "")
        Console().print(table)
    failing = [row for row in rows if row.faults]
    for row in failing:
        click.echo(f"\n{row.op}, {row.case}, {row.dtype}, sm_{row.arch}:")
        click.echo("\n".join(row.faults))
    click.echo(f"\n{len(rows) - len(failing)} of {len(rows)} fine")


def _cells(row: Row) -> list[str]:
    cells = [""] * 5
    if (code := row.code) is not None:
        numbers = code.registers, code.spilled, code.shared, code.tensor_cores
        cells = [*(f"{n:,}" for n in numbers), f"{code.wide}/{code.accesses}"]
    return [row.dtype, str(row.arch), *cells, "fails" if row.faults else "fine"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("ops", nargs=-1, type=click.Choice(found()))
@click.option(
    "--arch",
    "archs",
    multiple=True,
    type=click.Choice([str(arch) for arch in SHARED]),
    help="Compute capability to compile for, again for another; default: all.",
)
@click.option("--json", "path", type=PATH, help="Write the rows here too.")
def cli(ops: tuple[str, ...], archs: tuple[str, ...], path: Path | None) -> int:
    """Compile the kernels of OPS, or of all, and look at their machine code.

    Exits with 0 if all is fine, 1 if a kernel breaks a rule, 2 if nothing can be compiled here, 130
    if interrupted.
    """
    if find_spec("triton") is None:
        raise Refused("want Triton, which is not installed: pip install 'triton>=3.6'")
    if triton_interprets():
        raise Refused(
            "want Triton's compiler, got its interpreter, which TRITON_INTERPRET chose when Triton "
            "was imported: start this process without that variable"
        )
    rows = []
    for op in ops or found():
        click.echo(f"core.kernels.{op}_triton compiles")
        examples = import_module(f"core.kernels.{op}_triton").examples
        rows += gate(examples, [int(arch) for arch in archs or SHARED])
    if path is not None:
        _write(path, rows)
    show(rows)
    return int(any(row.faults for row in rows))


def _write(path: Path, rows: list[Row]) -> None:
    import triton

    outcome = {
        "bench": "aot",
        "provenance": provenance(HERE),
        "triton": triton.__version__,
        "rows": [row._asdict() | {"code": row.code and row.code._asdict()} for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, outcome)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, that of this process if none is given; return the exit code."""
    return end_of(cli, arguments, "python -m core.kernels.aot")


if __name__ == "__main__":
    sys.exit(main())
