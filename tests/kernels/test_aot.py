"""The reading is tested on lines as `cuobjdump` prints them, the gate on kernels made to fail.

Where kernels are tested Triton interprets; the gate therefore runs in processes of its own.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from core.kernels import aot

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

RESOURCES = "  REG:64 STACK:{} SHARED:1024 LOCAL:{} CONSTANT[0]:576 TEXTURE:0 SURFACE:0 SAMPLER:0\n"
LINES = {
    # all with their encoding, as it is printed: (local, tensor cores, wide, all)
    "@!P0 LDG.E.128 R4, desc[UR4][R12.64] ;": (0, 0, 1, 1),
    "LDG.E.LTC128B.128.CONSTANT R20, desc[UR4][R2.64+0x40] ;": (0, 0, 1, 1),
    "LDG.E.LTC128B R19, desc[UR4][R2.64+0x80] ;": (0, 0, 0, 1),
    "LDG.E.ENL2.256 R12, R8, desc[UR4][R2.64] ;": (0, 0, 1, 1),
    "LDG.E.64 R2, [R4.64] ;": (0, 0, 0, 1),
    "LDGSTS.E.BYPASS.128 [R37+0x800], desc[UR16][R14.64+-0x800], P0 ;": (0, 0, 1, 1),
    "LDGSTS.E [R37], desc[UR16][R10.64], P0 ;": (0, 0, 0, 1),
    "LDGDEPBAR ;": (0, 0, 0, 0),
    "STG.E.128 desc[UR16][R4.64+0x800], R28 ;": (0, 0, 1, 1),
    "@!P0 STG.E desc[UR4][R6.64+0x4], R15 ;": (0, 0, 0, 1),
    "LD.E R17, desc[UR4][R4.64] ;": (0, 0, 0, 1),
    "REDG.E.ADD.F32.FTZ.RN.STRONG.GPU desc[UR4][R4.64], R25 ;": (0, 0, 0, 1),
    "ATOMG.E.ADD.F32.FTZ.RN.STRONG.GPU PT, RZ, desc[UR18][R2.64], R5 ;": (0, 0, 0, 1),
    "@UP0 UTMALDG.2D [UR4], [UR16] ;": (0, 0, 1, 1),
    "@UP0 UTMASTG.2D [UR12], [UR8] ;": (0, 0, 1, 1),
    "UTMACCTL.IV [UR16] ;": (0, 0, 0, 0),
    "LDS.128 R8, [R3] ;": (0, 0, 0, 0),
    "STS.128 [R3], R8 ;": (0, 0, 0, 0),
    "LDSM.16.M88.4 R4, [R58] ;": (0, 0, 0, 0),
    "LDC.64 R2, c[0x0][0x380] ;": (0, 0, 0, 0),
    "LDL.LU.64 R6, [R1+0x22d8] ;": (1, 0, 0, 0),
    "@!P0 STL [R1+0x4], R4 ;": (1, 0, 0, 0),
    "HMMA.16816.F32.BF16 R64, R24.reuse, R4, R64 ;": (0, 1, 0, 0),
    "HMMA.1688.F32.TF32 R32, R136, R38, RZ ;": (0, 1, 0, 0),
    "IMMA.16832.S8.S8 R12, R8.ROW, R6.COL, R12 ;": (0, 1, 0, 0),
    "DMMA.884 R12, R44, R42.reuse, R12 ;": (0, 1, 0, 0),
    "HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8].tnspB, R24 ;": (0, 1, 0, 0),
    "UTCHMMA gdesc[UR6], gdesc[UR12], tmem[UR8], tmem[UR30], idesc[UR31], !UPT ;": (0, 1, 0, 0),
    "HFMA2.MMA R17, -RZ, RZ, 1.875, 0 ;": (0, 0, 0, 0),
    "FFMA R3, R4, R5, R3 ;": (0, 0, 0, 0),
}


def dump(*instructions, stack=0, local=0):
    code = "".join(
        f"        /*{16 * i:04x}*/                   {line}    /* 0x00000a00ff017b82 */\n"
        f"{' ' * 60}/* 0x000e700000000800 */\n"
        for i, line in enumerate(instructions, start=4095)
    )
    return f" Function _kernel:\n{RESOURCES.format(stack, local)}\n\tcode for sm_90a\n{code}"


@pytest.mark.parametrize(("line", "counts"), LINES.items(), ids=lambda x: str(x).split(" R")[0])
def test_an_instruction_counts_as_what_it_is(line, counts):
    code = aot.read(dump(line))
    assert (code.local, code.tensor_cores, code.wide, code.accesses) == counts


def test_all_instructions_of_a_kernel_count():
    code = aot.read(dump(*LINES, *LINES, stack=8, local=16), shared=49168, tensor_memory=64)
    counts = tuple(2 * sum(column) for column in zip(*LINES.values(), strict=True))
    assert (code.local, code.tensor_cores, code.wide, code.accesses) == counts
    assert (code.registers, code.spilled) == (64, 24)
    assert (code.shared, code.tensor_memory) == (49168, 64)


@pytest.mark.parametrize("text", ["", dump(), dump("EXIT ;").replace("REG:", "")], ids=len)
def test_what_is_no_machine_code_is_refused(text):
    with pytest.raises(ValueError, match="want the resources and instructions"):
        aot.read(text)


FINE = aot.Code(64, 0, 48 * 1024, 64, tile=16, local=0, tensor_cores=8, wide=4, accesses=6)
CONTIGUOUS = torch.empty(4, 12, 64, device="meta")


def broken(*tensors, arch=90, claims=True, asks=False, **changed):
    launch = SimpleNamespace(arguments=dict(enumerate((*tensors, None, 3))))
    example = SimpleNamespace(launch=launch, tensor_cores=claims, wide=asks)
    return " and ".join(aot.faults(example, arch, FINE._replace(**changed)))  # type: ignore


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({}, ""),
        ({"spilled": 8}, "want no spills, got 8 bytes a thread and 0 accesses"),
        ({"local": 2}, "want no spills, got 0 bytes a thread and 2 accesses"),
        ({"shared": 163 * 1024, "arch": 80}, ""),
        ({"shared": 163 * 1024 + 1, "arch": 80}, "want at most 166,912 bytes of shared memory"),
        ({"shared": 227 * 1024}, ""),
        ({"shared": 227 * 1024 + 1}, "want at most 232,448 bytes of shared memory, got 232,449"),
        ({"tensor_memory": 513, "arch": 100}, "want at most 512 columns of tensor memory, got 513"),
        ({"tensor_cores": 0}, "want products on tensor cores"),
        ({"wide": 0}, "want accesses of 16 bytes, which the tensors allow, got none among 6"),
    ],
    ids=str,
)
def test_a_broken_rule_is_named(changed, fault):
    said = broken(CONTIGUOUS, **changed)
    assert said.startswith(fault)
    assert bool(said) == bool(fault)


def test_tensor_cores_are_wanted_only_where_the_example_says_so():
    assert "tensor cores" in broken(CONTIGUOUS, claims=True, tensor_cores=0)
    assert not broken(CONTIGUOUS, claims=False, tensor_cores=0)


@pytest.mark.parametrize(
    "other",
    [
        CONTIGUOUS.transpose(0, 1),
        CONTIGUOUS.flatten()[1:65],  # begins at byte 4
        torch.empty(4, 12, 20, device="meta"),  # 80 bytes: but Triton cannot tell 20 from 21
        torch.empty((), device="meta"),
    ],
    ids=["strided", "unaligned", "rows of 20", "a number"],
)
def test_wide_accesses_are_wanted_only_where_all_tensors_allow_them(other):
    assert "16 bytes" in broken(CONTIGUOUS, CONTIGUOUS, wide=0)
    assert not broken(CONTIGUOUS, other, wide=0)
    assert "16 bytes" in broken(CONTIGUOUS, other, asks=True, wide=0)  # or where it asks for them


def test_wide_accesses_are_wanted_only_where_a_thread_has_that_much_to_read():
    assert not broken(CONTIGUOUS, wide=0, tile=15)


def test_the_largest_tile_is_that_of_most_bytes():
    ttgir = """
    %0 = tt.addptr %x, %i : !tt.ptr<f64>, i64
    %1 = tt.load %a, %m : tensor<16x32x!tt.ptr<f32>, #blocked>
    %2 = ttg.async_copy_global_to_local %b, %s : tensor<16x64x!tt.ptr<bf16>, #blocked1> -> <16x64>
    tt.store %c, %d : tensor<512x!tt.ptr<f64>, #blocked2>
    %3 = tt.load %e, %m : tensor<4096x!tt.ptr<i1>, #blocked>
    %4 = arith.addf %f, %g : tensor<64x64xf32, #mma>
    """
    assert aot.largest_tile(ttgir) == 512 * 8
    assert aot.largest_tile("") == 0


KERNELS = """
import torch
import triton
import triton.language as tl

