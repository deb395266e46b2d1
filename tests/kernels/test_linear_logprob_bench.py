import sys
from types import ModuleType

import pytest
import torch

from core.kernels import linear_logprob_bench as subject
from core.kernels._subject import results

SHAPE = {"rows": 9, "masked": 5, "D": 4, "V": 7}
NAMES = ["frozen head", "trained head"]


def a_case(name, dtype=torch.float64, backward=True):
    return subject.case(name, SHAPE, dtype, backward)


def test_a_forward_pass_is_one_product_that_reads_the_head_once():
    found = subject.case("likelihood", SHAPE, torch.bfloat16, False)
    assert found.flop == 2 * 5 * 4 * 7
    # hidden 5 x 4 and weight 7 x 4 of 2 bytes; five targets of 8 and five results of 4
    assert found.bytes == (20 + 28) * 2 + 5 * (8 + 4)


@pytest.mark.parametrize(
    ("name", "products", "written"), [("frozen head", 2, 20), ("trained head", 3, 48)]
)
def test_a_gradient_is_a_product_more(name, products, written):
    found = a_case(name, torch.float32)
    assert found.flop == products * 2 * 5 * 4 * 7
    assert found.bytes == (20 + 28 + written) * 4 + 5 * (8 + 4 + 4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("call", [subject.ours, subject.public, subject.rows_first])
def test_all_compute_the_same(call, name):
    case = a_case(name)
    inputs, g = subject.draw(case, "cpu")
    here, truth = results(call, inputs, g, case), subject.formula(case, inputs, g)
    assert len(here) == (3 if name == "trained head" else 2)
    torch.testing.assert_close(here, truth)


def test_rows_that_are_not_masked_have_no_gradient():
    case = a_case("frozen head")
    inputs, g = subject.draw(case, "cpu")
    _, dh = results(subject.ours, inputs, g, case)
    others = torch.ones(9, dtype=torch.bool).index_fill(0, inputs[3], False)
    assert others.sum() == 4
    assert not dh[others].any()
    assert dh[~others].all()


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_the_formula_in_pieces_is_the_formula(monkeypatch, at_once):
    case = a_case("trained head")
    inputs, g = subject.draw(case, "cpu")
    whole = subject.formula(case, inputs, g)
    monkeypatch.setattr(subject, "LOGITS", at_once * SHAPE["V"])
    torch.testing.assert_close(subject.formula(case, inputs, g), whole)


def test_the_inputs_are_the_same_at_every_call():
    first, second = (subject.draw(a_case("frozen head"), "cpu") for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    hidden, weight, target, masked = first[0]
    assert (hidden.shape, weight.shape, target.shape) == ((9, 4), (7, 4), (9,))
    assert masked.unique().tolist() == masked.tolist()
    assert len(masked) == 5


def test_what_serves_is_told_of_the_op_and_what_it_is_given():
    case = a_case("frozen head")
    inputs, _ = subject.draw(case, "cpu")
    assert subject.BENCH.serves(case, inputs) == "torch"


@pytest.fixture
def fake_peers(monkeypatch):
    """What is known of the two packages' functions: their arguments, their results."""

    def nll(hidden, weight, target):
        return torch.nn.functional.cross_entropy(hidden @ weight.T, target, reduction="none")

    class Scaled:
        @staticmethod
        def apply(hidden, weight, target):
            return nll(hidden, weight, target)

    class Fused:
        @staticmethod
        def apply(hidden, weight, target, bias, ce_weight, ignored, square, smoothing, reduction):
            assert (bias, ce_weight, reduction, square, smoothing) == (None, None, "none", 0, 0)
            return nll(hidden, weight, target), None, None, None

    def linear_cross_entropy(hidden, weight, target, reduction, impl):
        assert (reduction, impl) == ("none", "torch_compile")
        return nll(hidden, weight, target)

    made = {
        "liger_kernel": {},
        "liger_kernel.ops": {
            "fused_linear_scaled_cross_entropy": {
                "LigerFusedLinearScaledCrossEntropyFunction": Scaled
            },
            "fused_linear_cross_entropy": {"LigerFusedLinearCrossEntropyFunction": Fused},
        },
        "cut_cross_entropy": {"linear_cross_entropy": linear_cross_entropy},
    }
    for name, holds in made.items():
        module = ModuleType(name)
        for key, x in holds.items():
            inner = x
            if isinstance(x, dict):
                inner = ModuleType(key)
                inner.__dict__.update(x)
            setattr(module, key, inner)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("peer", ["liger", "liger, Triton", "cce"])
def test_a_package_is_asked_for_the_same(fake_peers, peer):
    case = a_case("trained head", torch.float32)
    inputs, g = subject.draw(case, "cpu")
    here = results(subject.BENCH.peers[peer].call, inputs, g, case)
    torch.testing.assert_close(here, subject.formula(case, inputs, g))


def test_a_package_says_where_it_cannot_run(monkeypatch):
    peers = subject.BENCH.peers
    for name in ("liger, Triton", "cce, filtered"):
        assert "needs CUDA" in (peers[name].missing("cpu") or "")
    monkeypatch.setattr(subject, "find_spec", lambda name: None)
    for name in ("liger", "cce"):
        assert "pip install --no-deps" in (peers[name].missing("cuda") or "")
    monkeypatch.setattr(subject, "find_spec", lambda name: name)
    assert {peer.missing("cuda") for peer in peers.values()} == {None}


def test_scratch_is_the_logits_that_a_peer_holds():
    peers = subject.BENCH.peers
    forward, both = (
        subject.case("frozen head", SHAPE, torch.float32, way) for way in (False, True)
    )
    assert peers["public"].scratch(forward) == (9 + 2 * 5) * 7 * 4
    assert peers["rows first"].scratch(forward) == 3 * 5 * 7 * 4
    assert peers["public"].scratch(both) == 2 * peers["public"].scratch(forward)


def test_only_float32_on_a_cpu_is_capped():
    assert {case.most for case in subject.cases("cpu")} == {1e-6}
    assert {case.most for case in subject.cases("cuda")} == {float("inf")}
    assert {case.dtype for case in subject.cases("cuda")} == {torch.bfloat16}
