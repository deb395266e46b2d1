"""The Triton kernels against the formula in float64: on a GPU, or in the interpreter.

The interpreter sees no races, no shared memory, no tensor cores' formats; `aot` and a GPU see them.
"""

import inspect
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from core.kernels._choice import triton_interprets  # noqa: E402
from core.kernels.causal_linear_attention import (  # noqa: E402
    causal_linear_attention,
    reference_attention,
)
from core.kernels.causal_linear_attention_triton import triton_attention  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WAYS = [{"normalize": n, "reverse": r} for n, r in itertools.product([False, True], repeat=2)]
DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.complex64,
    torch.complex128,
]
ANY_WAY = pytest.mark.parametrize("way", WAYS, ids=str)
ANY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def wide(dtype):
    return torch.complex128 if dtype.is_complex else torch.float64


def random(*shape, dtype):
    return torch.randn(*shape, dtype=wide(dtype)).to(dtype).to(DEVICE)


def inputs(B, T, D, M, dtype):
    return tuple(random(B, T, width, dtype=dtype) for width in (D, D, M))


def by_triton(q, k, v, *, segments=None, **way):
    out = torch.empty_like(v)
    return triton_attention(q, k, v, out, segments=segments, **way)


def error(result, truth):
    return float((result.to(truth.dtype) - truth).norm() / truth.norm())


def allowed(same_dtype, truth):
    """Twice what a computation in the same dtype loses.

    The interpreter cuts bfloat16 off where a GPU rounds (test below): twice the error again.
    """
    cut_off = same_dtype.dtype == torch.bfloat16 and triton_interprets()
    factor = 4 if cut_off else 2
    return factor * error(same_dtype, truth) + 16 * torch.finfo(same_dtype.dtype).eps


def check(results, same, truths):
    for result, near, truth in zip(results, same, truths, strict=True):
        assert error(result, truth) <= allowed(near, truth)


@ANY_WAY
@ANY_DTYPE
@pytest.mark.parametrize(
    ("shape", "segments"),
    [
        ((3, 37, 3, 5), None),  # token by token
        ((1, 1, 1, 1), None),
        ((1, 1, 3, 2), 1),  # one token of one block
        ((2, 131, 7, 18), 1),  # more than a block, a prime, an odd width
        ((1, 150, 18, 7), 3),  # segments, the last one short
    ],
    ids=str,
)
def test_a_kernel_loses_no_more_than_its_dtype(shape, segments, dtype, way):
    q, k, v = inputs(*shape, dtype)
    truth = reference_attention(*(x.to(wide(dtype)) for x in (q, k, v)), **way)
    same = reference_attention(q, k, v, **way)
    check([by_triton(q, k, v, segments=segments, **way)], [same], [truth])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_wide_keys_are_cut_into_slices_that_add_up(dtype):
    q, k, v = inputs(1, 40, 150, 3, dtype)  # 128 columns at most, for any dtype
    truth = reference_attention(*(x.to(wide(dtype)) for x in (q, k, v)), normalize=True)
    same = reference_attention(q, k, v, normalize=True)
    for segments in (1, 2):
        here = by_triton(q, k, v, segments=segments, normalize=True, reverse=False)
        check([here], [same], [truth])


