"""What adaln refuses, and what is known of it without numbers."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from core.kernels import _choice, explain
from core.kernels.adaln import adaln, reference_adaln

# torch's compiler and its forward mode use what torch deprecates
of_torch = pytest.mark.filterwarnings("ignore::DeprecationWarning")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.usefixtures("on_the_gpu_where_there_is_one")


def test_shapes_are_known_without_numbers():
    with FakeTensorMode():
        x, m = torch.empty(2, 7, 4, requires_grad=True), torch.empty(2, 4)
        made, y = adaln(x, m, m, branch=x, gate=m)
        assert made.shape == y.shape == x.shape


def test_without_a_branch_the_first_result_is_a_view_of_x():
    x, (shift, scale) = torch.randn(2, 3, 4), torch.randn(2, 2, 4)
    made, _ = adaln(x, shift, scale)
    assert made.data_ptr() == x.data_ptr()
    assert torch.equal(made, x)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without CUDA")
def test_a_named_kernel_says_what_it_wants(monkeypatch):
    pytest.importorskip("triton")
    x, branch = torch.randn(2, 2, 3, 5)
    shift, scale, gate = torch.randn(3, 2, 5)
    told = explain(adaln, x, shift, scale, branch=branch, gate=gate, eps=1e-5)
    assert told.chosen == "torch"
    assert set(told.obstacles.values()) == {None}
    monkeypatch.setattr(_choice, "triton_interprets", lambda: False)
    with pytest.raises(ValueError, match="wants tensors on a CUDA device, got cpu: move them"):
        adaln(x, shift, scale, impl="triton")


def test_a_token_that_no_program_can_hold_is_refused_by_the_kernel():
    pytest.importorskip("triton")
    wide = torch.ones(1, 1, 4097)
    with pytest.raises(ValueError, match="a width of at most 4096, got 4097: take impl='torch'"):
        adaln(wide, wide[:, 0], wide[:, 0], impl="triton")


def test_it_needs_no_triton():
    code = (
        "import sys, torch; from core.kernels.adaln import *\n"
        "adaln(torch.ones(1, 2, 3), torch.ones(1, 3), torch.ones(1, 3))\n"
        "assert not {'torch._dynamo', 'triton'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_autocast_does_not_change_it(impl):
    (x, branch), (shift, scale, gate) = torch.randn(2, 2, 3, 5), torch.randn(3, 2, 5)
    given: Any = {"x": x, "shift": shift, "scale": scale, "branch": branch, "gate": gate}
    plain = adaln(**given, impl=impl)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        assert all(map(torch.equal, adaln(**given, impl=impl), plain))


X, M = torch.ones(2, 5, 3), torch.ones(2, 3)
REFUSED = [
    ({"x": X[0]}, r"want x and branch \[B, T, D\], got x, shift, scale of \[5, 3\] \[2, 3\]"),
    ({"branch": X[:, :4]}, r"want x and branch.*x, shift, scale, branch of \[2, 5, 3\].*\[2, 4, 3"),
    ({"shift": M[:, :2]}, r"want shift, scale, gate \[B, D\] or \[B, 1, D\].*\[2, 2\] \[2, 3\]"),
    ({"scale": torch.ones(3, 3)}, r"one vector a sample \(or 1 for B\).*\[3, 3\]"),
    ({"scale": X}, r"one vector a sample.*\[2, 5, 3\]$"),
    ({"shift": M[0]}, r"one vector a sample.*of \[2, 5, 3\] \[3\] \[2, 3\]"),
    ({"branch": X, "gate": M[:, :1]}, r"scale, branch, gate of .*\[2, 1\]"),
    ({"gate": M}, "want a branch for the gate to multiply, got a gate alone: leave it out"),
    ({"scale": M.int()}, r"of dtypes among float32.*got torch\.float32, torch\.float32, torch.int"),
    ({"scale": None}, "want x, shift, scale as dense tensors, got NoneType"),
    ({"x": X.to_sparse()}, "got layout torch.sparse_coo"),
    ({"x": X.to("meta")}, "want x, shift, scale on one device, got meta, cpu, cpu"),
    ({"impl": "cuda"}, "want one of auto, reference, torch, triton, got 'cuda'"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=lambda x: str(x)[:20])
def test_what_does_not_agree_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        adaln(**({"x": X, "shift": M, "scale": M} | given))


@of_torch
def test_a_forward_mode_derivative_is_refused():
    with forward_ad.dual_level():
        x = forward_ad.make_dual(X, torch.ones_like(X))
        with pytest.raises(ValueError, match=r"reverse mode only.*take reference_adaln"):
            adaln(x, M, M)
        assert forward_ad.unpack_dual(reference_adaln(x, M, M)[0]).tangent is not None
