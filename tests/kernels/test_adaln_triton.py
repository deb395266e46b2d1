"""The Triton kernels against the formula in float64: on a GPU, or in the interpreter.

The interpreter sees no races, no shared memory, no rounding of its own; `aot` and a GPU see them.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

triton = pytest.importorskip("triton")

from core.kernels import _launch  # noqa: E402
from core.kernels import adaln_triton as module  # noqa: E402
from core.kernels._choice import triton_interprets  # noqa: E402
from core.kernels.adaln import adaln, reference_adaln  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
if DEVICE == "cpu":
    DTYPES.append(torch.float64)
NAMES = "x", "shift", "scale", "branch", "gate"
COUNTS = {"gated": 5, "no gate": 4, "no branch": 3}


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    """Toy sizes are several tiles of a program, and several programs of a sample."""
    monkeypatch.setattr(module, "TILE", 64)
    monkeypatch.setattr(module, "PROCESSORS", 1)
    monkeypatch.setattr(module, "TOKENS", {"forward": 2, "backward": 3})


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64).to(dtype).to(DEVICE)


def inputs(B, T, D, kind, dtype):
    shapes = [(B, T, D), (B, D), (B, D), (B, T, D), (B, D)][: COUNTS[kind]]
    return [random(*shape, dtype=dtype) for shape in shapes]


def run(op, tensors, backs, **options):
    """Results and gradients."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    out = op(**dict(zip(NAMES, leaves, strict=False)), **options)
    found = torch.autograd.grad(
        out, leaves, [g.to(o.dtype) for g, o in zip(backs, out, strict=True)]
    )
    return *(o.detach() for o in out), *found


def error(x, truth):
    return float((x.double() - truth).norm() / truth.norm())


def check(found, plain, truths):
    """Twice what a computation in the same dtype loses, and a unit in the last place.

    The interpreter cuts bfloat16 off where a GPU rounds: twice the error again. In float64 the
    formula is the truth itself: 64 units.
    """
    for here, near, truth in zip(found, plain, truths, strict=True):
        cut_off = near.dtype == torch.bfloat16 and triton_interprets()
        slack = torch.finfo(near.dtype).eps * (64 if near.dtype == torch.float64 else 1)
        assert here.dtype == near.dtype
        assert error(here, truth) <= (4 if cut_off else 2) * error(near, truth) + slack


@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 29, 7), (3, 5, 67)], ids=str)
def test_the_kernels_lose_no_more_than_their_dtype(shape, dtype, kind):
    tensors, backs = inputs(*shape, kind, dtype), random(2, *shape, dtype=dtype)
    truths = run(reference_adaln, [x.double() for x in tensors], backs)
    plain = run(reference_adaln, tensors, backs)
    check(run(adaln, tensors, backs, impl="triton"), plain, truths)


def test_a_program_has_many_tiles_and_a_sample_many_programs():
    """Else the test above would not see what it is for."""
    x = torch.empty(2, 29, 7)
    for way, tiles in (("forward", 2), ("backward", 3)):
        tile = module._tile(x, way, alike=True)
        assert tile.N == 4
        assert tile.N < tile.tokens <= tiles * tile.N < 29


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_and_any_strides(data):
    B, T, D = data.draw(st.tuples(*(st.integers(0, n) for n in (3, 12, 40))), label="B, T, D")
    kind = data.draw(st.sampled_from(list(COUNTS)), label="kind")
    tensors = inputs(B, T, D, kind, torch.float32)
    for i, x in enumerate(tensors):
        tensors[i] = drawn(data, x, NAMES[i])
    backs = [drawn(data, x, name) for x, name in zip(random(2, B, T, D).float(), "uv", strict=True)]
    before = [x.clone() for x in tensors]
    found = run(adaln, tensors, backs, impl="triton")
    truths = run(reference_adaln, [x.double() for x in tensors], backs)
    assert all(torch.equal(x, y) for x, y in zip(tensors, before, strict=True))
    for here, truth in zip(found, truths, strict=True):
        # a token may be nearly constant, and its norm then loses what D numbers of it have
        torch.testing.assert_close(here.double(), truth, rtol=1e-4, atol=1e-4)


def drawn(data, x, name):
    """The same shape: as it is, transposed, sliced, or one for all samples."""
    kind = data.draw(st.sampled_from(["plain", "transposed", "sliced", "expanded"]), name)
    if kind == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if kind == "sliced":
        return x.repeat_interleave(2, dim=-1)[..., ::2]
    return x[:1].expand(x.shape) if kind == "expanded" and len(x) else x


@pytest.mark.parametrize("kind", COUNTS)
def test_equal_inputs_give_equal_bits(kind):
    tensors, backs = inputs(2, 29, 7, kind, torch.float32), random(2, 2, 29, 7)
    first, second = (run(adaln, tensors, backs, impl="triton") for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_how_the_tokens_are_cut_changes_no_more_than_the_last_digits(monkeypatch):
    tensors, backs = inputs(2, 29, 7, "gated", torch.float32), random(2, 2, 29, 7)
    many = run(adaln, tensors, backs, impl="triton")
    monkeypatch.setattr(module, "TILE", 2**12)
    one = run(adaln, tensors, backs, impl="triton")
    torch.testing.assert_close(many, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sums_over_many_tokens_are_kept_in_float32(dtype, monkeypatch):
    """A thousand gradients of 1 are no 256, where bfloat16 stops to count, but 1000."""
    monkeypatch.setattr(module, "TILE", 2**12)
    x = random(1, 1000, 2, dtype=dtype)
    vector = torch.zeros(1, 2, dtype=dtype, device=DEVICE)
    back = torch.ones_like(x)
    *_, dshift, _ = run(adaln, (x, vector, vector), (back, back), impl="triton")
    assert dshift.tolist() == [[1000.0, 1000.0]]


def test_the_norm_is_that_of_the_sum_as_it_is_stored():
    """What the backward pass reads is what the forward pass normalised."""
    x, shift, scale, branch, gate = inputs(2, 5, 7, "gated", torch.bfloat16)
    made, y = adaln(x, shift, scale, branch=branch, gate=gate, impl="triton")
    again = adaln(made, shift, scale, impl="triton")
    assert torch.equal(again[1], y)


@pytest.mark.parametrize("arch", [75, 120])
def test_a_gpu_for_which_nothing_was_compiled_is_refused(monkeypatch, arch):
    monkeypatch.setattr(_launch, "compute_capability", lambda device: arch)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    x = torch.ones(1, 2, 3)
    with pytest.raises(ValueError, match=rf"8\.0 to 11\.x.*got {arch / 10} \(A GPU\): take impl="):
        adaln(x, x[:, 0], x[:, 0], impl="triton")


def test_float64_is_refused_on_a_gpu(monkeypatch):
    monkeypatch.setattr(_launch, "compute_capability", lambda device: 90)
    gpu = torch.device("cuda")
    assert "at most 32 bits on a GPU" in (_launch.device_limit(gpu, torch.float64) or "")
    assert _launch.device_limit(gpu, torch.float32) is None


def test_no_tile_asks_for_more_threads_than_there_are(monkeypatch):
    monkeypatch.undo()
    for D in (1, 16, 64, 100, 1152, 4096):
        for alike in (True, False):
            tile = module._tile(torch.empty(2, 64, D, device="meta"), "backward", alike=alike)
            assert tile.warps in (4, 8, 16, 32)
            assert tile.N * tile.D_BLOCK >= D
