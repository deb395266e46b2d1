import pytest
import torch

from core.kernels import activation_stats_bench as subject
from core.kernels._subject import results
from core.kernels.activation_stats import activation_stats

SHAPE = {"B": 2, "T": 5, "D": 7}
NAMES = ["x alone", "x and x0"]


@pytest.mark.parametrize(("name", "read"), [("x alone", 1), ("x and x0", 2)])
def test_the_floor_is_to_read(name, read):
    assert subject.case(name, SHAPE, torch.bfloat16).bytes == read * 70 * 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("call", [activation_stats, subject.separate, subject.norms])
def test_all_compute_the_same(call, name):
    case = subject.case(name, SHAPE, torch.float64)
    inputs, g = subject.draw(case, "cpu")
    here = results(call, inputs, g, case)
    assert here[0].shape == (2 + len(inputs),)
    torch.testing.assert_close(here, subject.formula(case, inputs, g))


def test_the_inputs_are_the_same_at_every_call():
    case = subject.case("x and x0", SHAPE, torch.float32)
    first, second = (subject.draw(case, "cpu")[0] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(*first)


def test_what_serves_is_told():
    case = subject.case("x and x0", SHAPE, torch.float32)
    assert subject.BENCH.serves(case, subject.draw(case, "cpu")[0]) == "torch"
