"""The bench's parts; its numbers are printed, not tested."""

import torch

from core.vrpo import bench
from core.vrpo.sorting import sorting_world


def test_what_is_kept_is_counted_once_and_forgotten_when_freed():
    w = torch.ones(100, requires_grad=True)

    def call():
        for _ in range(3):
            x = w.exp()  # 400 bytes: the result, which is its own derivative
            (x.sum() + x.mean()).backward()

    assert bench._kept(call) == 400


def test_a_step_in_two_passes_keeps_less():
    found = bench.step(sorting_world(1, steps=5, batch=8, train=16, held_out=2))
    # 256 sequences against 32, and what does not grow with them
    assert 4 < float(found["ratio of what is kept"]) < 8.1
