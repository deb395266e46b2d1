"""The Triton kernels against the formula in float64: on a GPU, or in the interpreter.

The interpreter sees no races, no shared memory, no tensor cores' formats; `aot` and a GPU see them.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from core.kernels import short_attention_triton as module  # noqa: E402
from core.kernels._choice import triton_interprets  # noqa: E402
from core.kernels.short_attention import (  # noqa: E402
    reference_short_attention,
    short_attention,
)

pytestmark = pytest.mark.usefixtures("poisoned")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
if DEVICE == "cpu":
    DTYPES.append(torch.float64)
ANY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64).to(dtype).to(DEVICE)


def run(op, tensors, g, **options):
    """Result and gradients."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    o = op(*leaves, **options)
    return o.detach(), *torch.autograd.grad(o, leaves, g.to(o.dtype))


def truth_of(tensors, g, **options):
    return run(reference_short_attention, [x.double() for x in tensors], g.double(), **options)


def error(x, truth):
    return float((x.double() - truth).norm() / (truth.norm() or 1.0))


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


SHAPES = [  # B, F, N, H, d
    (1, 1, 1, 1, 1),
    (2, 8, 3, 3, 40),  # the paper's, two sequences a tile, the last one alone
    (1, 5, 7, 2, 18),  # three sequences and a row that is none's
    (2, 16, 1, 1, 3),  # a whole tile
    (1, 17, 2, 1, 7),  # half of a larger one
    (1, 32, 1, 1, 80),  # all of it, and slices of a float32
]


@ANY_DTYPE
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernels_lose_no_more_than_their_dtype(shape, dtype):
    *tensors, g = (random(*shape, dtype=dtype) for _ in range(4))
    plain = run(reference_short_attention, tensors, g)
    check(run(short_attention, tensors, g, impl="triton"), plain, truth_of(tensors, g))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_and_any_strides(data):
    shape = data.draw(st.tuples(*(st.integers(0, n) for n in (2, 32, 3, 3, 20))), label="shape")
    *tensors, g = (drawn(data, random(*shape).float(), name) for name in "qkvg")
    scale = data.draw(st.sampled_from([None, 0.0, -0.3, 30.0]), label="scale")
    before = [x.clone() for x in (*tensors, g)]
    found = run(short_attention, tensors, g, scale=scale, impl="triton")
    assert all(torch.equal(x, y) for x, y in zip((*tensors, g), before, strict=True))
    for here, truth in zip(found, truth_of(tensors, g, scale=scale), strict=True):
        # scores of up to 30 x 100 keep 1e-7 of that, and so do their exponentials
        torch.testing.assert_close(here.double(), truth, rtol=2e-3, atol=2e-3)