@ANY_WAY
@ANY_DTYPE
def test_gradients_lose_no_more_than_their_dtype(dtype, way):
    tensors = inputs(2, 19, 3, 4, dtype)
    g = random(2, 19, 4, dtype=dtype)

    def gradients(op, dtype, **options):
        leaves = [x.to(dtype).detach().requires_grad_() for x in tensors]
        return torch.autograd.grad(op(*leaves, **way, **options), leaves, g.to(dtype))

    here = gradients(causal_linear_attention, dtype, impl="triton")
    check(
        here,
        gradients(reference_attention, dtype),
        gradients(reference_attention, wide(dtype)),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("normalize", [False, True])
def test_the_kernels_gradient_and_its_gradient_are_true(dtype, normalize):
    tensors = [x.requires_grad_() for x in inputs(1, 3, 2, 1, dtype)]

    def op(q, k, v):
        return causal_linear_attention(q, k, v, normalize=normalize, impl="triton")

    assert torch.autograd.gradcheck(op, tensors)
    assert torch.autograd.gradgradcheck(op, tensors)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_and_any_strides(data):
    lead = data.draw(st.lists(st.integers(0, 3), max_size=3), label="leading dimensions")
    T, D, M = data.draw(st.tuples(*(st.integers(0, n) for n in (40, 9, 9))), label="T, D, M")
    dtype = data.draw(st.sampled_from([torch.float32, torch.complex64]), label="dtype")
    scale = data.draw(st.sampled_from([1e-12, 1.0, 1e9]), label="scale")
    way = data.draw(st.sampled_from(WAYS), label="way")
    widths = ((D, "q"), (D, "k"), (M, "v"))
    q, k, v = (drawn(data, (*lead, T, W), dtype, name) * scale for W, name in widths)
    truth = reference_attention(*(x.to(wide(dtype)) for x in (q, k, v)), **way)
    before = [x.clone() for x in (q, k, v)]
    here = causal_linear_attention(q, k, v, impl="triton", **way)
    assert here.shape == truth.shape
    assert here.stride() == torch.empty_like(v).stride()
    assert all(torch.equal(x, y) for x, y in zip((q, k, v), before, strict=True))
    if truth.numel():
        # a sum of T D products, each rounded thrice, whatever cancels
        most = reference_attention(*(x.abs().double() for x in (q, k, v)), **way)
        assert ((here - truth).abs() <= 1e-5 * most + 1e-30).all()


def drawn(data, shape, dtype, name):
    """A tensor of this shape: contiguous, transposed, sliced, expanded, or conjugated."""
    kind = data.draw(st.sampled_from(["plain", "transposed", "sliced", "expanded", "conj"]), name)
    if kind == "transposed":
        return random(*shape[:-2], shape[-1], shape[-2], dtype=dtype).mT
    if kind == "sliced":
        return random(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]
    if kind == "expanded" and len(shape) > 2:
        return random(1, *shape[1:], dtype=dtype).expand(shape)
    x = random(*shape, dtype=dtype)
    return x.conj() if kind == "conj" else x


@pytest.mark.parametrize("segments", [None, 1, 2])
def test_equal_inputs_give_equal_bits(segments):
    q, k, v = inputs(2, 70, 5, 5, torch.float32)
    first, second = (
        by_triton(q, k, v, segments=segments, normalize=True, reverse=False) for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("segments", [None, 1])
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_comes_from_the_other_side_of_time(segments, reverse):
    q, k, v = inputs(1, 40, 4, 4, torch.float32)
    at = 20
    other = slice(None, at) if reverse else slice(at + 1, None)
    here = slice(at, None) if reverse else slice(None, at + 1)
    before = by_triton(q, k, v, segments=segments, normalize=True, reverse=reverse)[:, here]
    for x in (q, k, v):
        x[:, other] = 1e6
    after = by_triton(q, k, v, segments=segments, normalize=True, reverse=reverse)[:, here]
    assert torch.equal(before, after)


def test_a_layout_that_no_kernel_writes_is_filled_all_the_same():
    q, k = inputs(2, 9, 3, 3, torch.complex64)[:2]
    v = random(2, 5, 9, dtype=torch.complex64).mT  # tokens side by side in memory
    here = causal_linear_attention(q, k, v, impl="triton")
    assert here.stride() == v.stride()
    torch.testing.assert_close(here, reference_attention(q, k, v))


def test_a_state_beyond_float16_is_no_infinity():
    q = torch.full((1, 1100, 1), 0.01, dtype=torch.float16, device=DEVICE)
    k, v = torch.full_like(q, 8.0), torch.full_like(q, 8.0)  # the state reaches 70,400
    here = causal_linear_attention(q, k, v, normalize=True, impl="triton")
    truth = reference_attention(*(x.double() for x in (q, k, v)), normalize=True)
    assert error(here, truth) < 2e-3


def test_scores_beyond_float16_are_no_infinity():
    q = torch.full((1, 3, 64), 40.0, dtype=torch.float16, device=DEVICE)
    v = torch.full((1, 3, 2), 0.01, dtype=torch.float16, device=DEVICE)  # a score is 102,400
    here = by_triton(q, q, v, segments=1, normalize=True, reverse=False)
    assert (
        error(here, reference_attention(q.double(), q.double(), v.double(), normalize=True)) < 2e-3
    )


def test_a_small_gradient_late_in_a_long_float16_sequence_is_not_lost():
    """1/t of it is below what float16 can hold."""
    k, q, g = inputs(1, 1500, 3, 3, torch.float16)
    g = g * 1e-4
    way = {"normalize": True, "reverse": True}
    here = by_triton(k, q, g, segments=1, **way)[:, 1000:]
    truth = reference_attention(*(x.double() for x in (k, q, g)), **way)[:, 1000:]
    assert error(here, truth) < 0.02  # the results themselves are near the end of float16


@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_width_and_length_in_blocks(data):
    T, D, M = data.draw(st.tuples(*(st.integers(1, n) for n in (150, 140, 70))), label="T, D, M")
    segments = data.draw(st.integers(1, 4), label="segments")
    way = data.draw(st.sampled_from(WAYS), label="way")
    q, k, v = inputs(1, T, D, M, torch.float32)
    truth = reference_attention(q.double(), k.double(), v.double(), **way)
    here = by_triton(q, k, v, segments=segments, **way)
    check([here], [reference_attention(q, k, v, **way)], [truth])


def test_the_place_of_a_slice_is_counted_in_64_bits():
    """Four slices of 2^30 numbers; nothing is allocated, and nothing runs."""
    from core.kernels import causal_linear_attention_triton as module

    q, v = (
        torch.empty(4, 32, 32768, width, dtype=torch.bfloat16, device="meta")
        for width in (512, 256)
    )
    rows = module._Rows(q, q, v, v)
    launch = next(iter(module._launches(rows, module._Plan(False, False, False, 90, 1))))
    assert launch.arguments["o_slice"] * 3 >= 2**31
    assert "slice.to(tl.int64) * o_slice" in inspect.getsource(module._blocks_kernel.fn)


# --- what the interpreter gets wrong ----------------------------------------------------------

in_the_interpreter = pytest.mark.skipif(not triton_interprets(), reason="of the interpreter only")


@triton.jit
def _product_kernel(a_ptr, b_ptr, o_ptr):
    i, j = tl.arange(0, 16)[:, None], tl.arange(0, 16)[None, :]
    product = tl.dot(tl.load(a_ptr + 16 * i + j), tl.load(b_ptr + 16 * i + j))
    tl.store(o_ptr + 16 * i + j, product)


@triton.jit
def _cast_kernel(x_ptr, o_ptr):
    tl.store(o_ptr, tl.load(x_ptr).to(tl.bfloat16))


@in_the_interpreter
def test_a_bfloat16_product_is_silently_wrong_there():
    """If this fails, Triton has mended it: drop INTERPRETED from the kernels."""
    a, b = random(2, 16, 16, dtype=torch.bfloat16)
    o = torch.empty(16, 16)
    _product_kernel[(1,)](a, b, o)
    assert error(o, a.double() @ b.double()) > 1


@in_the_interpreter
def test_no_kernel_relies_on_a_bfloat16_product(monkeypatch):
    """Break the products that would be wrong, loudly, and run the op."""
    from triton.runtime.interpreter import InterpreterBuilder

    create_dot = InterpreterBuilder.create_dot

    def guarded(self, a, b, *rest):
        assert tl.bfloat16 not in (a.dtype.scalar, b.dtype.scalar), "a product of bfloat16"
        return create_dot(self, a, b, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", guarded)
    q, k, v = (x.requires_grad_() for x in inputs(1, 70, 40, 40, torch.bfloat16))
    causal_linear_attention(q, k, v, normalize=True, impl="triton").sum().backward()
    with pytest.raises(Exception, match="a product of bfloat16"):
        _product_kernel[(1,)](*random(2, 16, 16, dtype=torch.bfloat16), torch.empty(16, 16))


@in_the_interpreter
def test_a_bfloat16_is_cut_off_there_not_rounded():
    """The reason for the factor in `allowed`. If this fails, take it away."""
    x, o = torch.tensor([1 + 2.0**-8 + 2.0**-9]), torch.empty(1, dtype=torch.bfloat16)
    _cast_kernel[(1,)](x, o)
    assert o.item() == 1.0
    assert x.bfloat16().item() == 1 + 2.0**-7
