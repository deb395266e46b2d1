"""What the softmax promises, whoever computes it."""

import pytest
import torch

from core.kernels import _linear_logprob_blocks as blocks
from core.kernels.linear_logprob import linear_logprob

IMPLS = ["reference", "torch", "triton"]
pytestmark = pytest.mark.usefixtures("on_the_gpu_where_there_is_one")
any_impl = pytest.mark.parametrize("impl", IMPLS)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Toy sizes are larger than a block."""
    pytest.importorskip("triton")
    monkeypatch.setattr(blocks, "BLOCK", {"cpu": (64, 64)})
    monkeypatch.setattr(blocks, "LARGE", (64, 64))


def inputs(N, D, V):
    hidden, weight, bias = (
        torch.randn(*shape, dtype=torch.float64) for shape in ((N, D), (V, D), (V,))
    )
    return hidden, weight, torch.randint(V, (N,)), bias


@any_impl
def test_logits_of_ten_thousand_are_no_infinity(impl):
    weight = torch.zeros(150, 1)
    weight[70], weight[3], weight[149] = 1e4, 1e4 - 1, -1e4
    target = torch.tensor([70, 3, 149])
    here = linear_logprob(torch.ones(3, 1), weight, target, impl=impl)
    best = -torch.tensor(-1.0).exp().log1p()
    # the formula subtracts two numbers of 1e4, whose last place is 1e-3
    within = {"rtol": 0, "atol": 2e-3 if impl == "reference" else 1e-6}
    expected = torch.stack([best, best - 1, best - 2e4])
    torch.testing.assert_close(here, expected, **within)


@any_impl
def test_a_constant_added_to_the_bias_changes_nothing(impl):
    hidden, weight, target, bias = inputs(5, 3, 150)
    first, second = (
        linear_logprob(hidden, weight, target, bias=bias + c, impl=impl) for c in (0.0, 300.0)
    )
    torch.testing.assert_close(first, second)


blocked = pytest.mark.parametrize("impl", ["torch", "triton"])  # the formula loses them


@blocked
@pytest.mark.parametrize("head", ["frozen", "trained"])
def test_a_token_that_is_all_but_certain_keeps_its_digits(impl, head):
    """1 - p is 1e-9, which float32 cannot tell from 0; logp and its gradient are about that."""
    hidden = torch.ones(1, 1, requires_grad=True)
    weight = torch.tensor([[20.723], [0.0]], requires_grad=head == "trained")
    logp = linear_logprob(hidden, weight, torch.tensor([0]), impl=impl)
    logp.sum().backward()
    other = torch.tensor(-20.723, dtype=torch.float64).exp()
    assert logp.item() == pytest.approx(-other.item(), rel=1e-5)
    assert hidden.grad is not None
    assert hidden.grad.item() == pytest.approx(20.723 * other.item(), rel=1e-5)
    if weight.grad is not None:
        both = weight.grad.flatten().tolist()
        assert both == pytest.approx([other.item(), -other.item()], rel=1e-5)


@blocked
@pytest.mark.parametrize("head", ["frozen", "trained"])
def test_tokens_that_a_wide_head_is_sure_of_keep_their_digits(impl, head):
    """Logits near 28 come from two products that round differently: p itself would be off."""
    torch.manual_seed(1)
    weight = torch.randn(300, 512)
    hidden = (weight[:20] + 0.05 * torch.randn(20, 512)) * 0.05
    target = torch.arange(20)
    z = hidden.double() @ weight.double().T
    own = z[target, target]
    others = z.clone()
    others[target, target] = -torch.inf
    rest = others.logsumexp(1)
    doubt = torch.sigmoid(rest - own)  # 1 - p
    slope = -doubt[:, None] * others.softmax(1)
    slope[target, target] = doubt
    truth = slope @ weight.double()
    hidden.requires_grad_()
    weight.requires_grad_(head == "trained")
    linear_logprob(hidden, weight, target, impl=impl).sum().backward()
    assert hidden.grad is not None
    # relative to the whole: logits of 28 in float32 are off by 2e-6, their exponentials likewise
    assert float((hidden.grad.double() - truth).norm() / truth.norm()) < 5e-5


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")  # of the interpreter's numpy
@any_impl
@pytest.mark.parametrize("where", ["weight", "bias", "hidden"])
def test_a_nan_is_no_probability(impl, where):
    """A model that diverged must not look certain, in any range of the vocabulary."""
    hidden, weight, target, bias = (
        x.float() if x.is_floating_point() else x for x in inputs(3, 8, 150)
    )
    target = target % 64
    {"weight": weight, "bias": bias, "hidden": hidden}[where][-1] = torch.nan
    with torch.no_grad():
        logp, lse = linear_logprob(hidden, weight, target, bias=bias, return_lse=True, impl=impl)
    rows = slice(-1, None) if where == "hidden" else slice(None)
    assert logp[rows].isnan().all()
    assert lse[rows].isnan().all()


@blocked
def test_a_gradient_that_is_no_number_stays_in_its_row(impl):
    hidden, weight, target, _ = inputs(3, 4, 90)
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    upstream = torch.tensor([torch.inf, 0.0, 1.0], dtype=torch.float64)
    linear_logprob(hidden, weight, target, impl=impl).backward(upstream)
    assert hidden.grad is not None
    assert torch.equal(hidden.grad[1], torch.zeros(4, dtype=torch.float64))
    assert hidden.grad[2].isfinite().all()


@any_impl
def test_the_probabilities_of_a_row_add_up_to_one(impl):
    hidden, weight, _, bias = inputs(1, 3, 131)
    every = torch.arange(131)  # each token the target of one row, all rows the same
    logp = linear_logprob(hidden.expand(131, 3), weight, every, bias=bias, impl=impl)
    torch.testing.assert_close(logp.exp().sum(), torch.ones((), dtype=torch.float64))


@any_impl
def test_rows_do_not_mix_and_equal_rows_are_equal(impl):
    hidden, weight, target, _ = inputs(70, 3, 131)
    hidden[5], target[5] = hidden[69], target[69]
    whole = linear_logprob(hidden, weight, target, impl=impl)
    assert torch.allclose(whole[5], whole[69], rtol=1e-14)
    hidden[6:69] = 1e3
    torch.testing.assert_close(linear_logprob(hidden, weight, target, impl=impl)[:6], whole[:6])