def drawn(data, x, name):
    """The same shape: as it is, in another order, cut out of a wider tensor, or one for all."""
    kind = data.draw(st.sampled_from(["plain", "order", "part", "sliced", "expanded"]), name)
    if kind == "order":
        order = data.draw(st.permutations(range(5)), label="order")
        return x.permute(order).contiguous().permute([order.index(i) for i in range(5)])
    if kind == "part":
        return torch.cat([x.new_full(x.shape, torch.nan), x], -1)[..., x.shape[-1] :]
    if kind == "sliced":
        return x.repeat_interleave(2, dim=-1)[..., ::2]
    return x[:, :1].expand(x.shape) if kind == "expanded" and x.shape[1] else x


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_equal_inputs_give_equal_bits(dtype):
    *tensors, g = (random(2, 5, 4, 3, 9, dtype=dtype) for _ in range(4))
    first, second = (run(short_attention, tensors, g, impl="triton") for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.skipif(DEVICE != "cpu", reason="no kernel of float64 on a GPU")
def test_the_gradient_in_a_tile_of_32_rows_is_true():
    tensors = [random(1, 17, 1, 1, 2).requires_grad_() for _ in range(3)]

    def op(q, k, v):
        return short_attention(q, k, v, scale=0.8, impl="triton")

    assert torch.autograd.gradcheck(op, tensors, fast_mode=True)


def test_small_gradients_in_float16_are_not_lost():
    """Of 1e-4, to scores of 32 frames that share equally: 4e-7 each, where float16 has 6e-8."""
    q, k, v, g = (random(1, 32, 2, 1, 16) for _ in range(4))
    tensors = [x.half() for x in (0.01 * q, 1000 * k, 0.03 * v)]
    g = (1e-4 * g).half()
    _, dq, _, _ = run(short_attention, tensors, g, scale=0.01, impl="triton")
    assert error(dq, truth_of(tensors, g, scale=0.01)[1]) < 5e-3


def test_gradients_beyond_float16_are_no_infinity_on_their_way():
    q, k = (0.01 * random(1, 4, 2, 1, 16) for _ in range(2))
    v, g = (200 * random(1, 4, 2, 1, 16).sign() for _ in range(2))  # their products reach 640,000
    tensors = [x.half() for x in (q, k, v)]
    found = run(short_attention, tensors, g.half(), scale=0.25, impl="triton")
    for here, truth in zip(found, truth_of(tensors, g.half(), scale=0.25), strict=True):
        assert error(here, truth) < 2e-3


def test_a_tile_has_whole_sequences_and_no_more_threads_than_work():
    for F in range(1, 33):
        for D in (1, 16, 40, 64, 80, 160, 256):
            for dtype in (torch.float32, torch.bfloat16):
                tile = module._tile(F, D, dtype)
                assert F <= tile.ROWS <= 32
                assert tile.warps in (1, 2, 4, 8, 16)
                assert tile.SLICE >= D or dtype == torch.float32


def launches(x):
    return (
        module._forward(x, x, x, 1.0, x),
        module._backward(x, x, x, x, 1.0, (x, x, x)),
    )


def test_a_program_writes_its_own_sequences_and_no_others():
    """The next one would mend it here, where programs run in turn; on a GPU they race."""
    q, k, v = (random(1, 5, 4, 2, 3, dtype=torch.float32) for _ in range(3))
    o = torch.empty_like(q)
    module._forward(q, k, v, 1.0, o)._replace(programs=1).run()
    truth = reference_short_attention(q, k, v, scale=1.0)
    first = o.flatten(2, 3)[0, :, :3]  # three sequences of five frames, in a tile of 16 rows
    torch.testing.assert_close(first, truth.flatten(2, 3)[0, :, :3])
    assert o.isfinite().sum() == first.numel()


def test_a_batch_beyond_a_grids_other_axes_is_one_launch():
    """131,072 places of 8 heads; nothing is allocated, and nothing runs."""
    x = torch.empty(32, 8, 4096, 8, 40, dtype=torch.bfloat16, device="meta")
    for launch in launches(x):
        assert launch.programs == 131_072 * 8 // 2
        assert launch.arguments["sequences"] == 2**20
        assert x.stride(0) * 31 < 2**31 <= 2 * x.numel() * 4  # bytes need 64 bits


@pytest.mark.parametrize(
    ("strides", "even"),
    [((40,), 8), ((40, 20), 4), ((36,), 4), ((7,), 1), ((0, 16), 8), ((8, 2), 2)],
    ids=str,
)
def test_what_divides_all_strides_is_said(strides, even):
    given = [
        torch.empty(1, dtype=torch.bfloat16, device="meta").as_strided(
            (1, 2, 1, 1, 4),
            (3, stride, 5, 7, 1),  # of an axis of one the stride does not count
        )
        for stride in strides
    ]
    assert module._even(*given) == even
    assert module._even(*(x.expand(2, -1, -1, -1, -1) for x in given)) == even


def test_nothing_is_copied_where_numbers_of_a_head_are_side_by_side():
    qkv = torch.empty(2, 4, 6, 3 * 2 * 8, device="meta")
    q, k, v = qkv.unflatten(-1, (3, 2, 8)).unbind(-3)
    launch = module._forward(q, k, v, 1.0, torch.empty(2, 4, 6, 2, 8, device="meta"))
    assert all(launch.arguments[f"{x}_ptr"] is y for x, y in zip("qkv", (q, k, v), strict=True))
    assert launch.arguments["k_n"] == 48


# --- what the interpreter gets wrong ----------------------------------------------------------


@pytest.mark.skipif(not triton_interprets(), reason="of the interpreter only")
def test_no_kernel_relies_on_a_bfloat16_product(monkeypatch):
    """The interpreter multiplies their bits: make such a product raise, and run the op."""
    from triton.runtime.interpreter import InterpreterBuilder

    create_dot = InterpreterBuilder.create_dot
    seen = []

    def guarded(self, a, b, *rest):
        seen.append({a.dtype.scalar, b.dtype.scalar})
        return create_dot(self, a, b, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", guarded)
    *tensors, g = (random(1, 4, 2, 1, 8, dtype=torch.bfloat16) for _ in range(4))
    run(short_attention, tensors, g, impl="triton")
    assert len(seen) == 7  # two products forward, five backward
    assert all(tl.bfloat16 not in kinds for kinds in seen)
