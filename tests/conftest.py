"""What every test may rely on: seeds, one generator, and no window for figures."""

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("agg")  # here, and not in the environment, where the kernels would inherit it


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
