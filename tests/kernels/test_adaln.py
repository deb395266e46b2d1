import math
from typing import Any

import pytest
import torch

from core.kernels import _adaln_blocks as blocks
from core.kernels.adaln import adaln, reference_adaln

# torch's compiler uses what torch deprecates
of_torch = pytest.mark.filterwarnings("ignore::DeprecationWarning")
pytestmark = pytest.mark.usefixtures("on_the_gpu_where_there_is_one")
IMPLS = ["reference", "torch", "triton"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
KINDS = ["gated", "no gate", "no branch"]
SHAPES = [(1, 1, 1), (7, 5, 7), (2, 31, 13), (5, 1, 18), (2, 4, 67)]

any_impl = pytest.mark.parametrize("impl", IMPLS)
any_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Toy sizes are larger than a block: of whole samples below 50 numbers, else of tokens."""
    monkeypatch.setattr(blocks, "BLOCK", 150)
    monkeypatch.setattr(blocks, "SAMPLE", 50)


def inputs(shape, kind="gated", dtype=torch.float64) -> list[Any]:
    """x, shift, scale, then branch and gate where there are any; a mean that is not zero."""
    B, _, D = shape
    shapes = [shape, (B, D), (B, D), shape, (B, D)]
    count = {"gated": 5, "no gate": 4, "no branch": 3}[kind]
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes[:count]]
    tensors[0] += 0.5
    return [x.to(dtype) for x in tensors]


def named(tensors) -> dict[str, Any]:
    return dict(zip(("x", "shift", "scale", "branch", "gate"), tensors, strict=False))


def textbook(x, shift, scale, branch=None, gate=None, eps=1e-6):
    """A number at a time, with Python's own arithmetic."""
    B, T, D = x.shape
    made, y = torch.empty_like(x), torch.empty_like(x)
    for b in range(B):
        for t in range(T):
            row = [float(x[b, t, d]) for d in range(D)]
            if branch is not None:
                g = [1.0] * D if gate is None else gate[b].tolist()
                row = [r + g[d] * float(branch[b, t, d]) for d, r in enumerate(row)]
            mean = sum(row) / D
            sd = math.sqrt(sum((r - mean) ** 2 for r in row) / D + eps)
            for d, r in enumerate(row):
                made[b, t, d] = r
                y[b, t, d] = shift[b, d] + (1 + scale[b, d]) * (r - mean) / sd
    return made, y


@any_kind
@any_impl
def test_it_is_the_formula(impl, kind):
    pytest.importorskip("triton")
    given = named(inputs((2, 3, 5), kind))
    here = adaln(**given, eps=0.25, impl=impl)
    torch.testing.assert_close(here, textbook(**given, eps=0.25))


def gradients(op, tensors, u, v, **options):
    """Results and gradients of one way to compute them; a missing u or v stands for zero."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    made, y = op(**named(leaves), **options)
    outs = [o for o, g in ((made, u), (y, v)) if g is not None]
    back = [g.to(o.dtype) for o, g in ((made, u), (y, v)) if g is not None]
    found = torch.autograd.grad(outs, leaves, back, allow_unused=True, materialize_grads=True)
    return made.detach(), y.detach(), *found


def error(x, truth) -> float:
    return float((x.double() - truth.double()).norm() / truth.double().norm())


def backs(shape):
    return torch.randn(2, *shape, dtype=torch.float64).unbind()


@any_kind
@any_impl
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_are_those_of_autograd_through_the_formula(impl, kind, shape):
    pytest.importorskip("triton")
    tensors, (u, v) = inputs(shape, kind), backs(shape)
    here = gradients(adaln, tensors, u, v, impl=impl)
    there = gradients(reference_adaln, tensors, u, v)
    torch.testing.assert_close(here, there)
    assert [x.shape for x in here[2:]] == [x.shape for x in tensors]


@any_kind
@any_impl
@pytest.mark.parametrize("used", ["x'", "y"])
def test_a_result_that_is_not_used_gives_no_gradient(impl, kind, used):
    pytest.importorskip("triton")
    tensors, (u, v) = inputs((2, 3, 5), kind), backs((2, 3, 5))
    u, v = (u, None) if used == "x'" else (None, v)
    here = gradients(adaln, tensors, u, v, impl=impl)
    torch.testing.assert_close(here, gradients(reference_adaln, tensors, u, v))


@any_kind
@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_form_loses_more_than_the_formula_in_its_dtype(impl, dtype, kind):
    shape = (3, 41, 37)
    tensors, (u, v) = inputs((3, 41, 37), kind, dtype), (g.to(dtype) for g in backs(shape))
    truths = gradients(reference_adaln, [x.double() for x in tensors], u, v)
    plain = gradients(reference_adaln, tensors, u, v)
    found = gradients(adaln, tensors, u, v, impl=impl)
    for here, near, truth in zip(found, plain, truths, strict=True):
        assert here.dtype == near.dtype == dtype
        # where the formula happens to lose nothing: one unit in the last place of the result
        assert error(here, truth) <= 1.5 * error(near, truth) + torch.finfo(dtype).eps


@any_impl
def test_a_large_mean_does_not_cancel(impl):
    """The variance is that of what is left when the mean is taken away."""
    pytest.importorskip("triton")
    x = 1e4 + torch.randn(1, 3, 64)
    zero = torch.zeros(1, 64)
    _, y = adaln(x, zero, zero, impl=impl)
    truth = torch.nn.functional.layer_norm(x.double(), (64,), eps=1e-6)
    # a number near 10,000 has a unit of 1e-3; the mean of 64 of them is rounded once more
    assert (y - truth).abs().max() < 2e-3


MIXED = [  # x, shift and scale, branch, gate; x' and y
    (torch.float32, torch.float32, torch.bfloat16, torch.float32, torch.float32, torch.float32),
    (torch.bfloat16, torch.float32, torch.bfloat16, torch.bfloat16, torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.bfloat16, torch.float16, torch.bfloat16, torch.float32, torch.float32),
    (torch.float32, torch.float64, torch.float32, torch.float32, torch.float32, torch.float64),
]


@any_impl
@pytest.mark.parametrize("dtypes", MIXED, ids=str)
def test_dtypes_may_differ_and_results_have_those_to_which_torch_promotes(impl, dtypes):
    pytest.importorskip("triton")
    *given, made, y = dtypes
    wanted = given[0], given[1], given[1], given[2], given[3]
    tensors = [x.to(d) for x, d in zip(inputs((2, 7, 5)), wanted, strict=True)]
    u, v = backs((2, 7, 5))
    u, v = u.to(made), v.to(y)
    found = gradients(adaln, tensors, u, v, impl=impl)
    plain = gradients(reference_adaln, tensors, u, v)
    kinds = [made, y, *wanted]
    assert [x.dtype for x in found] == [x.dtype for x in plain] == kinds
    truth = gradients(reference_adaln, [x.double() for x in tensors], u.double(), v.double())
    for here, near, exact, dtype in zip(found, plain, truth, kinds, strict=True):
        # an interpreter that cuts bfloat16 off loses twice what rounding does
        unit = max(torch.finfo(kind).eps for kind in (dtype, made))
        assert error(here, exact) <= 1.5 * error(near, exact) + unit


@any_kind
@pytest.mark.parametrize(
    ("impl", "shape"),
    [("reference", (2, 2, 3)), ("torch", (2, 2, 3)), ("torch", (1, 9, 7)), ("triton", (1, 2, 3))],
    ids=str,
)
def test_gradients_are_true(impl, shape, kind):
    pytest.importorskip("triton")
    tensors = [x.requires_grad_() for x in inputs(shape, kind)]

    def op(*tensors):
        return adaln(**named(tensors), eps=0.1, impl=impl)

    assert torch.autograd.gradcheck(op, tensors)


@any_impl
@pytest.mark.parametrize("wanted", ["x", "shift", "scale", "branch", "gate", "branch gate"])
def test_some_gradients_are_those_of_all(impl, wanted):
    pytest.importorskip("triton")
    tensors, (u, v) = named(inputs((2, 5, 3))), backs((2, 5, 3))
    alone = {k: x.clone().requires_grad_(k in wanted.split()) for k, x in tensors.items()}
    torch.autograd.backward(adaln(**alone, impl=impl), (u, v))
    every = {k: x.clone().requires_grad_() for k, x in tensors.items()}
    torch.autograd.backward(reference_adaln(**every), (u, v))
    for name, x in alone.items():
        if name in wanted.split():
            torch.testing.assert_close(x.grad, every[name].grad)
        else:
            assert x.grad is None


@any_kind
@any_impl
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (0, 0, 4), (2, 3, 0)], ids=str)
def test_there_may_be_no_sample_no_token_and_no_width(impl, kind, shape):
    pytest.importorskip("triton")
    leaves = [x.requires_grad_() for x in inputs(shape, kind)]
    made, y = adaln(**named(leaves), impl=impl)
    assert made.shape == y.shape == shape
    (made.sum() + y.sum()).backward()
    for x in leaves:
        assert x.grad is not None
        assert x.grad.shape == x.shape
        assert not x.grad.any()


@any_impl
@pytest.mark.parametrize("axes", [2, 3])
def test_a_vector_may_be_one_for_all_samples_and_have_an_axis_for_tokens(impl, axes):
    pytest.importorskip("triton")
    x, shift, scale, branch, gate = inputs((3, 4, 5))
    u, v = backs((3, 4, 5))
    one = [m[:1] if axes == 2 else m[:1, None] for m in (shift, scale, gate)]
    shift, scale, gate = (m[:1].expand(3, -1).contiguous() for m in (shift, scale, gate))
    there = gradients(reference_adaln, (x, shift, scale, branch, gate), u, v)
    here = gradients(adaln, (x, one[0], one[1], branch, one[2]), u, v, impl=impl)
    for i, (found, wanted) in enumerate(zip(here, there, strict=True)):
        wanted = wanted.sum(0).view_as(found) if i in (3, 4, 6) else wanted
        torch.testing.assert_close(found, wanted)


@any_impl
def test_strides_do_not_matter_and_inputs_are_left_alone(impl):
    pytest.importorskip("triton")
    x, shift, scale, branch, gate = inputs((3, 7, 5))
    (u, v), six = backs((3, 7, 5)), torch.stack((shift, scale, gate), 1).flatten(1)
    plain = gradients(adaln, (x, shift, scale, branch, gate), u, v, impl=impl)
    strided = [
        x.transpose(0, 2).contiguous().transpose(0, 2),
        six[:, :5],  # as a model has them: chunks of one row
        six[:, 5:10],
        branch.repeat_interleave(2, dim=2)[..., ::2],
        six[:, 10:],
    ]
    before = [t.clone() for t in strided]
    u = u.mT.contiguous().mT
    here = gradients(adaln, strided, u, v[:, :, :1].expand(-1, -1, 5), impl=impl)
    there = gradients(reference_adaln, before, u, v[:, :, :1].expand(-1, -1, 5).contiguous())
    torch.testing.assert_close(here[:2], plain[:2])
    torch.testing.assert_close(here, there)
    assert all(torch.equal(t, y) for t, y in zip(strided, before, strict=True))


@any_impl
def test_a_nan_stays_in_its_token_and_in_gradients_of_vectors_in_its_sample(impl):
    pytest.importorskip("triton")
    tensors, (u, v) = inputs((2, 7, 5)), backs((2, 7, 5))
    tensors[3][1, 4, 2] = math.nan
    made, y, *found = gradients(adaln, tensors, u, v, impl=impl)
    assert made.isfinite().logical_not().sum() == 1
    token = torch.zeros(2, 7, 5, dtype=torch.bool)
    token[1, 4] = True
    assert torch.equal(y.isnan(), token)
    dx, dshift, dscale, dh, dg = found
    for g in (dx, dh):
        assert torch.equal(g.isnan(), token)
    assert dshift.isfinite().all()  # it is the sum of v
    for g in (dscale, dg):
        assert g[0].isfinite().all()
        assert g[1].isnan().all()


@any_impl
@any_kind
def test_the_registration_is_sound(impl, kind):
    pytest.importorskip("triton")
    given = named(inputs((3, 4, 5), kind, torch.float32))
    vectors = given["shift"], given["scale"]
    layer = given.get("branch"), given.get("gate")
    op = torch.ops.core_kernels.adaln.default
    arguments = given["x"], *layer, *vectors, 1e-6, impl
    assert set(torch.library.opcheck(op, arguments).values()) == {"SUCCESS"}
    kept, _, mean, rstd = op(*arguments)
    kept = kept if kind != "no branch" else given["x"]
    backward = torch.ops.core_kernels.adaln_backward.default
    for u in (None, torch.randn(3, 4, 5)):
        arguments = kept, *layer, given["scale"], mean, rstd, u, torch.randn(3, 4, 5), impl
        assert set(torch.library.opcheck(backward, arguments).values()) == {"SUCCESS"}


@of_torch
@any_impl
@any_kind
def test_it_compiles_into_one_graph_with_its_gradient(impl, kind):
    pytest.importorskip("triton")
    torch.compiler.reset()  # or all these cases would count as one function's

    def loss(*tensors):
        made, y = adaln(**named(tensors), impl=impl)
        return (made.sin() * y).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for shape in ((2, 7, 4), (3, 9, 5)):  # shapes become symbols
        leaves = [x.requires_grad_() for x in inputs(shape, kind, torch.float32)]
        here, there = (torch.autograd.grad(op(*leaves), leaves) for op in (compiled, loss))
        torch.testing.assert_close(here, there)


def test_a_second_derivative_is_refused():
    leaves = [x.requires_grad_() for x in inputs((2, 3, 4))]
    made, y = adaln(**named(leaves))
    with pytest.raises(ValueError, match=r"differentiable once.*take reference_adaln"):
        torch.autograd.grad((made * y).sum(), leaves, create_graph=True)


def test_equal_inputs_give_equal_bits():
    tensors, (u, v) = inputs((3, 41, 13), dtype=torch.float32), backs((3, 41, 13))
    first, second = (gradients(adaln, tensors, u, v, impl="torch") for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_a_sample_does_not_depend_on_the_others():
    tensors, (u, v) = inputs((3, 41, 13)), backs((3, 41, 13))
    whole = gradients(adaln, tensors, u, v, impl="torch")
    alone = gradients(adaln, [t[1:2] for t in tensors], u[1:2], v[1:2], impl="torch")
    torch.testing.assert_close([x[1:2] for x in whole], list(alone), rtol=0, atol=1e-13)
