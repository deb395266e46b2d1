import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from core.kernels import _choice, _launch, explain
from core.kernels.activation_stats import activation_stats, reference_stats

# torch's compiler uses what torch deprecates
of_torch = pytest.mark.filterwarnings("ignore::DeprecationWarning")
pytestmark = pytest.mark.usefixtures("on_the_gpu_where_there_is_one")
MODULE = sys.modules["core.kernels.activation_stats"]
IMPLS = ["reference", "torch", "triton"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(), (1,), (7,), (3, 5, 7), (2, 31, 13), (131, 17)]

any_impl = pytest.mark.parametrize("impl", IMPLS)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Toy sizes are several blocks, the last one short; on a GPU, several of a program."""
    triton = pytest.importorskip("core.kernels.activation_stats_triton")
    monkeypatch.setattr(MODULE, "BLOCK", 100)
    monkeypatch.setattr(triton, "BLOCK", 64)
    monkeypatch.setattr(triton, "WAVES", 1)
    monkeypatch.setattr(triton, "PROCESSORS", 3)


def inputs(shape, dtype=torch.float64) -> Any:
    return torch.randn(2, *shape, dtype=torch.float64).to(dtype).unbind()


@any_impl
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("moved", [True, False])
def test_it_is_what_python_adds_up(impl, shape, moved):
    x, x0 = inputs(shape)
    a, b = x.flatten().tolist(), x0.flatten().tolist()
    wanted = [math.fsum(map(abs, a)), math.fsum(n * n for n in a), max(map(abs, a))]
    if moved:
        wanted.append(math.fsum(abs(m - n) for m, n in zip(a, b, strict=True)))
    found = activation_stats(x, x0 if moved else None, impl=impl)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


@any_impl
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_are_float32_and_lose_no_more_than_the_formula_in_it(impl, dtype):
    x, x0 = inputs((41, 37), dtype)
    truth = reference_stats(x.double(), x0.double())
    found = activation_stats(x, x0, impl=impl)
    assert found.dtype == torch.float32
    assert found[2] == truth[2]
    # 1517 positive numbers, each rounded three times, in sums of tens at the most
    torch.testing.assert_close(found.double(), truth, rtol=3e-6, atol=0)


@any_impl
def test_a_mean_of_many_small_numbers_is_not_lost(impl):
    """bfloat16 would stop to count at 256."""
    x = torch.ones(1000, dtype=torch.bfloat16)
    assert activation_stats(x, -x, impl=impl).tolist() == [1000.0, 1000.0, 1.0, 2000.0]


@any_impl
def test_dtypes_may_differ(impl):
    x, x0 = inputs((5, 7))
    for kinds, dtype in (
        ((torch.float32, torch.bfloat16), torch.float32),
        ((torch.float16, torch.float64), torch.float64),
    ):
        a, b = x.to(kinds[0]), x0.to(kinds[1])
        found = activation_stats(a, b, impl=impl)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), reference_stats(a.double(), b.double()))


@any_impl
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)], ids=str)
def test_of_no_numbers_all_are_zero(impl, shape):
    x = torch.empty(shape)
    assert activation_stats(x, x, impl=impl).tolist() == [0.0] * 4
    assert activation_stats(x, impl=impl).tolist() == [0.0] * 3


@any_impl
@pytest.mark.parametrize("at", [0, 130, 402])
def test_a_nan_is_seen_wherever_it_is(impl, at):
    x, x0 = inputs((403,))
    x[at] = math.nan
    assert activation_stats(x, x0, impl=impl).isnan().all()
    found = activation_stats(x0, x, impl=impl)
    assert found.isnan().tolist() == [False, False, False, True]


@any_impl
def test_an_infinity_is_infinite(impl):
    x, x0 = inputs((403,))
    x[77] = -math.inf
    assert activation_stats(x, x0, impl=impl).tolist() == [math.inf] * 4


LAYOUTS = {
    "transposed": lambda x: x.transpose(0, 2).contiguous().transpose(0, 2),
    "sliced": lambda x: x.repeat_interleave(2, dim=2)[..., ::2],
    "expanded": lambda x: x[:1].expand(x.shape),
    "negative view": lambda x: torch.view_as_complex(torch.stack((x, x), -1)).conj().imag,
}


@any_impl
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("other", LAYOUTS)
def test_strides_do_not_matter_and_inputs_are_left_alone(impl, layout, other):
    x, x0 = inputs((3, 5, 7))
    x, x0 = LAYOUTS[layout](x), LAYOUTS[other](x0)
    before = x.clone(), x0.clone()
    found = activation_stats(x, x0, impl=impl)
    torch.testing.assert_close(found, reference_stats(*before))
    assert torch.equal(x, before[0])
    assert torch.equal(x0, before[1])


@any_impl
def test_what_is_not_written_would_show_and_equal_inputs_give_equal_bits(impl, poisoned):
    x, x0 = inputs((403,), torch.float32)
    first, second = (activation_stats(x, x0, impl=impl) for _ in range(2))
    assert torch.equal(first, second)


@any_impl
def test_it_carries_no_gradient(impl):
    x, x0 = inputs((5,))
    x.requires_grad_()
    x0.requires_grad_()
    found = activation_stats(x, x0, impl=impl)
    assert not found.requires_grad


@any_impl
@pytest.mark.parametrize("moved", [True, False])
def test_the_registration_is_sound(impl, moved):
    x, x0 = inputs((5, 30), torch.float32)
    op = torch.ops.core_kernels.activation_stats.default
    arguments = x, x0 if moved else None, impl
    assert set(torch.library.opcheck(op, arguments).values()) == {"SUCCESS"}


@of_torch
@any_impl
def test_it_compiles_into_one_graph(impl):
    torch.compiler.reset()

    def both(x, x0):
        return activation_stats(x * 2, x0, impl=impl)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    for shape in ((5, 30), (7, 31)):
        x, x0 = inputs(shape, torch.float32)
        torch.testing.assert_close(compiled(x, x0), both(x, x0))


def test_shapes_are_known_without_numbers():
    with FakeTensorMode():
        x = torch.empty(2, 7, dtype=torch.bfloat16)
        found = activation_stats(x, x)
        assert (found.shape, found.dtype) == ((4,), torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without CUDA")
def test_a_named_kernel_says_what_it_wants(monkeypatch):
    x = torch.ones(3)
    told = explain(activation_stats, x, x)
    assert told.chosen == "torch"
    assert set(told.obstacles.values()) == {None}
    monkeypatch.setattr(_choice, "triton_interprets", lambda: False)
    with pytest.raises(ValueError, match="wants tensors on a CUDA device, got cpu: move them"):
        activation_stats(x, impl="triton")


def test_a_gpu_that_the_kernel_is_not_for_is_told_so(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(_launch, "compute_capability", lambda device: 90)
    assert _launch.device_limit(gpu, torch.float32) is None
    assert "at most 32 bits on a GPU" in (_launch.device_limit(gpu, torch.float64) or "")
    monkeypatch.setattr(_launch, "compute_capability", lambda device: 75)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    assert "8.0 to 11.x" in (_launch.device_limit(gpu, torch.float32) or "")


def test_it_needs_no_triton():
    code = (
        "import sys, torch; from core.kernels.activation_stats import *\n"
        "activation_stats(torch.ones(2))\n"
        "assert not {'torch._dynamo', 'triton'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("x", "x0", "message"),
    [
        (X, X[:1], r"want x0 of the shape of x, got \[1, 3\] and \[2, 3\]"),
        (X.int(), None, "want x of dtypes among float32.*got torch.int32"),
        (X, X.to(torch.complex64), "want x and x0 of dtypes among .*got torch.complex64"),
        (X.to_sparse(), None, "want x as dense tensors, got layout torch.sparse_coo"),
        (3.0, None, "as dense tensors, got float"),
        (X, X.to("meta"), "want x and x0 on one device, got cpu and meta"),
    ],
)
def test_what_does_not_agree_is_refused(x, x0, message):
    with pytest.raises(ValueError, match=message):
        activation_stats(x, x0)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="want one of auto, reference, torch, triton, got 'cuda'"):
        activation_stats(X, impl="cuda")  # type: ignore[arg-type]
