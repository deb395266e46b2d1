"""The temporal branch, against attention at one place after the other."""

import pytest
import torch

from core.controlvideo.attention import TemporalBranch, sinusoids
from core.controlvideo.clip import Clip

B, F, N, C, H, INNER = 2, 5, 3, 6, 2, 8


@pytest.fixture
def branch(request):
    made = TemporalBranch(C, H, INNER, positions=request.param).double()
    torch.nn.init.normal_(made.conv.weight)
    return made


def at_each_place(branch, n):
    """Every place by itself, a sequence of frames; a head at a time."""
    out = torch.empty(B, F, N, C, dtype=n.dtype)
    for b, place in ((b, place) for b in range(B) for place in range(N)):
        x = n.view(B, F, N, C)[b, :, place]
        if branch.positions:
            x = x + sinusoids(F, C)
        q, k, v = branch.to_q(x), branch.to_k(x), branch.to_v(x)
        heads = [
            torch.softmax(a @ b.T / (INNER / H) ** 0.5, 1) @ c
            for a, b, c in zip(*(x.chunk(H, 1) for x in (q, k, v)), strict=True)
        ]
        out[b, :, place] = branch.conv(branch.to_out(torch.cat(heads, 1)))
    return out.flatten(0, 1)


@pytest.mark.parametrize("branch", [False, True], indirect=True, ids=["plain", "positions"])
def test_the_branch_lets_each_place_see_itself_in_all_frames(branch):
    n = torch.randn(B * F, N, C, dtype=torch.float64, requires_grad=True)
    here, there = branch(n, Clip(frames=F)), at_each_place(branch, n)
    torch.testing.assert_close(here, there)
    with torch.no_grad():
        torch.testing.assert_close(branch(n, Clip(frames=F)), there)
    leaves, g = [n, *branch.parameters()], torch.randn_like(here)
    gradients = torch.autograd.grad(there, leaves, g)
    torch.testing.assert_close(torch.autograd.grad(here, leaves, g), gradients)
