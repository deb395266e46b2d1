"""What ends a training besides what ends any command."""

import pytest
import torch

from core.command import Failed
from core.train.command import training
from core.train.folder import Diverged


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("none left\nat all"), "none left: take less"),
        (torch.OutOfMemoryError(), "no reason given: take less"),
        (Diverged("a loss of nan"), "it diverged: a loss of nan"),
    ],
)
def test_short_memory_and_a_loss_that_is_none_are_failures(error, said):
    with pytest.raises(Failed) as failed, training(memory="take less"):
        raise error
    assert str(failed.value) == said


def test_other_errors_pass():
    with pytest.raises(ValueError, match="small"), training(memory="take less"):
        raise ValueError("small")
