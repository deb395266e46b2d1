import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from core.kernels import _choice, explain, use
from core.kernels import short_attention as module
from core.kernels.short_attention import reference_short_attention, short_attention

# torch's compiler and its forward mode use what torch deprecates
of_torch = pytest.mark.filterwarnings("ignore::DeprecationWarning")
pytestmark = pytest.mark.usefixtures("on_the_gpu_where_there_is_one")
MODULE = sys.modules["core.kernels.short_attention"]
IMPLS = ["reference", "torch", "triton"]
SHAPES = [(1, 1, 1, 1, 1), (2, 8, 3, 2, 5), (1, 5, 7, 3, 18), (1, 17, 1, 3, 4)]
any_impl = pytest.mark.parametrize("impl", IMPLS)


@pytest.fixture(autouse=True)
def _small_grid(monkeypatch):
    """Toy sizes are several calls of torch's attention."""
    monkeypatch.setattr(MODULE, "GRID", 5)


def inputs(shape, dtype=torch.float64) -> list[Any]:
    return list(torch.randn(3, *shape, dtype=torch.float64).to(dtype))


def textbook(q, k, v, scale):
    """A number at a time, with Python's own arithmetic."""
    B, F, N, H, d = q.shape
    o = torch.zeros_like(v)
    for b, n, h in ((b, n, h) for b in range(B) for n in range(N) for h in range(H)):
        for i in range(F):
            scores = [
                scale * sum(float(q[b, i, n, h, c] * k[b, j, n, h, c]) for c in range(d))
                for j in range(F)
            ]
            weights = [math.exp(s - max(scores)) for s in scores]
            for j, w in enumerate(weights):
                o[b, i, n, h] += w / sum(weights) * v[b, j, n, h]
    return o


@any_impl
@pytest.mark.parametrize("scale", [None, 0.3, -2.0, 0.0])
def test_it_is_the_formula(impl, scale):
    pytest.importorskip("triton")
    q, k, v = inputs((2, 3, 2, 2, 4))
    here = short_attention(q, k, v, scale=scale, impl=impl)
    torch.testing.assert_close(here, textbook(q, k, v, 0.5 if scale is None else scale))


