"""The five families: shapes, gradients, determinism, and that what is given to them matters."""

import pytest
import torch

from core.mup import plan
from core.mup.digits import draw
from core.mup.families import FAMILIES, text

# text queries of the last block of an MMDiT: what they would find is thrown away
UNREACHED = {
    "mmdit": {
        "transformer_blocks.1.attn.add_q_proj.weight",
        "transformer_blocks.1.attn.add_q_proj.bias",
        "transformer_blocks.1.attn.norm_added_q.weight",
    }
}

each = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def built(family, **sizes):
    torch.manual_seed(0)
    return family.model_class(**family.config(**{"heads": 2, "layers": 2, "head_dim": 16} | sizes))


@each
def test_a_prediction_has_the_shape_of_the_noise(family):
    batch = draw(0, 0, 3)
    model = built(family)
    assert family.predict(model, batch).shape == batch.noise.shape
    expected = torch.nn.functional.mse_loss(family.predict(model, batch), batch.noise)
    torch.testing.assert_close(family.loss(model, batch), expected)


@each
def test_a_gradient_reaches_every_parameter(family):
    model = built(family)
    family.loss(model, draw(0, 0, 16)).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == UNREACHED.get(family.name, set())


@each
def test_it_is_deterministic_while_it_trains(family):
    model, batch = built(family).train(), draw(0, 0, 64)
    with torch.no_grad():
        assert torch.equal(family.predict(model, batch), family.predict(model, batch))


@each
def test_time_and_label_change_what_is_predicted(family):
    model, batch = built(family).eval(), draw(0, 0, 8)
    with torch.no_grad():
        before = family.predict(model, batch)
        later = family.predict(model, batch._replace(t=(batch.t + 300) % 1000))
        other = family.predict(model, batch._replace(y=(batch.y + 1) % 10))
    # float32 noise is 1e-6
    assert (later - before).abs().amax((1, 2, 3)).min() > 1e-4
    assert (other - before).abs().amax((1, 2, 3)).min() > 1e-4


@each
def test_pixels_come_out_where_they_went_in(family):
    """With no mixing of tokens, a patch of the prediction depends on that patch alone."""
    model = built(family).eval()
    for name, p in model.named_parameters():
        if "to_out" in name or ("single" in name and "proj_out" in name):
            p.data.zero_()
    batch = draw(0, 0, 1)
    x_t = batch.x_t.clone().requires_grad_()
    family.predict(model, batch._replace(x_t=x_t))[0, 0, 2:4, 6:8].sum().backward()
    assert x_t.grad is not None
    reached = torch.zeros(8, 8, dtype=torch.bool)
    reached[2:4, 6:8] = True
    assert torch.equal(x_t.grad[0, 0] != 0, reached)


@each
@pytest.mark.parametrize("head_dim", [8, 16, 32])
def test_the_dimension_of_a_head_can_be_chosen(family, head_dim):
    model = built(family, head_dim=head_dim)
    assert family.predict(model, draw(0, 0, 2)).shape == (2, 1, 8, 8)


@each
def test_a_plan_finds_hidden_parameters_one_readout_and_nothing_to_warn_of(family):
    found = plan(family.model_class, family.config(heads=12), base=family.base)
    kinds = [entry.kind for entry in found.entries.values()]
    assert kinds.count("hidden") > 10
    assert kinds.count("output") == 1
    assert {e.m_in for e in found.entries.values() if e.kind == "hidden"} == {3.0}
    assert not [told for told in found.warnings if "grows with the width" not in told]


def test_text_is_fixed_by_the_label_and_close_to_standard_normal():
    y = torch.tensor([0, 9, 0])
    words = text(y, torch.float64)
    assert words.shape == (3, 6, 32)
    assert torch.equal(words[0], words[2])
    every = text(torch.arange(10), torch.float64)
    # 1920 normals
    assert abs(every.mean().item()) < 4 / 1920**0.5
    assert every.var().item() == pytest.approx(1, abs=4 * (2 / 1920) ** 0.5)
