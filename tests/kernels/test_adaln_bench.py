import pytest
import torch

from core.kernels import adaln_bench as subject
from core.kernels._subject import results

SHAPE = {"B": 2, "T": 5, "D": 7}
NAMES = ["first norm", "gated residual"]


def a_case(name, dtype=torch.float64, backward=True):
    return subject.case(name, SHAPE, dtype, backward)


@pytest.mark.parametrize(("name", "most"), [("first norm", 2), ("gated residual", 4)])
def test_a_forward_pass_moves_each_activation_once(name, most):
    found = a_case(name, torch.float32, backward=False)
    # 2 x 5 x 7 numbers an activation, 2 x 7 a vector, 4 bytes each; x', y, x, h and b, s, g
    assert found.bytes == 4 * (most * 70 + (3 if most == 4 else 2) * 14)


@pytest.mark.parametrize(("name", "most"), [("first norm", 4), ("gated residual", 6)])
def test_a_backward_pass_moves_each_once_more(name, most):
    forward, both = (a_case(name, torch.bfloat16, backward) for backward in (False, True))
    # of vectors: s and perhaps g are read; a gradient of each is written
    assert both.bytes - forward.bytes == 2 * (most * 70 + (5 if most == 6 else 3) * 14)
    assert both.flop > forward.flop


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("call", [subject.ours, subject.eager, subject.plain])
def test_all_compute_the_same(call, name):
    case = a_case(name)
    inputs, g = subject.draw(case, "cpu")
    here, truth = results(call, inputs, g, case), subject.formula(case, inputs, g)
    assert len(here) == 2 + len(inputs) == (7 if name == "gated residual" else 5)
    torch.testing.assert_close(here, truth)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # torch's compiler uses what it deprecates
def test_the_compiled_peer_computes_the_same(monkeypatch):
    made = torch.compile(subject.eager, backend="aot_eager")
    monkeypatch.setattr(subject, "_compiled", lambda: made)
    case = a_case("gated residual")
    inputs, g = subject.draw(case, "cpu")
    here = results(subject.compiled, inputs, g, case)
    torch.testing.assert_close(here, subject.formula(case, inputs, g))


def test_the_compiled_peer_says_what_it_needs(monkeypatch):
    peer = subject.BENCH.peers["torch.compile"]
    monkeypatch.setattr(subject.shutil, "which", lambda name: None)
    assert "install g++" in (peer.missing("cpu") or "")
    assert peer.missing("cuda") is None
    monkeypatch.setattr(subject.shutil, "which", lambda name: name)
    assert peer.missing("cpu") is None


def test_the_inputs_are_the_same_at_every_call():
    case = a_case("gated residual")
    first, second = (subject.draw(case, "cpu") for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    x, shift, scale, branch, gate = first[0]
    assert x.shape == branch.shape == (2, 5, 7)
    assert shift.shape == scale.shape == gate.shape == (2, 7)
    assert len({float(t.flatten()[0]) for t in (*first[0], *first[1])}) == 7


def test_what_serves_is_told():
    case = a_case("gated residual")
    assert subject.BENCH.serves(case, subject.draw(case, "cpu")[0]) == "torch"


def test_scratch_doubles_with_gradients():
    peer = subject.BENCH.peers["eager"]
    forward, both = (a_case("first norm", torch.float32, way) for way in (False, True))
    assert peer.scratch(forward) == 2 * 70 * 4
    assert peer.scratch(both) == 2 * peer.scratch(forward)
