"""What ends a training besides what ends any command."""

import pytest
import torch
from safetensors import SafetensorError

from core.command import Failed
from core.train.command import training
from core.train.folder import Diverged


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("none left\nat all"), "none left: take less"),
        (torch.OutOfMemoryError(), "no reason given: take less"),
        (SafetensorError("no space\nleft"), "weights could not be written: no space"),
        (Diverged("a loss of nan"), "it diverged: a loss of nan"),
    ],
)
def test_what_ends_a_training_is_a_failure_in_a_line(error, said):
    with pytest.raises(Failed) as failed, training(memory="take less"):
        raise error
    assert str(failed.value) == said


def test_other_errors_pass():
    with pytest.raises(ValueError, match="small"), training(memory="take less"):
        raise ValueError("small")