from core.kernels._launch import Example, Launch


@triton.jit
def _spills(x_ptr, BLOCK: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, BLOCK))
    tl.store(x_ptr + tl.arange(0, BLOCK), x * tl.sum(x))


@triton.jit
def _adds(x_ptr, stride, BLOCK: tl.constexpr):
    i = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)) * stride
    tl.store(x_ptr + i, tl.load(x_ptr + i) + 1)


@triton.jit
def _is_told(x_ptr, none_ptr, one, n, huge, number, BLOCK: tl.constexpr):
    tl.static_assert(none_ptr is None)
    tl.static_assert(one == 1)
    tl.static_assert(n.dtype == tl.int32)
    tl.static_assert(huge.dtype == tl.int64)
    tl.static_assert(number.dtype == tl.float32)
    i = tl.arange(0, BLOCK)
    tl.store(x_ptr + i, tl.load(x_ptr + i, mask=i < n) * number, mask=i < n)


@triton.jit
def _does_not_compile(x_ptr, BLOCK: tl.constexpr):
    tl.static_assert(BLOCK == 3, "a block has three numbers")


@triton.jit
def _multiplies(x_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x_ptrs = x_ptr + i[:, None] * BLOCK + i[None, :]
    x = tl.load(x_ptrs)
    tl.store(x_ptrs, tl.dot(x, x).to(x.dtype))


def example(case, kernel, *, BLOCK, tensor_cores=False, dtype=torch.float32, warps=1, **sizes):
    x = torch.empty(128, 256, dtype=dtype, device="meta")
    launch = Launch(kernel, 1, {"x_ptr": x, **sizes}, {"BLOCK": BLOCK}, warps, 1)
    return Example("tried", case, "float32", launch, tensor_cores)


def examples(arch):
    half = {"dtype": torch.bfloat16, "tensor_cores": True, "warps": 4}
    yield example("multiplies", _multiplies, BLOCK=64, **half)
    if arch == 80:
        return
    numbers = {"none_ptr": None, "one": 1, "n": 4096, "huge": 2**40, "number": 0.5}
    yield example("is told", _is_told, BLOCK=1024, **numbers)
    yield example("is told an odd size", _is_told, BLOCK=1024, **numbers | {"n": 4095})
    yield example("adds", _adds, BLOCK=1024, stride=1)
    yield example("adds with gaps", _adds, BLOCK=1024, stride=2)
    yield example("claims", _adds, BLOCK=1024, stride=1, tensor_cores=True)
    yield example("adds little", _adds, BLOCK=64, stride=1)
    yield example("spills", _spills, BLOCK=8192)
    yield example("does not compile", _does_not_compile, BLOCK=4)
"""
GATE_OF_A_FOLDER = """
import sys
from pathlib import Path

import core.kernels
from core.kernels import aot

aot.HERE = Path(sys.argv.pop(1))
core.kernels.__path__.append(str(aot.HERE))
sys.exit(aot.main())
"""


def run(*command, **environment):
    kept = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """The gate, run once on the kernels above: what it said, the rows that it wrote."""
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "tried_triton.py").write_text(KERNELS)
    path = folder / "new" / "aot.json"
    cache = folder / "cache"
    archs = "--arch", 80, "--arch", 90
    done = run("-c", GATE_OF_A_FOLDER, folder, *archs, "--json", path, TRITON_CACHE_DIR=cache)
    assert path.exists(), done.stderr
    written = json.loads(path.read_text())
    before, *rows = written["rows"]
    rows = {row["case"]: row for row in rows}
    return SimpleNamespace(done=done, written=written, before=before, rows=rows, cache=cache)


@needs_triton
@pytest.mark.parametrize(
    ("case", "fault"),
    [
        ("is told", None),
        ("is told an odd size", "want accesses of 16 bytes"),
        ("adds", None),
        ("adds with gaps", "want accesses of 16 bytes"),
        ("adds little", None),
        ("claims", "want products on tensor cores"),
        ("multiplies", None),
        ("spills", "want no spills"),
        ("does not compile", "want a kernel that compiles"),
    ],
)
def test_a_kernel_fails_for_what_is_wrong_with_it_and_nothing_else(tried, case, fault):
    faults = tried.rows[case]["faults"]
    assert len(faults) == (fault is not None)
    if fault is not None:
        assert faults[0].startswith(fault)
        assert f"\ntried, {case}, float32, sm_90:\n{fault}" in tried.done.stdout


@needs_triton
def test_a_failing_kernel_fails_the_command(tried):
    assert tried.done.returncode == 1
    assert "5 of 10 fine" in tried.done.stdout
    assert "a block has three numbers" in tried.done.stdout


@needs_triton
def test_the_rows_are_written_with_their_provenance(tried):
    assert tried.written["bench"] == "aot"
    assert tried.written["triton"].startswith("3.")
    assert {"commit", "cpu", "threads"} <= set(tried.written["provenance"])
    code = tried.rows["multiplies"]["code"]
    assert code["tensor_cores"] > 0
    assert code["shared"] >= 2 * 64 * 64  # the operand, as tensor cores of sm_90 want it
    assert code["tile"] == 64 * 64 * 2 // (4 * 32)
    assert tried.rows["does not compile"]["code"] is None


@needs_triton
def test_each_architecture_has_its_own_code(tried):
    here, before = tried.rows["multiplies"], tried.before
    assert (here["arch"], before["arch"], before["faults"]) == (90, 80, [])
    # an instruction multiplies 16 x 8 x 16 numbers on sm_80, 64 x 64 x 16 by four warps on sm_90
    assert before["code"]["tensor_cores"] == 8 * here["code"]["tensor_cores"]


@needs_triton
def test_the_cache_of_triton_is_left_alone(tried):
    assert not tried.cache.exists()


@needs_triton
@pytest.mark.slow
def test_the_kernels_pass_the_gate():
    done = run("-m", "core.kernels.aot")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_triton
def test_the_interpreter_is_refused_in_one_line():
    done = run("-m", "core.kernels.aot", TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert done.stderr.startswith("refused: want Triton's compiler, got its interpreter")
    assert done.stderr.count("\n") == 1


def test_a_machine_without_triton_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(aot, "find_spec", lambda name: None)
    assert aot.main([]) == 2
    assert capsys.readouterr().err.startswith("refused: want Triton, which is not installed")


@pytest.mark.parametrize("arguments", [["nosuch"], ["--arch", "75"]], ids=" ".join)
def test_an_unknown_name_is_refused_with_those_there_are(arguments, capsys):
    assert aot.main(arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    known = ["80", "90", "100"] if "--arch" in arguments else aot.found()
    assert all(name in last for name in known)


def test_an_op_without_examples_is_no_pass():
    with pytest.raises(ValueError, match="want at least one example"):
        aot.gate(lambda arch: [])


def test_a_kernel_is_found_by_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(aot, "HERE", tmp_path)
    for name in ("b_triton.py", "a_triton.py", "a.py", "bench.py"):
        (tmp_path / name).touch()
    assert aot.found() == ["a", "b"]
