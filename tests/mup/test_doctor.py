"""The audit by mutation: what is made wrong is named, and what is right has no finding."""

import json

import pytest
import torch
from torch import nn

from core.mup.doctor import examine
from core.mup.families import FAMILIES
from core.mup.parametrizations import PARAMETRIZATIONS

# three heads over one: m = 3, so that a square and a double differ
M = 3
LR, DECAY, EPS = 2e-3, 0.05, 1e-8
ADAMW = {"lr": LR, "weight_decay": DECAY}


@pytest.fixture(scope="module")
def plans():
    return {name: family.plan(heads=4 * M, layers=2) for name, family in FAMILIES.items()}


@pytest.fixture
def dit(plans):
    """A plan, a model by it, and the groups of AdamW as they should be."""
    made = plans["dit"]
    model = made.build("dit")
    return made, model, made.groups(model, **ADAMW)


def adamw(groups):
    return torch.optim.AdamW(groups, lr=1.0)


def optimizers(made, model, rule):
    """What is right by construction; one of them is enough, save for Muon."""
    groups = made.groups(model, **ADAMW, optimizer=rule)
    if rule.startswith("muon"):
        how = "match_rms_adamw" if rule == "muon-rms" else None
        rest = adamw(made.groups(model, **ADAMW, beside="muon"))
        return [torch.optim.Muon(groups, lr=1.0, adjust_lr_fn=how), rest]
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    return kinds[rule](groups, lr=1.0)


def seen(found):
    return {(one.what, one.kind) for one in found.findings}


@pytest.mark.parametrize("rule", ["adamw", "adam", "sgd", "muon", "muon-rms"])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_right_has_no_finding(plans, name, rule):
    made = plans[name]
    recipe = {"dit": "dit", "pixart": "pixart", "flux": "dit-mup"}.get(name, "torch")
    model = made.build(recipe)
    found = examine(made, model, optimizers(made, model, rule))
    found.assert_right()
    assert found.as_text().endswith("nothing wrong")
    assert any(f"as the recipe {recipe!r} at the base has them" in line for line in found.read)


def test_right_weights_are_right_for_every_seed(plans):
    made = plans["uvit"]
    for seed in range(20):
        model = made.build("torch", seed=seed)
        examine(made, model, adamw(made.groups(model, lr=LR))).assert_right()


@pytest.mark.parametrize(
    ("parametrization", "wrong"),
    {
        "standard": {
            *(("learning rate", k) for k in ("hidden", "output")),
            *(("weight decay", k) for k in ("hidden", "output")),
            ("epsilon", "output"),
            *(("spread", k) for k in ("vector", "output")),  # torch's biases, and its readout
        },
        "hidden lr not scaled": {("learning rate", "hidden"), ("weight decay", "hidden")},
        "hidden lr / sqrt(m)": {("learning rate", "hidden"), ("weight decay", "hidden")},
        "output lr not scaled": {("learning rate", "output"), ("weight decay", "output")},
        "every lr / m": {
            (what, kind)
            for what in ("learning rate", "weight decay")
            for kind in ("input", "vector")
        },
        "lr / m^1.5": {
            (what, kind)
            for what in ("learning rate", "weight decay")
            for kind in ("hidden", "output")
        },
        "hidden init not scaled": {("spread", "hidden")},
        "output init by fan-in": {("spread", "output")},
    }.items(),
)
def test_each_wrong_parametrization_is_found_and_what_is_right_in_it_is_not(
    plans, parametrization, wrong
):
    made = plans["uvit"]
    other = made.under(parametrization)
    model = other.build()
    groups = other.groups(model, **ADAMW)
    assert seen(examine(made, model, adamw(groups), lr=LR, weight_decay=DECAY)) == wrong
    assert parametrization in PARAMETRIZATIONS


def test_a_hidden_rate_that_is_not_scaled_is_named_with_what_it_should_be(dit):
    made, model, groups = dit
    for group in groups:
        group["lr"] = (
            LR if "transformer_blocks.0.attn1.to_q.weight" in group["names"] else group["lr"]
        )
    found = examine(made, model, adamw(groups))
    assert seen(found) == {("learning rate", "hidden")}
    query = next(one for one in found.findings if "to_q" in one.where)
    assert query.where == "transformer_blocks.*.attn1.to_q.weight"
    assert query.count == 2
    assert query.here == pytest.approx(LR)
    assert query.wanted == pytest.approx(LR / M)
    assert "not scaled with the width" in query.text
    with pytest.raises(
        AssertionError, match=r"all \d+ hidden tensors: learning rate 0.002, should"
    ):
        found.assert_right()


