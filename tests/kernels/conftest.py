"""What tests of kernels share; `tests/conftest.py` chooses where they run."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def poisoned(monkeypatch):
    """New memory holds nan: what a kernel leaves unwritten shows."""

    def poison(make):
        def made(*args, **options):
            out = make(*args, **options)
            numbers = out.is_floating_point() or out.is_complex()
            return out.fill_(float("nan")) if numbers and out.device.type != "meta" else out

        return made

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))


@pytest.fixture
def on_the_gpu_where_there_is_one():
    """New tensors are on it."""
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        yield
