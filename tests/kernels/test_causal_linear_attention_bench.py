import sys
from types import ModuleType

import pytest
import torch

from core.kernels import causal_linear_attention_bench as subject
from core.kernels._subject import results
from core.kernels.causal_linear_attention import reference_attention

SHAPE = {"B": 2, "H": 3, "T": 9, "D": 4, "M": 2}
NAMES = ["plain", "normalised"]


def a_case(name, dtype=torch.float64):
    return subject.case(name, SHAPE, dtype, backward=True)


def test_a_forward_pass_builds_one_state_and_applies_it_once():
    found = subject.case("plain", {"B": 2, "T": 3, "D": 5, "M": 7}, torch.float32, False)
    # 2 sequences, 3 tokens: k v^T and S q, 35 multiply-adds each
    assert found.flop == 2 * 3 * (35 + 35) * 2 == 840
    # 2 sequences, 3 tokens: q, k of 5, v, o of 7, 4 bytes each
    assert found.bytes == 2 * 3 * (5 + 5 + 7 + 7) * 4 == 576


def test_a_backward_pass_builds_one_more_and_applies_both_for_four_results():
    found = subject.case("plain", {"B": 2, "H": 2, "T": 3, "D": 5, "M": 7}, torch.bfloat16, True)
    assert found.flop == 4 * 3 * (2 + 4) * 35 * 2 == 5040
    # q, k, v, o; then q, k, v, g; then dq, dk, dv
    assert found.bytes == 4 * 3 * ((5 + 5 + 7 + 7) + (5 + 5 + 7 + 7) + (5 + 5 + 7)) * 2 == 1560


def test_a_complex_multiply_add_is_eight_operations():
    real, complex_ = (
        subject.case("plain", SHAPE, d, True) for d in (torch.float32, torch.complex64)
    )
    assert complex_.flop == 4 * real.flop
    assert complex_.bytes == 2 * real.bytes


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("peer", ["quadratic", "recurrent", "cumsum"])
def test_a_peer_computes_the_same(peer, name, dtype):
    case = a_case(name, dtype)
    inputs, g = subject.draw(case, "cpu")
    here = results(subject.BENCH.peers[peer].call, inputs, g, case)
    torch.testing.assert_close(here, subject.formula(case, inputs, g))


@pytest.mark.parametrize("at_once", [1, 2, 6])
def test_the_formula_in_pieces_is_the_formula(monkeypatch, at_once):
    case = a_case("normalised")
    inputs, g = subject.draw(case, "cpu")
    monkeypatch.setattr(subject, "SCORES", at_once * SHAPE["T"] ** 2)
    whole = results(reference_attention, inputs, g, case)
    torch.testing.assert_close(subject.formula(case, inputs, g), whole)


def test_the_inputs_are_the_same_at_every_call():
    case = a_case("plain", torch.complex64)
    first, second = (subject.draw(case, "cpu") for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    q, k, v = first[0]
    assert (q.shape, k.shape, v.shape) == ((2, 3, 9, 4), (2, 3, 9, 4), (2, 3, 9, 2))
    assert not torch.equal(q, k)


@pytest.fixture
def fake_fla(monkeypatch):
    """What is known of flash-linear-attention's function: its layout, its scale, its results."""

    def chunk_linear_attn(q, k, v, scale=None, normalize=True):
        q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
        assert not normalize, "its own normaliser divides by sums of keys"
        assert all(x.is_contiguous() for x in (k, v))
        o = reference_attention(*(x.transpose(1, 2) for x in (q, k, v)))
        return o.transpose(1, 2), None

    module = ModuleType("fla.ops.linear_attn")
    module.chunk_linear_attn = chunk_linear_attn  # type: ignore[attr-defined]
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "fla.ops.linear_attn", module)


@pytest.mark.parametrize("name", NAMES)
def test_fla_is_asked_for_the_same(fake_fla, name):
    case = a_case(name)
    inputs, g = subject.draw(case, "cpu")
    peer = subject.BENCH.peers["fla"]
    arranged = tuple(map(peer.arrange, inputs))
    here = results(peer.call, arranged, peer.arrange(g), case)
    torch.testing.assert_close(here, tuple(map(peer.arrange, subject.formula(case, inputs, g))))


def test_fla_says_where_it_cannot_run(monkeypatch):
    fla = subject.BENCH.peers["fla"]
    assert "needs CUDA" in (fla.missing("cpu") or "")
    monkeypatch.setattr(subject, "find_spec", lambda name: None)
    assert "pip install flash-linear-attention" in (fla.missing("cuda") or "")
    monkeypatch.setattr(subject, "find_spec", lambda name: name)
    assert fla.missing("cuda") is None
    limits = {dtype: fla.limit(a_case("plain", dtype)) for dtype in (torch.bfloat16, torch.float32)}
    assert set(limits.values()) == {None}
    assert "real" in (fla.limit(a_case("plain", torch.complex64)) or "")


def test_scratch_is_what_a_peer_holds_for_autograd():
    forward, both = (subject.case("plain", SHAPE, torch.float32, way) for way in (False, True))
    peers = subject.BENCH.peers
    assert peers["quadratic"].scratch(forward) == 2 * 6 * 9 * 9 * 4
    assert peers["cumsum"].scratch(forward) == 2 * 6 * 9 * 8 * 4
    assert all(p.scratch(both) == 2 * p.scratch(forward) for p in peers.values())


def test_only_float32_on_a_cpu_is_capped():
    caps = {case.dtype: case.most for case in subject.cases("cpu")}
    assert caps[torch.float32] == 1e-6
    assert {case.most for case in subject.cases("cuda")} == {float("inf")}