def alone(groups, name, **settings):
    """Give one parameter a group of its own."""
    for group in groups:
        if name in group["names"]:
            at = group["names"].index(name)
            group["names"].pop(at)
            own = {**group, "params": [group["params"].pop(at)], "names": [name], **settings}
            return [g for g in [*groups, own] if g["params"]]
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("name", "setting", "value", "what", "wanted"),
    [
        ("transformer_blocks.1.attn1.to_k.weight", "lr", 2 * LR / M, "learning rate", LR / M),
        ("transformer_blocks.1.attn1.to_k.weight", "lr", LR / M**0.5, "learning rate", LR / M),
        (
            "transformer_blocks.1.attn1.to_k.weight",
            "weight_decay",
            DECAY,
            "weight decay",
            DECAY * M,
        ),
        ("transformer_blocks.1.attn1.to_k.bias", "lr", LR / M, "learning rate", LR),
        ("transformer_blocks.1.attn1.to_k.bias", "lr", 0.0, "learning rate", LR),
        ("transformer_blocks.1.attn1.to_k.bias", "eps", 0.0, "epsilon", EPS),
        ("pos_embed.proj.weight", "lr", LR / M, "learning rate", LR),
        ("proj_out_2.weight", "eps", EPS, "epsilon", EPS * M),
        ("proj_out_2.bias", "weight_decay", DECAY * M, "weight decay", DECAY),
    ],
)
def test_one_wrong_tensor_is_found_alone(dit, name, setting, value, what, wanted):
    made, model, groups = dit
    found = examine(made, model, adamw(alone(groups, name, **{setting: value})))
    (one,) = found.findings
    assert (one.what, one.count) == (what, 1)
    assert one.where == name.replace(".1.", ".*.")
    assert one.here == pytest.approx(value)
    assert one.wanted == pytest.approx(wanted)


def test_the_base_is_read_off_what_keeps_it_though_there_is_more_of_the_rest(dit):
    made, model, _ = dit
    for name, p in model.named_parameters():
        p.requires_grad_(not name.endswith("bias"))
    trained = [p for p in model.parameters() if p.requires_grad]
    found = examine(made, model, torch.optim.AdamW(trained, lr=LR, weight_decay=0.0))
    rates = [one for one in found.findings if one.what == "learning rate"]
    assert {one.kind for one in rates} == {"hidden", "output"}
    # all matrices but those of patches and, in two blocks, of times and labels
    assert sum(one.count for one in rates) == len(trained) - 5


def test_the_standard_parametrization_is_right_where_it_is_the_plan(plans):
    made = plans["uvit"].standard()
    model = made.build()
    examine(made, model, torch.optim.AdamW(model.parameters(), lr=LR)).assert_right()


@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_other_rules_find_a_decay_or_a_rate_of_adamw(plans, rule):
    made = plans["dit"]
    model = made.build("dit")
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[rule]
    groups = [{k: v for k, v in g.items() if k != "names"} for g in made.groups(model, **ADAMW)]
    found = examine(made, model, kind(groups, lr=1.0), lr=LR, weight_decay=DECAY)
    # L2 in Adam goes with m squared at the readout, and SGD scales what AdamW leaves
    expected = {
        "adam": {("weight decay", "output")},
        "sgd": {
            (what, kind)
            for what in ("learning rate", "weight decay")
            for kind in ("input", "vector", "hidden")
        },
    }
    assert seen(found) == expected[rule]


def test_muon_on_what_is_no_hidden_matrix_is_found(plans):
    made = plans["dit"]
    model = made.build("dit")
    muon, rest = optimizers(made, model, "muon")
    readout = made.named(model)["proj_out_2.weight"]
    muon.param_groups[0]["params"].append(readout)
    for group in rest.param_groups:
        group["params"] = [p for p in group["params"] if p is not readout]
    (one,) = examine(made, model, [muon, rest]).findings
    assert (one.what, one.where) == ("group", "proj_out_2.weight")
    assert "beside='muon'" in one.why


def test_what_is_in_no_group_or_in_two_is_found(dit):
    made, model, groups = dit
    missing = alone(groups, "transformer_blocks.1.attn1.to_k.weight")[:-1]
    (one,) = examine(made, model, adamw(missing)).findings
    assert (one.what, one.count) == ("group", 1)
    assert "in no group" in one.text
    twice = adamw(
        [
            {
                "params": [model.get_parameter("pos_embed.proj.bias")],
                "lr": LR,
                **{"weight_decay": DECAY},
            }
        ]
    )
    (one,) = examine(made, model, [adamw(made.groups(model, **ADAMW)), twice]).findings
    assert one.where == "pos_embed.proj.bias"
    assert "in several groups" in one.text


