"""Ours beside the form with the factor in the forward pass, which test_reference.py ties to mup."""

import pytest
import torch

from core.mup.digits import draw
from core.mup.families import FAMILIES
from core.mup.reference import gap, unfolded

FAMILY = FAMILIES["uvit"]
PLAN = FAMILY.plan(heads=12, layers=1)
SETTINGS = {"steps": 6, "lr": 2**-7, "weight_decay": 0.1}


def loss(model, step):
    return FAMILY.loss(model, draw(0, step, 8).to("cpu", torch.float64))


@pytest.mark.parametrize("how", [{"eps": 1e-8}, {"eps": 1e-4}, {"clip": 0.1}], ids=str)
def test_scaled_as_it_must_be_the_two_are_one_trajectory(how):
    assert gap(PLAN, loss, **SETTINGS, **how) < 1e-14


@pytest.mark.parametrize(("how", "least"), [({"eps": 1e-4}, 1e-6), ({"clip": 0.1}, 1e-4)])
def test_with_a_plain_epsilon_or_norm_they_part(how, least):
    assert gap(PLAN, loss, **SETTINGS, **how, scaled=False) > least


def test_unfolding_changes_no_output_and_no_original():
    model = PLAN.build().double()
    before = model.get_parameter("proj_out.weight").clone()
    other = unfolded(PLAN, model)
    torch.testing.assert_close(loss(other, 0), loss(model, 0), rtol=1e-14, atol=0)
    torch.testing.assert_close(other.get_parameter("proj_out.weight"), 3 * before)
    assert torch.equal(model.get_parameter("proj_out.weight"), before)


def test_queries_that_carry_the_factor_of_attention_are_unfolded_too():
    from core.mup import plan

    made = plan(
        FAMILY.model_class,
        FAMILY.config(heads=2, layers=1, head_dim=24),
        base={"attention_head_dim": 8},
    )
    assert gap(made, loss, **SETTINGS) < 1e-14


def test_a_training_that_diverges_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        gap(PLAN, loss, steps=6, lr=1e200)
