import itertools
import sys
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from core.kernels import _choice, use
from core.kernels.causal_linear_attention import causal_linear_attention, reference_attention

# torch's compiler and its forward mode use what torch deprecates
of_torch = pytest.mark.filterwarnings("ignore::DeprecationWarning")
pytestmark = pytest.mark.usefixtures("on_the_gpu_where_there_is_one")
MODULE = sys.modules["core.kernels.causal_linear_attention"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize(("normalize", "reverse"), list(itertools.product([False, True], repeat=2)))
def test_the_blocked_form_and_its_gradients_are_those_of_the_formula(dtype, normalize, reverse):
    q, k = torch.randn(2, 2, 3, 71, 5, dtype=dtype).requires_grad_()
    v = torch.randn(2, 3, 71, 2, dtype=dtype, requires_grad=True)
    g = torch.randn(2, 3, 71, 2, dtype=dtype)
    options = {"normalize": normalize, "reverse": reverse}
    here = causal_linear_attention(q, k, v, impl="torch", **options)
    there = reference_attention(q, k, v, **options)
    torch.testing.assert_close(here, there)
    gradients = torch.autograd.grad(here, (q, k, v), g)
    torch.testing.assert_close(gradients, torch.autograd.grad(there, (q, k, v), g))


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_blocked_form_loses_no_more_than_the_formula_in_its_dtype(dtype):
    wide = torch.complex128 if dtype.is_complex else torch.float64
    q, k, v = torch.randn(3, 2, 300, 24, dtype=wide).to(dtype)
    truth = reference_attention(q.to(wide), k.to(wide), v.to(wide))

    def error(x):
        return (x.to(wide) - truth).norm() / truth.norm()

    here = causal_linear_attention(q, k, v, impl="torch")
    assert here.dtype == dtype
    assert error(here) <= 2 * error(reference_attention(q, k, v))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_formula_is_the_formula(dtype, reverse):
    """Written out, token by token, with t from 1."""
    q, k, v = torch.randn(3, 1, 6, 2, dtype=dtype)
    here = causal_linear_attention(q, k, v, normalize=True, reverse=reverse, impl="torch")
    for t in range(1, 7):
        expected = torch.zeros(2, dtype=dtype)
        for s in range(t, 7) if reverse else range(1, t + 1):
            w = 1 / max(max(s, t) - 1, 1)
            expected += w * v[0, s - 1] * torch.vdot(k[0, s - 1], q[0, t - 1])
        torch.testing.assert_close(here[0, t - 1], expected)


def test_a_column_of_ones_gives_the_key_sum_normalizer():
    q, k, v = torch.rand(3, 2, 40, 4, dtype=torch.float64)
    o = causal_linear_attention(q, k, torch.cat([v, torch.ones_like(v[..., :1])], dim=-1))
    scores = (q @ k.mT).tril()
    expected = scores @ v / scores.sum(-1, keepdim=True)
    torch.testing.assert_close(o[..., :-1] / o[..., -1:], expected)


@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
@pytest.mark.parametrize(
    ("lead", "T", "D", "M"),
    [((), 4, 2, 3), ((0,), 4, 2, 3), ((2, 3), 0, 2, 3), ((2,), 4, 0, 3), ((2,), 4, 2, 0)],
    ids=str,
)
def test_dimensions_may_be_missing_or_zero(impl, lead, T, D, M):
    pytest.importorskip("triton")
    q, k = torch.ones(2, *lead, T, D).requires_grad_()
    v = torch.ones(*lead, T, M, requires_grad=True)
    o = causal_linear_attention(q, k, v, impl=impl)
    assert o.shape == (*lead, T, M)
    if D == 0:
        assert not o.any()
    o.sum().backward()
    assert v.grad is not None
    assert v.grad.shape == v.shape


@pytest.mark.parametrize("impl", ["torch", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_gradients_and_their_gradients_are_true(impl, dtype):
    tensors = [torch.randn(2, 5, 2, dtype=dtype, requires_grad=True) for _ in range(3)]

    def op(q, k, v):
        return causal_linear_attention(q, k, v, normalize=True, impl=impl)

    assert torch.autograd.gradcheck(op, tensors)
    assert torch.autograd.gradgradcheck(op, tensors)


@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
@pytest.mark.parametrize("layout", ["plain", "transposed"])
def test_the_registration_is_sound(impl, layout):
    pytest.importorskip("triton")
    q, k, v = torch.randn(3, 2, 6, 4)
    if layout == "transposed":
        q, k, v = (x.mT.contiguous().mT for x in (q, k, v))
    op = torch.ops.core_kernels.causal_linear_attention.default
    assert set(torch.library.opcheck(op, (q, k, v, True, False, impl)).values()) == {"SUCCESS"}


@of_torch
@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
def test_it_compiles_into_one_graph_with_its_gradient(impl):
    pytest.importorskip("triton")

    def loss(q, k, v):
        return causal_linear_attention(q, k, v, normalize=True, impl=impl).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for T, D in ((30, 4), (31, 4), (17, 4), (17, 5), (17, 6)):  # shapes become symbols
        leaves = [torch.randn(2, T, D, requires_grad=True) for _ in range(3)]
        here = torch.autograd.grad(compiled(*leaves), leaves)
        torch.testing.assert_close(here, torch.autograd.grad(loss(*leaves), leaves))


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without CUDA")
def test_a_fake_tensor_of_a_gpu_that_is_not_there_has_its_shape(monkeypatch):
    monkeypatch.setattr(_choice, "triton_interprets", lambda: False)
    with FakeTensorMode():
        q = torch.empty(2, 7, 4, device="cuda")
        assert causal_linear_attention(q, q, q).shape == q.shape
        with pytest.raises(ValueError, match="wants tensors on a CUDA device"):
            causal_linear_attention(q, q, q, impl="triton")


@of_torch
def test_a_compiled_function_follows_a_later_choice():
    x = torch.randn(1, 4, 2)
    compiled = torch.compile(causal_linear_attention, fullgraph=True, backend="aot_eager")
    with use("torch"):
        compiled(x, x, x)
    with use("reference"), mock.patch.object(MODULE, "reference_attention") as reference:
        reference.return_value = torch.full_like(x, 7.0)
        assert torch.equal(compiled(x, x, x), torch.full_like(x, 7.0))


def test_shapes_are_known_without_numbers():
    with FakeTensorMode():
        q, v = torch.empty(2, 7, 4), torch.empty(2, 7, 3)
        assert causal_linear_attention(q, q, v).shape == v.shape


Q = torch.ones(2, 5, 3)


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        (Q, Q[:, :4], Q, r"want q, k \[..., T, D\] and v \[..., T, M\], got .*\[2, 4, 3\]"),
        (Q, Q[..., :2], Q, r"\[2, 5, 2\]"),
        (Q, Q, Q[:1], r"\[1, 5, 3\]"),
        (Q[0, 0], Q[0, 0], Q[0, 0], r"got \[3\]"),
        (Q, Q, Q.double(), "want q, k, v of one dtype, got torch.float32, .*torch.float64"),
        (Q.int(), Q.int(), Q.int(), "want q, k, v of a dtype among .*, got torch.int32"),
        (Q, Q, None, "want q, k, v as dense tensors, got NoneType"),
        (Q, Q.to_sparse(), Q, "got layout torch.sparse_coo"),
        (Q, Q, Q.to("meta"), "want q, k, v on one device, got cpu, cpu, meta"),
    ],
)
def test_what_does_not_agree_is_refused(q, k, v, message):
    with pytest.raises(ValueError, match=message):
        causal_linear_attention(q, k, v)


@of_torch
def test_a_forward_mode_derivative_is_refused():
    with forward_ad.dual_level():
        q = forward_ad.make_dual(Q, torch.ones_like(Q))
        with pytest.raises(ValueError, match=r"reverse mode only.*take reference_attention"):
            causal_linear_attention(q, Q, Q)
        assert forward_ad.unpack_dual(reference_attention(q, Q, Q)).tangent is not None