def test_what_is_frozen_or_of_another_model_is_noted(dit):
    made, model, _ = dit
    model.get_parameter("pos_embed.proj.weight").requires_grad_(False)
    other = nn.Linear(2, 2)
    groups = [*made.groups(model, **ADAMW), {"params": [*other.parameters()], "lr": 1.0}]
    found = examine(made, model, adamw(groups))
    found.assert_right()
    assert any("1 tensor frozen, such as pos_embed.proj.weight" in note for note in found.notes)
    assert any("holds 2 tensors that are none of this model's" in note for note in found.notes)


def test_an_optimizer_of_a_copy_trains_nothing(dit):
    made, _, groups = dit
    found = examine(made, made.build("dit"), adamw(groups))
    assert {one.what for one in found.findings} == {"group"}
    assert sum(one.count for one in found.findings) == len(made.entries)


def test_no_decay_of_biases_is_a_choice(dit):
    made, model, groups = dit
    for group in list(groups):
        for name in [n for n in group["names"] if n.endswith("bias")]:
            groups = alone(groups, name, weight_decay=0.0)
    examine(made, model, adamw(groups)).assert_right()


def test_a_warm_up_is_not_the_learning_rate(dit):
    made, model, groups = dit
    optimizer = adamw(groups)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    found = examine(made, model, optimizer)
    found.assert_right()
    assert any(f"learning rate {LR:g} " in line for line in found.read)


def test_a_rate_of_zero_is_noted(dit):
    made, model, groups = dit
    for group in groups:
        group["lr"] = 0.0
    assert any(
        "learning rate is zero" in note for note in examine(made, model, adamw(groups)).notes
    )


def test_a_factor_that_is_missing_everywhere_is_noted_and_found_once_the_base_is_given(plans):
    made = plans["dit"]
    model = made.build("dit")
    muon, rest = optimizers(made, model, "muon-rms")
    for group in muon.param_groups:
        group["lr"] = LR
    found = examine(made, model, [muon, rest])
    found.assert_right()
    # 0.2 sqrt(max side) grows with the width: sqrt(3)
    assert any(f"is the base's lr {LR * M**0.5:.4g}?" in note for note in found.notes)
    assert seen(examine(made, model, [muon, rest], lr=LR)) == {("learning rate", "hidden")}


# what is refused, and what it looks like


def test_an_optimizer_without_a_rule_is_refused_unless_one_is_named(dit):
    made, model, groups = dit

    class Shampoo(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 1.0, "eps": EPS, "weight_decay": 0.0})

    with pytest.raises(ValueError, match=r"no muP rule is known for Shampoo: .*, say which"):
        examine(made, model, Shampoo(groups))
    examine(made, model, Shampoo(groups), rule="adamw").assert_right()
    with pytest.raises(ValueError, match="no muP rule for the optimizer 'lamb'"):
        examine(made, model, Shampoo(groups), rule="lamb")


def test_adam_with_decoupled_decay_is_adamw(dit):
    made, model, groups = dit
    optimizer = torch.optim.Adam(groups, lr=1.0, decoupled_weight_decay=True)
    examine(made, model, optimizer).assert_right()


def test_another_model_and_no_optimizer_are_refused(plans):
    made, other = plans["dit"], nn.Linear(2, 2)
    with pytest.raises(ValueError, match="the plan does not know"):
        examine(made, other, adamw(other.parameters()))
    model = made.build("dit")
    with pytest.raises(ValueError, match="want an optimizer of torch, or several, got str"):
        examine(made, model, "adamw")


def test_what_torch_compile_wraps_is_the_same(dit):
    made, model, groups = dit
    examine(made, torch.compile(model, backend="eager"), adamw(groups)).assert_right()  # type: ignore[arg-type]


def test_a_finding_is_text_and_json(dit):
    made, model, groups = dit
    found = examine(made, model, adamw(alone(groups, "proj_out_2.weight", eps=EPS)))
    told = json.loads(json.dumps(found.as_dict()))
    assert told["right"] is False
    (one,) = told["findings"]
    assert one["text"] == (
        "proj_out_2.weight (1 output tensor): epsilon 1e-08, should be 3e-08; it is not scaled "
        "with the width, and takes the base's 1e-08 times 3. Give its group eps=3e-08"
    )
    assert found.as_text().splitlines()[-1] == "1 wrong"
