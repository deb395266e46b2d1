import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from core.kernels import _choice, explain
from core.kernels import _linear_logprob_blocks as blocks
from core.kernels.linear_logprob import linear_logprob, reference_logprob

# torch's compiler and its forward mode use what torch deprecates
of_torch = pytest.mark.filterwarnings("ignore::DeprecationWarning")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.usefixtures("on_the_gpu_where_there_is_one")
IMPLS = ["reference", "torch", "triton"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HEADS = ["trained", "frozen"]


any_impl = pytest.mark.parametrize("impl", IMPLS)
INF = float("inf")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Toy sizes are larger than a block."""
    monkeypatch.setattr(blocks, "BLOCK", {"cpu": (64, 64)})
    monkeypatch.setattr(blocks, "LARGE", (64, 64))


def inputs(N, D, V, dtype=torch.float64, scale=1.0):
    hidden, weight = torch.randn(N, D, dtype=torch.float64), torch.randn(V, D, dtype=torch.float64)
    bias = torch.randn(V, dtype=torch.float64)
    target = torch.randint(V, (N,))
    return (scale * hidden).to(dtype), weight.to(dtype), target, bias.to(dtype)


def textbook(hidden, weight, target, bias):
    """exp(z_y) / sum exp(z_v), a row and a token at a time, in float64."""
    logp = []
    for h, y in zip(hidden.double(), target, strict=True):
        z = [w @ h + b for w, b in zip(weight.double(), bias.double(), strict=True)]
        logp.append(torch.log(torch.exp(z[y]) / sum(torch.exp(x) for x in z)))
    return torch.stack(logp)


@pytest.mark.parametrize("impl", IMPLS)
def test_it_is_the_formula(impl):
    pytest.importorskip("triton")
    hidden, weight, target, bias = inputs(3, 5, 131)
    here = linear_logprob(hidden, weight, target, bias=bias, impl=impl)
    torch.testing.assert_close(here, textbook(hidden, weight, target, bias))


def gradients(op, tensors, g, l, *, head="trained", **options):
    """Results and gradients of one way to compute them."""
    hidden, weight, target, bias = tensors
    hidden = hidden.detach().requires_grad_()
    leaves = [hidden]
    if head == "trained":
        weight, bias = (x.detach().requires_grad_() for x in (weight, bias))
        leaves += [weight, bias]
    logp, lse = op(hidden, weight, target, bias=bias, **options)
    found = torch.autograd.grad((logp, lse), leaves, (g.to(logp.dtype), l.to(logp.dtype)))
    return logp.detach(), lse.detach(), *found


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("N", "D", "V"), [(1, 1, 1), (1, 3, 2), (70, 7, 67), (131, 19, 151)])
def test_results_and_gradients_are_those_of_autograd_through_the_formula(impl, head, N, D, V):
    pytest.importorskip("triton")
    tensors, (g, l) = inputs(N, D, V), torch.randn(2, N, dtype=torch.float64)
    here = gradients(linear_logprob, tensors, g, l, head=head, impl=impl, return_lse=True)
    there = gradients(reference_logprob, tensors, g, l, head=head)
    torch.testing.assert_close(here, there)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_blocked_form_loses_no_more_than_the_formula_in_its_dtype(dtype, head):
    tensors, (g, l) = inputs(70, 24, 300, dtype, scale=0.5), torch.randn(2, 70)
    wide = [x.double() if x.is_floating_point() else x for x in tensors]
    truths = gradients(reference_logprob, wide, g.double(), l.double(), head=head)
    plain = gradients(reference_logprob, tensors, g, l, head=head)
    found = gradients(linear_logprob, tensors, g, l, head=head, impl="torch", return_lse=True)
    assert found[0].dtype == torch.float32
    for here, near, truth in zip(found, plain, truths, strict=True):
        lost = (near.double() - truth).norm()
        # where the formula happens to lose nothing: one unit in the last place of the result
        slack = torch.finfo(here.dtype).eps * truth.norm()
        assert (here.double() - truth).norm() <= 2 * lost + slack


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("head", HEADS)
def test_gradients_are_true(impl, head):
    pytest.importorskip("triton")
    hidden, weight, target, bias = inputs(3, 2, 5)
    hidden.requires_grad_()
    for x in (weight, bias):
        x.requires_grad_(head == "trained")

    def op(*tensors):
        hidden, weight, bias = tensors
        return linear_logprob(hidden, weight, target, bias=bias, return_lse=True, impl=impl)

    assert torch.autograd.gradcheck(op, (hidden, weight, bias))


@pytest.mark.parametrize(
    "wanted", ["hidden", "weight", "bias", "hidden bias", "weight bias", "hidden weight"]
)
@pytest.mark.parametrize("impl", IMPLS)
def test_some_gradients_are_those_of_all(impl, wanted):
    pytest.importorskip("triton")
    names = ("hidden", "weight", "target", "bias")
    given = dict(zip(names, inputs(5, 3, 7), strict=True))
    alone = {
        name: x.clone().requires_grad_(name in wanted.split())
        for name, x in given.items()
        if name != "target"
    }
    logp = linear_logprob(
        alone["hidden"], alone["weight"], given["target"], bias=alone["bias"], impl=impl
    )
    logp.sum().backward()
    every = {name: x.clone().requires_grad_() for name, x in given.items() if name != "target"}
    reference_logprob(**every, target=given["target"])[0].sum().backward()
    for name, x in alone.items():
        if name in wanted.split():
            torch.testing.assert_close(x.grad, every[name].grad)
        else:
            assert x.grad is None


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("lead", [(0,), (), (2, 0), (2, 3)], ids=str)
@pytest.mark.parametrize("head", HEADS)
def test_leading_dimensions_are_free_and_may_be_zero(impl, lead, head):
    pytest.importorskip("triton")
    hidden = torch.randn(*lead, 4, requires_grad=True)
    weight = torch.randn(7, 4, requires_grad=head == "trained")
    target = torch.randint(7, lead)
    logp, lse = linear_logprob(hidden, weight, target, return_lse=True, impl=impl)
    assert logp.shape == lse.shape == lead
    logp.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.shape == hidden.shape
    if head == "trained":
        assert weight.grad is not None
        assert weight.grad.shape == weight.shape
        assert weight.grad.any() == bool(target.numel())


@pytest.mark.parametrize("impl", IMPLS)
def test_without_a_width_the_bias_decides(impl):
    pytest.importorskip("triton")
    bias, target = torch.randn(9), torch.tensor([3, 0])
    here = linear_logprob(torch.ones(2, 0), torch.ones(9, 0), target, bias=bias, impl=impl)
    torch.testing.assert_close(here, bias.log_softmax(0)[target])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("layout", ["plain", "transposed", "no bias"])
def test_the_registration_is_sound(impl, head, layout):
    pytest.importorskip("triton")
    hidden, weight, target, bias = inputs(6, 4, 9, torch.float32)
    if layout == "transposed":
        hidden, weight = (x.T.contiguous().T for x in (hidden, weight))
    bias = None if layout == "no bias" else bias
    op = torch.ops.core_kernels.linear_logprob.default
    frozen = head == "frozen" and impl != "reference"
    arguments = hidden, weight, target, bias, frozen, impl
    assert set(torch.library.opcheck(op, arguments).values()) == {"SUCCESS"}
    logp, lse, _ = op(*arguments)
    g, l = torch.randn(2, 6)
    backward = torch.ops.core_kernels.linear_logprob_backward.default
    for wanted in ([True, True, bias is not None], [True, False, False], [False, True, False]):
        arguments = hidden, weight, target, bias, logp, lse, g, l, wanted, impl
        assert set(torch.library.opcheck(backward, arguments).values()) == {"SUCCESS"}


@of_torch
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("head", HEADS)
def test_it_compiles_into_one_graph_with_its_gradient(impl, head):
    pytest.importorskip("triton")

    def loss(hidden, weight, bias, target):
        options = {"bias": bias, "return_lse": True, "impl": impl}
        logp, lse = linear_logprob(hidden, weight, target, **options)
        return (logp * lse).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for N, D in ((30, 4), (31, 4), (17, 4), (17, 5)):  # shapes become symbols
        hidden, weight, target, bias = inputs(N, D, 70, torch.float32)
        leaves = [hidden, weight, bias] if head == "trained" else [hidden]
        for x in leaves:
            x.requires_grad_()
        here, there = (
            torch.autograd.grad(op(hidden, weight, bias, target), leaves) for op in (compiled, loss)
        )
        torch.testing.assert_close(here, there)


@pytest.mark.parametrize("head", HEADS)
def test_a_second_derivative_is_refused(head):
    hidden, weight, target, _ = inputs(3, 2, 5)
    hidden.requires_grad_()
    weight.requires_grad_(head == "trained")
    logp = linear_logprob(hidden, weight, target)
    with pytest.raises(ValueError, match=r"differentiable once.*take reference_logprob"):
        torch.autograd.grad(logp.sum(), hidden, create_graph=True)


@any_impl
@pytest.mark.parametrize("head", HEADS)
def test_tokens_that_are_forbidden_are_no_nan(impl, head):
    """More than a first block, and more than a last one."""
    pytest.importorskip("triton")
    hidden, weight, target, bias = inputs(4, 3, 300)
    allowed = slice(140, 150)
    target = torch.tensor([140, 149, 145, 2])
    bias[:140] = bias[150:] = -INF
    g = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)  # nothing is asked of the last
    options = {"head": head, "impl": impl, "return_lse": True}
    found = gradients(linear_logprob, (hidden, weight, target, bias), g, g, **options)
    alone = hidden, weight[allowed], (target - 140).clamp(min=0), bias[allowed]
    expected = gradients(reference_logprob, alone, g, g, head=head)
    assert found[0][3] == -INF
    torch.testing.assert_close(found[0][:3], expected[0][:3])
    torch.testing.assert_close(found[1], expected[1])
    torch.testing.assert_close(found[2][:3], expected[2][:3])
    assert not any(x.isnan().any() for x in found)
    if head == "trained":
        assert not found[3][:140].any()
        torch.testing.assert_close(found[3][allowed], expected[3])


@any_impl
def test_strides_do_not_matter_and_inputs_are_left_alone(impl):
    pytest.importorskip("triton")
    hidden, weight, target, bias = inputs(70, 6, 131)
    plain = linear_logprob(hidden, weight, target, bias=bias, impl=impl)
    strided = (
        hidden.T.contiguous().T,
        weight.repeat_interleave(2, dim=1)[:, ::2],
        target.repeat_interleave(3)[::3],
        bias.repeat_interleave(2)[::2],
    )
    before = [x.clone() for x in strided]
    x, w, y, b = strided
    torch.testing.assert_close(linear_logprob(x, w, y, bias=b, impl=impl), plain)
    assert all(torch.equal(x, y) for x, y in zip(strided, before, strict=True))


def test_equal_inputs_give_equal_bits():
    tensors, (g, l) = inputs(70, 9, 131, torch.float32), torch.randn(2, 70)
    for head in HEADS:
        options = {"head": head, "impl": "torch", "return_lse": True}
        first, second = (gradients(linear_logprob, tensors, g, l, **options) for _ in range(2))
        assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


# --- what is refused, and what is known without numbers ---------------------------------------


def test_shapes_are_known_without_numbers():
    with FakeTensorMode():
        hidden, weight = torch.empty(2, 7, 4, requires_grad=True), torch.empty(9, 4)
        target = torch.empty(2, 7, dtype=torch.int64)
        assert linear_logprob(hidden, weight, target).shape == (2, 7)
        assert linear_logprob(hidden.bfloat16(), weight.bfloat16(), target).dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without CUDA")
def test_a_named_kernel_says_what_it_wants(monkeypatch):
    pytest.importorskip("triton")
    hidden, weight, target, bias = inputs(3, 2, 5)
    told = explain(linear_logprob, hidden, weight, target, bias=bias, return_lse=True)
    assert told.chosen == "torch"
    assert set(told.obstacles.values()) == {None}
    monkeypatch.setattr(_choice, "triton_interprets", lambda: False)
    with pytest.raises(ValueError, match="wants tensors on a CUDA device, got cpu: move them"):
        linear_logprob(hidden, weight, target, impl="triton")


def test_it_needs_no_triton():
    code = (
        "import sys, torch; from core.kernels.linear_logprob import *\n"
        "linear_logprob(torch.ones(1, 2), torch.ones(3, 2), torch.tensor([1]))\n"
        "assert not {'torch._dynamo', 'triton'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_autocast_does_not_narrow_what_is_summed():
    hidden, weight, target, _ = inputs(5, 3, 70, torch.float32)
    plain = linear_logprob(hidden, weight, target)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        assert torch.equal(linear_logprob(hidden, weight, target), plain)


H, W, Y = torch.ones(2, 5, 3), torch.ones(7, 3), torch.zeros(2, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("hidden", "weight", "target", "bias", "message"),
    [
        (H, W[:, :2], Y, None, r"want hidden \[\.\.\., D\], weight \[V, D\].*\[2, 5, 3\] \[7, 2\]"),
        (H, W, Y[:1], None, r"\[2, 5, 3\] \[7, 3\] \[1, 5\]"),
        (H, W[0], Y, None, r"got \[2, 5, 3\] \[3\]"),
        (H, W[:0], Y, None, "V at least 1"),
        (H, W, Y, W[:, :1], r"want bias \[V\], one number a row of weight.*\[7, 1\]"),
        (H, W.double(), Y, None, r"of one dtype among.*float64: cast them, as with weight\.to"),
        (H.int(), W.int(), Y, None, "float16, got torch.int32"),
        (H, W, Y.int(), None, r"want target of int64, got torch\.int32: take target\.long"),
        (H, W, None, None, "as dense tensors, got NoneType"),
        (H, W.to_sparse(), Y, None, "got layout torch.sparse_coo"),
        (H, W.to("meta"), Y, None, "on one device, got cpu, meta, cpu"),
        (H, W, Y + 7, None, r"want every target in \[0, V\) with V = 7, got 7 to 7: leave out"),
        (H, W, Y - 100, None, "got -100 to -100"),
    ],
)
@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_what_does_not_agree_is_refused(hidden, weight, target, bias, message, impl):
    with pytest.raises(ValueError, match=message):
        linear_logprob(hidden, weight, target, bias=bias, impl=impl)


@of_torch
def test_a_forward_mode_derivative_is_refused():
    with forward_ad.dual_level():
        hidden = forward_ad.make_dual(H, torch.ones_like(H))
        with pytest.raises(ValueError, match=r"reverse mode only.*take reference_logprob"):
            linear_logprob(hidden, W, Y)
        assert forward_ad.unpack_dual(reference_logprob(hidden, W, Y)[0]).tangent is not None
