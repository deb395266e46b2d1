import sys
from types import ModuleType

import pytest
import torch
from torch.nn.attention import flex_attention as of_torch

from core.kernels import short_attention_bench as subject
from core.kernels._subject import results
from core.kernels.short_attention import reference_short_attention

SHAPE = {"B": 2, "F": 3, "N": 5, "H": 2, "d": 4}


def a_case(backward=True, dtype=torch.float64):
    return subject.case("a layer", SHAPE, dtype, backward)


def test_a_forward_pass_moves_four_tensors_and_has_two_products():
    found = a_case(backward=False, dtype=torch.float32)
    # 2 x 5 x 2 sequences of 3 x 4 numbers, 4 bytes each; 3 x 3 scores of 4 multiply-adds, and back
    assert found.bytes == 4 * 4 * (20 * 12)
    assert found.flop == 2 * 2 * 20 * (9 * 4)


def test_a_backward_pass_moves_seven_more_and_has_four_more():
    forward, both = (a_case(way, torch.bfloat16) for way in (False, True))
    assert both.bytes - forward.bytes == 7 * 2 * (20 * 12)  # q, k, v, g; dq, dk, dv
    assert both.flop - forward.flop == 4 * 2 * 20 * (9 * 4)  # dp, dq, dk, dv


@pytest.mark.parametrize("peer", ["rearranged", "baddbmm"])
def test_a_peer_computes_the_same(peer):
    case = a_case()
    inputs, g = subject.draw(case, "cpu")
    here = results(subject.BENCH.peers[peer].call, inputs, g, case)
    torch.testing.assert_close(here, subject.formula(case, inputs, g))


def arranged(name, case, inputs, g):
    """What a peer returns for inputs in its layout, and the truth in it."""
    peer = subject.BENCH.peers[name]
    here = results(peer.call, tuple(map(peer.arrange, inputs)), peer.arrange(g), case)
    return here, tuple(map(peer.arrange, subject.formula(case, inputs, g)))


def test_flex_is_asked_for_the_same(monkeypatch):
    """Its formula, not compiled: on a CPU it has no gradients."""
    subject._flex.cache_clear()

    def by_mask(q, k, v, *, block_mask):
        i = torch.arange(q.shape[2])
        seen = block_mask.mask_mod(0, 0, i[:, None], i[None, :])
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)

    monkeypatch.setattr(of_torch, "flex_attention", by_mask)
    monkeypatch.setattr(torch, "compile", lambda call, **options: call)
    case = a_case()
    here, truth = arranged("flex", case, *subject.draw(case, "cpu"))
    torch.testing.assert_close(here, truth)
    subject._flex.cache_clear()


def test_xformers_is_asked_for_the_same(monkeypatch):
    """What is known of its function: `[batch, length, heads, width]`, scaled as usual."""

    def memory_efficient_attention(q, k, v):
        assert all(x.ndim == 4 for x in (q, k, v))
        o = reference_short_attention(*(x[:, :, None] for x in (q, k, v)))
        return o[:, :, 0]

    module = ModuleType("xformers.ops")
    module.memory_efficient_attention = memory_efficient_attention  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xformers", ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", module)
    case = a_case()
    here, truth = arranged("xformers", case, *subject.draw(case, "cpu"))
    torch.testing.assert_close(here, truth)


def test_a_peer_says_where_it_cannot_run(monkeypatch):
    peers = subject.BENCH.peers
    assert "needs CUDA" in (peers["flex"].missing("cpu") or "")
    assert "needs CUDA" in (peers["xformers"].missing("cpu") or "")
    assert peers["flex"].missing("cuda") is None
    monkeypatch.setattr(subject, "find_spec", lambda name: None)
    assert "pip install xformers" in (peers["xformers"].missing("cuda") or "")
    monkeypatch.setattr(subject, "find_spec", lambda name: name)
    assert peers["xformers"].missing("cuda") is None


def test_the_inputs_are_the_same_at_every_call():
    first, second = (subject.draw(a_case(), "cpu") for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    (q, k, v), g = first
    assert q.shape == k.shape == v.shape == g.shape == (2, 3, 5, 2, 4)
    assert len({float(x.flatten()[0]) for x in (q, k, v, g)}) == 4


def test_the_batch_at_which_others_end_is_measured_on_a_gpu():
    places = {case.shape["B"] * case.shape["N"] for case in subject.cases("cuda")}
    assert max(places) == 131_072
    assert max(case.bytes for case in subject.cases("cuda")) < 1e10


def test_scratch_doubles_with_gradients_and_has_the_scores():
    forward, both = (a_case(way, torch.float32) for way in (False, True))
    peers = subject.BENCH.peers
    assert peers["rearranged"].scratch(forward) == 4 * 240 * 4
    assert peers["baddbmm"].scratch(forward) == 4 * (4 * 240 + 2 * 20 * 9)
    assert all(p.scratch(both) == 2 * p.scratch(forward) for p in list(peers.values())[:2])
