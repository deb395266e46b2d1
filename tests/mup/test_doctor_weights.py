"""The audit of weights, and of a set-up against that of its own base, by mutation."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from core.mup import plan
from core.mup.doctor import examine
from core.mup.families import FAMILIES

# three heads over one: m = 3, so that a square and a double differ
M = 3
LR, DECAY, EPS = 2e-3, 0.05, 1e-8


@pytest.fixture(scope="module")
def plans():
    return {name: FAMILIES[name].plan(heads=4 * M, layers=2) for name in ("dit", "pixart")}


@pytest.fixture
def dit(plans):
    """A plan, a model by it, and the groups of AdamW as they should be."""
    made = plans["dit"]
    model = made.build("dit")
    return made, model, made.groups(model, lr=LR, weight_decay=DECAY)


def adamw(groups):
    return torch.optim.AdamW(groups, lr=1.0)


def spreads(made, model, **how):
    found = examine(made, model, adamw(made.groups(model, lr=LR)), **how)
    return {one.where: one for one in found.findings if one.what == "spread"}, found


def test_a_table_that_pixart_draws_by_the_width_is_found(plans):
    made = plans["pixart"]
    torch.manual_seed(0)
    model = made._class()(**made.config)
    wrong, _ = spreads(made, model)
    tables = [one for where, one in wrong.items() if where.endswith("scale_shift_table")]
    assert len(tables) == 2
    for one in tables:
        # randn / sqrt(width), of 64 at the base and 192 here; 2 x 192 draws: 3.6 % each
        assert one.here == pytest.approx(192**-0.5, rel=0.12)
        assert one.wanted == pytest.approx(64**-0.5, rel=0.12)
        assert "must not depend on the width" in one.why


def test_a_readout_is_zero_or_over_m(plans):
    made = plans["dit"]
    model = made.build("torch")
    readout = model.get_parameter("proj_out_2.weight")
    nn.init.zeros_(readout)
    assert not spreads(made, model)[0]
    nn.init.kaiming_uniform_(readout, a=5**0.5)  # as torch draws it, 1 / sqrt(3 fan_in)
    (one,) = spreads(made, model)[0].values()
    assert one.wanted == pytest.approx((3 * 64) ** -0.5 / M)
    assert one.here == pytest.approx((3 * 192) ** -0.5, rel=0.1)
    assert "divide the base's by m = 3" in one.why


def test_a_readout_that_is_not_zero_though_its_recipe_says_so_is_held_to_torchs_law(dit):
    made, model, groups = dit
    readout = model.get_parameter("proj_out_2.weight")
    nn.init.kaiming_uniform_(readout, a=5**0.5)
    (one,) = examine(made, model, adamw(groups)).findings
    assert (one.what, one.where) == ("spread", "proj_out_2.weight")
    with torch.no_grad():
        readout /= M**0.5  # n^-1/2 to n^-1, from the base on
    examine(made, model, adamw(groups)).assert_right()


def test_a_constant_of_a_vector_is_a_choice_and_the_gain_of_queries_is_not():
    family = FAMILIES["flux"]
    config = family.config(heads=2, layers=1, head_dim=48)
    config |= {"axes_dims_rope": [16, 16, 16]}
    made = plan(
        family.model_class, config, base={"attention_head_dim": 16}, fixed=("axes_dims_rope",)
    )
    model = made.build("dit")
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            nn.init.constant_(p, 0.3)
    assert not spreads(made, model)[0]
    gain = model.get_parameter("transformer_blocks.0.attn.norm_q.weight")
    torch.testing.assert_close(gain, torch.full((48,), M**-0.5))  # sqrt(16 / 48)
    nn.init.ones_(gain)
    (one,) = spreads(made, model)[0].values()
    assert (one.here, one.wanted) == (1, pytest.approx(M**-0.5))
    assert "factor of attention" in one.why


def test_xavier_of_an_input_is_found(plans):
    made = plans["dit"]
    model = made.build("dit")
    nn.init.xavier_uniform_(model.get_parameter("pos_embed.proj.weight").view(192, -1))
    (one,) = spreads(made, model)[0].values()
    assert one.where == "pos_embed.proj.weight"
    # 4 inputs: 2 x 2 pixels
    assert one.wanted == pytest.approx((2 / (64 + 4)) ** 0.5)
    assert one.here == pytest.approx((2 / (192 + 4)) ** 0.5, rel=0.1)


def test_queries_without_the_factor_of_attention_are_found():
    family = FAMILIES["dit"]
    config = family.config(heads=2, layers=2, head_dim=24)
    made = plan(family.model_class, config, base={"attention_head_dim": 8})
    model = made.build("dit")
    found = examine(made, model, adamw(made.groups(model, lr=LR, weight_decay=DECAY)))
    found.assert_right()
    assert any("carry the factor of attention" in note for note in found.notes)
    for block in model.transformer_blocks:  # type: ignore[union-attr]
        block.attn1.to_q.weight.data *= M**0.5
    (one,) = spreads(made, model)[0].values()
    assert one.where == "transformer_blocks.*.attn1.to_q.weight"
    assert "factor of attention" in one.why


def test_weights_that_are_trained_or_drawn_by_another_law_are_not_judged(dit):
    made, model, groups = dit
    for p in model.parameters():
        nn.init.normal_(p, std=0.123)
    found = examine(made, model, adamw(groups))
    found.assert_right()
    assert any("the spread of the weights is not judged" in note for note in found.notes)
    asked = examine(made, model, adamw(groups), recipe="dit").findings
    assert {(one.what, one.kind) for one in asked} >= {("spread", "hidden")}


def test_after_a_step_weights_are_not_judged(dit):
    made, model, groups = dit
    optimizer = adamw(groups)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    found = examine(made, model, optimizer)
    found.assert_right()
    assert any("has taken a step" in note for note in found.notes)


def test_a_model_without_numbers_is_judged_by_its_settings_alone(plans):
    made = plans["dit"]
    with torch.device("meta"):
        model = made._class()(**made.config)
    found = examine(made, model, adamw(model.parameters()))
    assert {one.what for one in found.findings} == {"learning rate", "epsilon", "weight decay"}
    assert any("no weight has numbers here" in note for note in found.notes)


def test_a_plan_whose_class_is_gone_judges_settings(dit):
    made, model, groups = dit
    found = examine(replace(made, model_class=None), model, adamw(groups))
    found.assert_right()
    assert any("cannot be imported" in note for note in found.notes)


# against the base's own


class Net(nn.Module):
    """A network with everything that a note speaks of, drawn by a law of its own."""

    def __init__(self, width=48, ff_dim=96, rank=4, kv=8):
        super().__init__()
        self.inp = nn.Linear(5, width)
        self.to_q, self.to_k = nn.Linear(width, width), nn.Linear(width, kv)
        self.ff = nn.Sequential(nn.Linear(width, ff_dim), nn.Linear(ff_dim, width))
        self.adaln = nn.Sequential(nn.Linear(width, rank), nn.Linear(rank, width))
        self.out = nn.Linear(width, 5)
        for p in self.parameters():
            nn.init.normal_(p, std=0.1)

    def hidden(self):
        return [
            self.to_q.weight,
            self.get_parameter("ff.0.weight"),
            self.get_parameter("ff.1.weight"),
        ]

    def outputs(self):
        return [self.to_k.weight, self.get_parameter("adaln.0.weight"), self.out.weight]


BASE = {"width": 16}


def by_hand(net, lr=LR):
    """The groups of somebody who knows, and has a rate of their own for the embedding."""
    m = net.inp.out_features / 16
    hidden, outputs, first = net.hidden(), net.outputs(), [net.inp.weight]
    scaled = {id(p) for p in (*hidden, *outputs, *first)}
    return [
        {"params": hidden, "lr": lr / m, "weight_decay": DECAY * m},
        {"params": outputs, "lr": lr / m, "weight_decay": DECAY * m, "eps": EPS * m},
        {"params": first, "lr": 7 * lr, "weight_decay": 0.0},
        {
            "params": [p for p in net.parameters() if id(p) not in scaled],
            "lr": lr,
            "weight_decay": DECAY,
        },
    ]


@pytest.fixture
def own():
    made = plan(Net, {"width": 48}, base=BASE)
    target, base = Net(), Net(width=16, ff_dim=32)
    for p in target.hidden():
        p.data /= M**0.5
    for p in target.outputs():
        p.data /= M
    return made, target, (base, adamw(by_hand(base)))


def test_a_set_up_of_ones_own_is_right_against_its_own_base(own):
    made, target, tuned = own
    found = examine(made, target, adamw(by_hand(target)), tuned=tuned)
    found.assert_right()
    assert found.read[1] == "base: as its own model and optimizer"
    # without it, a rate of its own is a difference
    assert {one.where for one in examine(made, target, adamw(by_hand(target))).findings} == {
        "inp.weight"
    }


def test_all_rates_over_m_are_found_against_the_base_and_not_read_as_another_base(own):
    made, target, tuned = own
    groups = by_hand(target)
    for group in groups:
        group["lr"] = LR / M
    wrong = {one.where for one in examine(made, target, adamw(groups), tuned=tuned).findings}
    assert "inp.bias" in wrong
    assert "inp.weight" in wrong
    assert "to_q.weight" not in wrong


def test_a_spread_of_ones_own_that_is_not_scaled_is_found_against_the_base(own):
    made, target, tuned = own
    target.ff[0].weight.data *= M**0.5
    (one,) = examine(made, target, adamw(by_hand(target)), tuned=tuned).findings
    assert (one.what, one.where) == ("spread", "ff.*.weight")
    assert one.wanted == pytest.approx(0.1 / M**0.5, rel=0.2)  # 512 numbers at the base: 3 %


def test_a_base_of_another_width_is_refused(own):
    made, target, _ = own
    other = Net(width=32, ff_dim=64)
    with pytest.raises(ValueError, match="is of another width"):
        examine(made, target, adamw(by_hand(target)), tuned=(other, adamw(by_hand(other))))


def test_inner_layers_into_what_does_not_grow_are_noted_by_what_they_are(own):
    _, target, _ = own
    held = plan(Net, {"width": 48}, base=BASE, fixed=("ff_dim",))
    notes = examine(held, target, adamw(target.parameters())).notes
    for name, what in (
        ("ff.*.weight", "the width of the feed-forward layer does not grow"),
        ("to_k.weight", "keys and values have a fixed number of heads"),
        ("adaln.*.weight", "a modulation of fixed rank"),
    ):
        start = f"{name} (1 tensor such) goes from what grows to what does not: {what}"
        assert any(note.startswith(start) for note in notes)
    assert any("clip" in note and "count 3 times too much" in note for note in notes)


def test_tensors_tied_after_building_are_found(own):
    made, target, _ = own
    target.ff[1].bias = target.inp.bias
    found = examine(made, target, adamw(target.parameters()))
    (one,) = [one for one in found.findings if one.what == "tied"]
    assert one.where == "inp.bias"
    assert "is also ff.1.bias" in one.text