def gradients(op, tensors, g, **options):
    """Result and gradients of one way to compute them."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    o = op(*leaves, **options)
    return o.detach(), *torch.autograd.grad(o, leaves, g.to(o.dtype))


@any_impl
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_result_and_gradients_are_those_of_autograd_through_the_formula(impl, shape):
    pytest.importorskip("triton")
    *tensors, g = torch.randn(4, *shape, dtype=torch.float64)
    here = gradients(short_attention, tensors, g, scale=0.7, impl=impl)
    torch.testing.assert_close(here, gradients(reference_short_attention, tensors, g, scale=0.7))
    assert here[0].is_contiguous()


@pytest.mark.parametrize("layout", ["plain", "strided"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torchs_attention_on_views_is_the_formula(monkeypatch, shape, layout):
    """A CPU takes products in its place, up to 32 frames."""
    monkeypatch.setattr(MODULE, "PRODUCTS", 0)
    *tensors, g = torch.randn(4, *shape, dtype=torch.float64)
    if layout == "strided":
        tensors = [x.transpose(1, 3).contiguous().transpose(1, 3) for x in tensors]
    here = gradients(short_attention, tensors, g, impl="torch")
    torch.testing.assert_close(here, gradients(reference_short_attention, tensors, g))
    with torch.no_grad():
        o = short_attention(*tensors, impl="torch")
    torch.testing.assert_close(o, here[0])
    assert o.is_contiguous()


@pytest.mark.parametrize("F", [9, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_torchs_form_loses_no_more_than_the_formula_in_its_dtype(dtype, F):
    tensors, g = inputs((2, F, 7, 3, 20), dtype), torch.randn(2, F, 7, 3, 20).to(dtype)
    truths = gradients(reference_short_attention, [x.double() for x in tensors], g.double())
    plain = gradients(reference_short_attention, tensors, g)
    found = gradients(short_attention, tensors, g, impl="torch")

    def error(x, truth):
        return float((x.double() - truth).norm() / truth.norm())

    for here, near, truth in zip(found, plain, truths, strict=True):
        assert here.dtype == dtype
        assert error(here, truth) <= 1.5 * error(near, truth) + torch.finfo(dtype).eps


@any_impl
def test_gradients_are_true(impl):
    pytest.importorskip("triton")
    tensors = [x.requires_grad_() for x in inputs((1, 3, 1, 2, 1))]

    def op(q, k, v):
        return short_attention(q, k, v, scale=0.6, impl=impl)

    assert torch.autograd.gradcheck(op, tensors)


@any_impl
@pytest.mark.parametrize("wanted", ["q", "k", "v", "kv"])
def test_some_gradients_are_those_of_all(impl, wanted):
    pytest.importorskip("triton")
    tensors, g = inputs((1, 4, 3, 2, 5)), torch.randn(1, 4, 3, 2, 5, dtype=torch.float64)
    _, *every = gradients(reference_short_attention, tensors, g)
    alone = [
        x.clone().requires_grad_(name in wanted) for name, x in zip("qkv", tensors, strict=True)
    ]
    short_attention(*alone, impl=impl).backward(g)
    for name, x, truth in zip("qkv", alone, every, strict=True):
        if name in wanted:
            torch.testing.assert_close(x.grad, truth)
        else:
            assert x.grad is None


@any_impl
@pytest.mark.parametrize("axis", range(5))
def test_any_dimension_may_be_zero(impl, axis):
    pytest.importorskip("triton")
    shape = [2, 3, 4, 2, 5]
    shape[axis] = 0
    leaves = [x.requires_grad_() for x in inputs(shape)]
    o = short_attention(*leaves, impl=impl)
    assert o.shape == tuple(shape)
    o.sum().backward()
    for x in leaves:
        assert x.grad is not None
        assert x.grad.shape == x.shape


@any_impl
def test_strides_do_not_matter_and_inputs_are_left_alone(impl):
    pytest.importorskip("triton")
    shape = (2, 5, 3, 2, 4)
    *tensors, g = torch.randn(4, *shape, dtype=torch.float64)
    plain = gradients(reference_short_attention, tensors, g)
    q, k, v = tensors
    strided = [
        q.permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4),  # frames side by side
        torch.cat([k, v, k], -1)[..., 4:8],  # as a joint projection has them; v by content
        v.mT.contiguous().mT,
    ]
    strided[1].copy_(k)
    before = [x.clone() for x in strided]
    here = gradients(short_attention, strided, g.mT.contiguous().mT, impl=impl)
    torch.testing.assert_close(here, plain)
    assert all(torch.equal(x, y) for x, y in zip(strided, before, strict=True))


@any_impl
def test_one_may_stand_for_many(impl):
    pytest.importorskip("triton")
    q, k, v = inputs((2, 3, 4, 2, 5))
    k, v = (x[:, :, :1, :1].expand(q.shape) for x in (k, v))
    g = torch.ones((), dtype=torch.float64).expand(q.shape)
    here = gradients(short_attention, (q, k, v), g, impl=impl)
    torch.testing.assert_close(here, gradients(reference_short_attention, (q, k, v), g))


@any_impl
def test_one_frame_gives_its_value(impl):
    pytest.importorskip("triton")
    tensors, g = inputs((2, 1, 3, 2, 5)), torch.randn(2, 1, 3, 2, 5, dtype=torch.float64)
    o, dq, dk, dv = gradients(short_attention, tensors, g, impl=impl)
    torch.testing.assert_close(o, tensors[2])
    torch.testing.assert_close(dv, g)
    assert not dq.any()
    assert not dk.any()


@any_impl
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_large_scores_choose_one_frame(impl, dtype):
    """Scores of 1,800 in float16, of 4.5e8 in float32; between them no exponential is finite."""
    pytest.importorskip("triton")
    size = 60.0 if dtype == torch.float16 else 3e4
    eye = torch.eye(4, dtype=dtype)[None, :, None, None] * size  # [1, 4, 1, 1, 4]
    v = torch.randn(1, 4, 1, 1, 4).to(dtype)
    for sign in (1, -1):
        found = gradients(short_attention, (eye, sign * eye, v), torch.ones_like(v), impl=impl)
        others = v.sum(1, keepdim=True).sub(v) / 3  # all but the one that is far below
        torch.testing.assert_close(found[0], v if sign == 1 else others, rtol=1e-3, atol=1e-3)
        assert all(x.isfinite().all() for x in found)


@any_impl
def test_adding_to_all_keys_changes_nothing_and_frames_have_no_order(impl):
    pytest.importorskip("triton")
    q, k, v = inputs((2, 6, 3, 2, 5))
    o = short_attention(q, k, v, impl=impl)
    torch.testing.assert_close(short_attention(q, k + 3 * k[:, :1], v, impl=impl), o)
    order = torch.randperm(6)
    moved = short_attention(q, k[:, order], v[:, order], impl=impl)
    torch.testing.assert_close(moved, o)


@any_impl
def test_a_place_does_not_depend_on_the_others(impl):
    pytest.importorskip("triton")
    tensors, g = inputs((2, 5, 6, 3, 4)), torch.randn(2, 5, 6, 3, 4, dtype=torch.float64)
    whole = gradients(short_attention, tensors, g, impl=impl)
    part = (slice(1, 2), slice(None), slice(2, 5), slice(1, 3))
    alone = gradients(short_attention, [x[part] for x in tensors], g[part], impl=impl)
    torch.testing.assert_close([x[part] for x in whole], list(alone), rtol=0, atol=1e-13)


@pytest.mark.parametrize("layout", ["plain", "strided"])
def test_the_registration_is_sound(layout):
    pytest.importorskip("triton")
    *tensors, g = torch.randn(4, 1, 3, 2, 2, 4)
    if layout == "strided":
        tensors = [x.transpose(1, 3).contiguous().transpose(1, 3) for x in tensors]
    for op, arguments in (
        (torch.ops.core_kernels.short_attention.default, (*tensors, 0.5)),
        (torch.ops.core_kernels.short_attention_backward.default, (*tensors, g, 0.5)),
    ):
        assert set(torch.library.opcheck(op, arguments).values()) == {"SUCCESS"}


@of_torch
@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_it_compiles_into_one_graph_with_its_gradient(impl):
    pytest.importorskip("triton")
    torch.compiler.reset()

    def loss(q, k, v):
        return short_attention(q, k, v, impl=impl).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for shape in ((1, 3, 2, 2, 4), (2, 4, 3, 2, 4)):  # shapes become symbols
        leaves = [x.requires_grad_() for x in inputs(shape, torch.float32)]
        here, there = (torch.autograd.grad(op(*leaves), leaves) for op in (compiled, loss))
        torch.testing.assert_close(here, there)


@of_torch
def test_a_compiled_function_follows_a_later_choice(monkeypatch):
    x = torch.randn(1, 4, 2, 1, 3)
    compiled = torch.compile(short_attention, fullgraph=True, backend="aot_eager")
    with use("torch"):
        compiled(x, x, x)
    monkeypatch.setattr(MODULE, "_formula", lambda q, k, v, scale: torch.full_like(q, 7.0))
    with use("reference"):
        assert torch.equal(compiled(x, x, x), torch.full_like(x, 7.0))


def test_more_places_than_a_grid_has_are_cut_into_several_calls(monkeypatch):
    sizes = []
    attention = module.scaled_dot_product_attention

    def counted(q, *others, **options):
        sizes.append(q.shape[0] * q.shape[1])
        return attention(q, *others, **options)

    monkeypatch.setattr(MODULE, "scaled_dot_product_attention", counted)
    monkeypatch.setattr(MODULE, "PRODUCTS", 0)
    short_attention(*inputs((3, 2, 4, 2, 3)), impl="torch")
    assert sizes == [4] * 6  # two places of two heads at a time
    assert 65_535 // 2 < 2**15 < 65_535


@any_impl
def test_autocast_does_not_change_it(impl):
    pytest.importorskip("triton")
    tensors = inputs((1, 4, 3, 2, 5), torch.float32)
    plain = short_attention(*tensors, impl=impl)
    with torch.autocast(plain.device.type, dtype=torch.bfloat16):
        assert torch.equal(short_attention(*tensors, impl=impl), plain)


def test_equal_inputs_give_equal_bits():
    tensors, g = inputs((2, 8, 5, 3, 7), torch.float32), torch.randn(2, 8, 5, 3, 7)
    first, second = (gradients(short_attention, tensors, g, impl="torch") for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


# --- what is refused, and what is known without numbers ---------------------------------------


def test_shapes_are_known_without_numbers():
    with FakeTensorMode():
        x = torch.empty(2, 3, 7, 2, 4, requires_grad=True)
        assert short_attention(x, x, x).shape == x.shape


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without CUDA")
def test_a_named_kernel_says_what_it_wants(monkeypatch):
    pytest.importorskip("triton")
    q, k, v = inputs((1, 2, 3, 1, 4), torch.float32)
    told = explain(short_attention, q, k, v, scale=0.5)
    assert told.chosen == "torch"
    assert set(told.obstacles.values()) == {None}
    monkeypatch.setattr(_choice, "triton_interprets", lambda: False)
    with pytest.raises(ValueError, match="wants tensors on a CUDA device, got cpu: move them"):
        short_attention(q, k, v, impl="triton")


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without CUDA")
def test_a_fake_tensor_of_a_gpu_that_is_not_there_has_its_shape(monkeypatch):
    monkeypatch.setattr(_choice, "triton_interprets", lambda: False)
    with FakeTensorMode():
        q = torch.empty(2, 3, 7, 2, 4, device="cuda")
        assert short_attention(q, q, q).shape == q.shape


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 33, 1, 1, 4), "at most 32 frames, got 33: take impl='torch'"),
        ((1, 2, 1, 1, 257), "at most 256 numbers in a head, got 257: take impl='torch'"),
        (
            (2, 1, 2**20, 2**10, 1),
            r"at most 1,073,741,824 sequences, got 2,147,483,648: take impl=",
        ),
    ],
    ids=["frames", "head", "sequences"],
)
def test_what_no_program_can_hold_is_refused_by_the_kernel(shape, message):
    pytest.importorskip("triton")
    x = torch.ones(()).expand(shape)
    with pytest.raises(ValueError, match=message):
        short_attention(x, x, x, impl="triton")


def test_it_needs_no_triton():
    code = (
        "import sys, torch; from core.kernels.short_attention import *\n"
        "short_attention(*torch.ones(3, 1, 2, 3, 1, 4))\n"
        "assert not {'torch._dynamo', 'triton'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


X = torch.ones(2, 3, 5, 2, 4)
REFUSED = [
    ({"q": X[0]}, r"want q, k, v \[B, F, N, H, d\] of one shape, got \[3, 5, 2, 4\] \[2, 3, 5, 2,"),
    ({"q": X[0], "k": X[0], "v": X[0]}, r"want q, k, v \[B, F, N, H, d\] of one shape, got \[3"),
    ({"k": X[:, :2]}, r"got .*\[2, 2, 5, 2, 4\]"),
    ({"v": X[..., :1]}, r"got .*\[2, 3, 5, 2, 1\]$"),
    ({"v": X.double()}, "want q, k, v of one dtype, got torch.float32, .*torch.float64"),
    ({"q": X.int(), "k": X.int(), "v": X.int()}, "of a dtype among float32, .*, got torch.int32"),
    ({"k": None}, "want q, k, v as dense tensors, got NoneType among them"),
    ({"k": X.to_sparse()}, "got layout torch.sparse_coo"),
    ({"v": X.to("meta")}, "want q, k, v on one device, got cpu, cpu, meta"),
    ({"impl": "cuda"}, "want one of auto, reference, torch, triton, got 'cuda'"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=lambda x: str(x)[:20])
def test_what_does_not_agree_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        short_attention(**({"q": X, "k": X, "v": X} | given))


def test_a_second_derivative_of_the_kernel_is_refused():
    pytest.importorskip("triton")
    leaves = [x.requires_grad_() for x in inputs((1, 2, 3, 1, 4))]
    o = short_attention(*leaves, impl="triton")
    with pytest.raises(ValueError, match=r"differentiable once.*take reference_short_attention"):
        torch.autograd.grad(o.sum(), leaves, create_graph=True)


@of_torch
def test_a_forward_mode_derivative_is_refused():
    with forward_ad.dual_level():
        x = forward_ad.make_dual(X, torch.ones_like(X))
        with pytest.raises(ValueError, match=r"reverse mode only.*take reference_short_attention"):
            short_attention(x, X, X)
        o = reference_short_attention(x, X, X)
        assert forward_ad.unpack_dual(o).tangent is not None
