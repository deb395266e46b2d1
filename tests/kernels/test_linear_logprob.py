import pytest
import torch

from core.kernels import _linear_logprob_blocks as blocks
from core.kernels.linear_logprob import linear_logprob, reference_logprob

# torch's compiler and its forward mode use what torch deprecates
of_torch = pytest.mark.filterwarnings("ignore::DeprecationWarning")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IMPLS = ["reference", "torch"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HEADS = ["trained", "frozen"]


@pytest.fixture(autouse=True)
def _on_the_gpu_where_there_is_one():
    with torch.device(DEVICE):
        yield


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


@pytest.mark.parametrize("wanted", ["hidden", "weight", "bias"])
@pytest.mark.parametrize("impl", IMPLS)
def test_any_one_gradient_is_that_of_all(impl, wanted):
    pytest.importorskip("triton")
    names = ("hidden", "weight", "target", "bias")
    given = dict(zip(names, inputs(5, 3, 7), strict=True))
    alone = {
        name: x.clone().requires_grad_(name == wanted)
        for name, x in given.items()
        if name != "target"
    }
    logp = linear_logprob(
        alone["hidden"], alone["weight"], given["target"], bias=alone["bias"], impl=impl
    )
    logp.sum().backward()
    every = {name: x.clone().requires_grad_() for name, x in given.items() if name != "target"}
    reference_logprob(**every, target=given["target"])[0].sum().backward()
    torch.testing.assert_close(alone[wanted].grad, every[wanted].grad)
    assert all(x.grad is None for name, x in alone.items() if name != wanted)


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
    _, lse, _ = op(*arguments)
    g, l = torch.randn(2, 6)
    backward = torch.ops.core_kernels.linear_logprob_backward.default
    for wanted in ([True, True, bias is not None], [True, False, False], [False, True, False]):
        arguments = hidden, weight, target, bias, lse, g, l, wanted, impl
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
