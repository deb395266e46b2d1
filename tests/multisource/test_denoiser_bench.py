"""The bench of a step, on a problem small enough for a test."""

from math import isfinite

import pytest
import torch

from core.multisource.denoiser_bench import step_prices


def test_prices_are_finite_and_the_thread_count_is_given_back():
    threads = torch.get_num_threads()
    found = step_prices(2, batch=2, repeats=1)
    assert all(isfinite(value) and value > 0 for value in found.values())
    multi, together = (found[n] for n in ("multi-source (ms)", "2 single-source, together (ms)"))
    assert found["ratio of together to multi-source"] == pytest.approx(together / multi)
    assert torch.get_num_threads() == threads
