import pytest
import torch

from core.lab import choose_device


@pytest.mark.parametrize(
    ("there", "name", "chosen"),
    [
        (0, "auto", "cpu"),
        (2, "auto", "cuda"),
        (0, "cpu", "cpu"),
        (1, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_a_device_that_is_there_is_taken(monkeypatch, there, name, chosen):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    assert choose_device(name) == chosen


@pytest.mark.parametrize(
    ("there", "name", "message"),
    [
        (0, "cuda", "needs a CUDA GPU for device='cuda', found 0"),
        (1, "cuda:1", "needs a CUDA GPU for device='cuda:1', found 1"),
        (1, "gpu0", "want device auto, cpu, cuda or cuda:N, got 'gpu0'"),
        (1, "cuda:x", "want device"),
    ],
)
def test_one_that_is_not_is_refused_by_name(monkeypatch, there, name, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(ValueError, match=message):
        choose_device(name)
