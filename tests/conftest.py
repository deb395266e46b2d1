"""What every test may rely on: seeds, one generator, no window for figures, kernels that run."""

import os
import sys

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("agg")  # here, and not in the environment, where the kernels would inherit it

if not torch.cuda.is_available():
    # kernels run in Triton's interpreter, which is chosen for the whole process as Triton is
    # imported (diffusers does that): its own functions are kernels too
    assert "triton" not in sys.modules, "Triton was imported before the tests could choose"
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
