"""The Triton kernels against the formula in float64: on a GPU, or in the interpreter.

The interpreter sees no races, no shared memory, no tensor cores' formats; `aot` and a GPU see them.
"""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from core.kernels import _launch  # noqa: E402
from core.kernels import _linear_logprob_blocks as blocks  # noqa: E402
from core.kernels import linear_logprob_triton as module  # noqa: E402
from core.kernels._choice import triton_interprets  # noqa: E402
from core.kernels.linear_logprob import linear_logprob, reference_logprob  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HEADS = ["trained", "frozen"]
INF = float("inf")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Toy sizes are larger than a block, and than a tile."""
    monkeypatch.setattr(blocks, "BLOCK", {"cpu": (64, 64)})
    monkeypatch.setattr(blocks, "LARGE", (64, 64))
    small = module._Tile(64, 32, 16, 4, 1)
    monkeypatch.setattr(module, "_TILES", {80: {16: small, 32: small}})


def inputs(N, D, V, dtype, scale=0.5):
    hidden, weight, bias = (
        torch.randn(*shape, dtype=torch.float64).to(dtype).to(DEVICE)
        for shape in ((N, D), (V, D), (V,))
    )
    return scale * hidden, weight, torch.randint(V, (N,), device=DEVICE), bias


def widened(tensors):
    return [x.double() if x.is_floating_point() else x for x in tensors]


def error(result, truth):
    return float((result.double() - truth).norm())


def check(results, same, truths):
    """Twice what a computation in the same dtype loses, and a unit in the last place.

    The interpreter cuts bfloat16 off where a GPU rounds: twice the error again.
    """
    for result, near, truth in zip(results, same, truths, strict=True):
        factor = 4 if result.dtype == torch.bfloat16 and triton_interprets() else 2
        slack = 2 * torch.finfo(result.dtype).eps * float(truth.norm())
        assert error(result, truth) <= factor * error(near, truth) + slack


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("parts", [None, 1, 3, 100])
@pytest.mark.parametrize(("N", "D", "V"), [(1, 1, 1), (3, 5, 2), (67, 37, 131), (130, 16, 64)])
def test_the_forward_kernel_loses_no_more_than_its_dtype(N, D, V, parts, dtype):
    hidden, weight, target, bias = inputs(N, D, V, dtype)
    for b in (None, bias):
        here = module.triton_logprob(hidden, weight, target, b, parts=parts)
        same = reference_logprob(hidden, weight, target, bias=b)
        wide = widened((hidden, weight, target))
        truth = reference_logprob(*wide, bias=None if b is None else b.double())
        check(here, same, truth)


def gradients(op, tensors, g, l, head, **options):
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
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("N", "D", "V"), [(1, 3, 2), (67, 19, 131)])
def test_gradients_lose_no_more_than_their_dtype(N, D, V, dtype, head):
    tensors = inputs(N, D, V, dtype)
    g, l = torch.randn(2, N, dtype=torch.float64, device=DEVICE)
    here = gradients(linear_logprob, tensors, g, l, head, impl="triton", return_lse=True)
    same = gradients(reference_logprob, tensors, g, l, head)
    check(here, same, gradients(reference_logprob, widened(tensors), g, l, head))


@pytest.mark.parametrize("head", HEADS)
def test_small_gradients_of_float16_are_not_lost(head):
    """A probability of 1e-5 in a loss that is divided by a million: 1e-11, float16 ends at 6e-8."""
    hidden, weight, target, _ = inputs(5, 4, 150, torch.float16, scale=0.01)
    weight = weight * 30  # so that the gradient of hidden itself is a number of float16
    hidden = hidden.requires_grad_()
    weight.requires_grad_(head == "trained")
    g = torch.full((5,), 1e-4, device=DEVICE)
    g[0] = 1.0
    logp = linear_logprob(hidden, weight, target, impl="triton")
    (here,) = torch.autograd.grad(logp, hidden, g)
    wide = hidden.detach().double().requires_grad_()
    logp, _ = reference_logprob(wide, weight.detach().double(), target)
    (truth,) = torch.autograd.grad(logp, wide, g.double())
    # rows apart: a large one must not hide a small one; 2^-10 a product, and the probabilities
    lost = (here.double() - truth).norm(dim=1) / truth.norm(dim=1)
    assert lost.max() < 4e-3


@pytest.mark.parametrize("head", HEADS)
def test_many_small_probabilities_of_float16_are_not_lost(head):
    """Each 8e-8 beside a large one, where float16 counts in steps of 6e-8; together they matter."""
    hidden = torch.tensor([[1.0, 0.0]], dtype=torch.float16, device=DEVICE, requires_grad=True)
    weight = torch.tensor([[-16.3, 100.0]], dtype=torch.float16, device=DEVICE).repeat(300, 1)
    weight[:2] = 0  # the large one, and the target
    weight.requires_grad_(head == "trained")
    target = torch.tensor([1], device=DEVICE)
    (here,) = torch.autograd.grad(linear_logprob(hidden, weight, target, impl="triton"), hidden)
    z = weight.detach().double()[:, 0]
    truth = -100 * z.softmax(0)[2:].sum()  # of the second number, which only the small ones have
    assert abs(here[0, 1] / truth - 1) < 2e-3  # two roundings to 2^-11


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_any_strides_any_scale(data):
    N, D, V = data.draw(st.tuples(st.integers(0, 70), st.integers(1, 40), st.integers(1, 90)))
    scale = data.draw(st.sampled_from([1e-3, 1.0, 1e4]), label="scale of the logits")
    parts = data.draw(st.integers(1, 4), label="parts")
    hidden = drawn(data, (N, D), "hidden") * scale
    weight = drawn(data, (V, D), "weight")
    target = torch.randint(V, (N,), device=DEVICE)
    if not N:
        assert linear_logprob(hidden, weight, target, impl="triton").shape == (0,)
        return
    before = hidden.clone(), weight.clone(), target.clone()
    logp, lse = module.triton_logprob(hidden, weight, target, None, parts=parts)
    truth = reference_logprob(*widened((hidden, weight, target)))
    # a logit is a sum of D products, each rounded; the largest decides
    most = (hidden.double().abs() @ weight.double().abs().T).amax(1)
    for here, there in zip((logp, lse), truth, strict=True):
        assert ((here - there).abs() <= 2e-6 * (most + there.abs() + 10)).all()
    assert all(torch.equal(x, y) for x, y in zip((hidden, weight, target), before, strict=True))


def drawn(data, shape, name):
    """A tensor of this shape: contiguous, transposed, sliced or expanded."""
    kind = data.draw(st.sampled_from(["plain", "transposed", "sliced", "expanded"]), name)
    if kind == "transposed":
        return torch.randn(*shape[::-1], device=DEVICE).T
    if kind == "sliced":
        return torch.randn(shape[0], 2 * shape[1], device=DEVICE)[:, ::2]
    if kind == "expanded":
        return torch.randn(1, shape[1], device=DEVICE).expand(shape)
    return torch.randn(shape, device=DEVICE)


@pytest.mark.parametrize("head", ["none", *HEADS])
def test_equal_inputs_give_equal_bits(head):
    tensors = inputs(70, 9, 131, torch.float32)
    ones = torch.ones(70, device=DEVICE)

    def run():
        if head == "none":
            return module.triton_logprob(*tensors, parts=2)
        options = {"impl": "triton", "return_lse": True}
        return gradients(linear_logprob, tensors, ones, ones, head, **options)

    assert all(torch.equal(x, y) for x, y in zip(run(), run(), strict=True))


def test_rows_far_apart_in_memory_are_brought_together():
    """Within a tile 32 bits count; 256 rows that are 2^23 numbers apart are out of their reach."""
    x = torch.empty(1, device="meta")
    near, far = x.as_strided((300, 4), (2**23 - 2, 1)), x.as_strided((300, 4), (2**23 - 1, 1))
    assert module._near(near) is near
    assert module._near(far).is_contiguous()
    source = inspect.getsource(module._rest_kernel.fn)
    assert "n0.to(tl.int64) * hidden_n" in source
    assert "tl.cast(v0, tl.int64) * weight_v" in source


def test_ranges_are_whole_tiles_and_cover_the_vocabulary():
    hidden, weight = (torch.empty(n, 4, device="meta") for n in (100, 1000))
    tile = module._TILES[80][32]
    for wanted in (1, 2, 3, 7, 31, 32, 33, 1000):
        parts, columns = module._ranges(hidden, weight, tile, wanted)
        assert columns % tile.V_BLOCK == 0
        assert (parts - 1) * columns < 1000 <= parts * columns
        assert parts <= min(wanted, 32)


def test_a_target_that_is_not_there_is_nan_on_a_gpu():
    """There the op does not look; the kernel leaves the row without its logit."""
    hidden, weight, target, _ = inputs(3, 4, 40, torch.float32)
    target[1] = 40
    target[2] = -100
    logp, lse = module.triton_logprob(hidden, weight, target, None, parts=2)
    assert logp.isnan().tolist() == [False, True, True]
    assert lse.isnan().tolist() == [False, True, True]


in_the_interpreter = pytest.mark.skipif(not triton_interprets(), reason="of the interpreter only")


@in_the_interpreter
def test_no_kernel_relies_on_a_bfloat16_product(monkeypatch):
    """The interpreter multiplies their bits, and says nothing: break it loudly, and run the op."""
    from triton.runtime.interpreter import InterpreterBuilder

    create_dot, calls = InterpreterBuilder.create_dot, []

    def guarded(self, a, b, *rest):
        calls.append(a)
        assert tl.bfloat16 not in (a.dtype.scalar, b.dtype.scalar), "a product of bfloat16"
        return create_dot(self, a, b, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", guarded)
    module.triton_logprob(*inputs(3, 20, 70, torch.bfloat16))
    assert calls


def test_float64_is_for_the_interpreter_only():
    if DEVICE == "cpu":
        assert _launch.device_limit(torch.device("cpu"), torch.float64) is None
    else:
        said = _launch.device_limit(torch.device("cuda"), torch.float64)
        assert "at most 32 bits on a GPU, got float64: take impl='torch'" in (said or "")


def test_float32_takes_the_tensor_cores_three_times():
    """The interpreter does not round as they do: the choice itself is looked at."""
    for dtype, precision in ((torch.float32, "tf32x3"), (torch.bfloat16, "ieee")):
        hidden, weight, target, _ = inputs(3, 4, 9, dtype)
        rest, picked = torch.empty(1, 3, device=DEVICE), torch.empty(3, device=DEVICE)
        tile = module._tile(hidden, 90)
        launch = module._rest(hidden, weight, target, None, rest, picked, 64, tile)
        assert launch.constants["PRECISION"] == precision


def test_a_nan_in_one_range_of_the_vocabulary_reaches_the_sum():
    hidden, weight, target, bias = inputs(5, 8, 200, torch.float32)
    weight[190] = torch.nan
    logp, lse = module.triton_logprob(hidden, weight, target % 64, bias, parts=3)
    assert logp.isnan().all()
    assert lse.isnan().all()
