"""Plans as data, at other widths, and as groups; and what is refused."""

import json
import math

import pytest
import torch
from torch import nn

from core.mup import Plan, plan
from core.mup._saved import FILE
from core.mup.families import FAMILIES
from core.mup.rules import OPTIMIZERS
from core.mup.uvit import UViT

PLANS = {name: family.plan(heads=12, layers=2) for name, family in FAMILIES.items()}
PLAN = PLANS["uvit"]
each = pytest.mark.parametrize("made", PLANS.values(), ids=PLANS)


def built(made):
    with torch.device("meta"):
        return made.model_class(**made.config)


@each
def test_a_plan_comes_back_from_its_file(made, tmp_path):
    assert made.save(tmp_path) == tmp_path / FILE
    again = Plan.load(tmp_path)
    assert again.entries == made.entries
    assert json.dumps(again.as_dict()) == json.dumps(made.as_dict())
    assert again.model_class is made.model_class
    assert again.explain(optimizer="sgd") == made.explain(optimizer="sgd")
    wider = {"num_attention_heads": 20}
    assert again.at(**wider).entries == made.at(**wider).entries


def test_parametrization_axes_and_streams_come_back_too(tmp_path):
    class Net(nn.Module):
        def __init__(self, dim=4, num_heads=2, head_dim=2, dtype=None):
            super().__init__()
            self.mix = nn.Parameter(torch.zeros(dim, dim))

    axes = {"mix": (1, 0)}
    base = {"num_heads": 1, "head_dim": 1}
    made = plan(Net, {}, base=base, axes=axes).under("every lr / m")
    again = Plan.load(made.save(tmp_path / "mine.json"))
    assert (again.axes, again.follows) == (axes, made.follows)
    assert again.parametrization == "every lr / m"
    assert again.entries == made.entries
    assert not list(tmp_path.glob(".*"))

    assert again.model_class is None  # a class within a function cannot be imported
    assert again.groups(Net(), lr=1.0)[0]["lr"] == 1 / 4
    with pytest.raises(ValueError, match="cannot be imported here: nothing to build"):
        again.build()
    with pytest.raises(ValueError, match=r"cannot be saved as JSON: .*dtype"):
        plan(Net, {"dtype": torch.float64}, base=base, axes=axes).save(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "core.mup plan 0"}', '{"format": "core.mup plan 1"}']
)
def test_another_file_is_no_plan(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match=r"mup_plan.json is no plan of this version \(core.mup"):
        Plan.load(tmp_path)


@each
def test_at_the_base_every_factor_is_one_and_back_again_is_the_same_plan(made):
    base = made.at(num_attention_heads=4)
    assert base.config == base.base_config == made.base_config
    for entry in base.entries.values():
        assert entry.init == 1
        for optimizer in ("adamw", "decoupled", "adam", "sgd"):
            assert set(entry.multipliers(optimizer)) == {1}
    assert [e.kind for e in base.entries.values()] == [e.kind for e in made.entries.values()]
    assert base.at(num_attention_heads=12) == made


def test_below_the_base_factors_are_above_one():
    narrow = PLAN.at(num_attention_heads=2)
    assert narrow.entries["mid_block.attn.to_q.weight"].multipliers("adamw").lr == 2


def test_two_keys_multiply_in_what_follows_both():
    class Net(nn.Module):
        def __init__(self, num_heads=6, head_dim=8, cross_attention_dim=48):
            super().__init__()
            self.heads = num_heads
            self.to_q = nn.Linear(num_heads * head_dim, cross_attention_dim)

    made = plan(Net, {}, base={"num_heads": 2, "head_dim": 8})
    both = made.at(num_heads=4, head_dim=16).at(num_heads=2, head_dim=8)
    assert both.config["cross_attention_dim"] == 16
    wide = both.at(num_heads=4, head_dim=24)
    assert wide.config["cross_attention_dim"] == 96
    entry = wide.entries["to_q.weight"]
    assert (entry.m_in, entry.m_out, entry.fold) == (6, 6, pytest.approx(3**-0.5))


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({}, "want the keys num_attention_heads, got "),
        ({"attention_head_dim": 3}, "want the keys num_attention_heads, got attention_head_dim"),
    ],
)
def test_other_keys_than_the_base_s_are_refused(widths, message):
    with pytest.raises(ValueError, match=message):
        PLAN.at(**widths)


def test_a_width_at_which_another_key_is_no_whole_number_is_refused():
    class Net(nn.Module):
        def __init__(self, dim=8, ffn_dim=10):
            super().__init__()
            self.up = nn.Linear(dim, ffn_dim)

    with pytest.raises(ValueError, match="ffn_dim would be 15/2 there"):
        plan(Net, {}, base={"dim": 4}).at(dim=6)


def test_the_standard_parametrization_has_the_same_names_and_no_factor():
    assert PLAN.standard().entries.keys() == PLAN.entries.keys()
    assert PLAN.standard().mup == PLAN.mup
    assert {e.multipliers("adamw") for e in PLAN.standard().entries.values()} == {(1, 1, 1)}
    assert PLAN.standard().under("mup") == PLAN


def test_a_parametrization_of_no_such_name_is_refused():
    with pytest.raises(ValueError, match="no parametrization 'muP'; there are 'mup', 'standard'"):
        PLAN.under("muP")


@pytest.mark.parametrize("optimizer", ["adamw", "decoupled", "adam", "sgd"])
@each
def test_groups_have_every_parameter_once_with_its_own_settings(made, optimizer):
    model = built(made)
    groups = made.groups(model, lr=0.5, weight_decay=0.25, eps=0.125, optimizer=optimizer)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    for group in groups:
        assert ("eps" in group) == (optimizer != "sgd")
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert parameter is model.get_parameter(name)
            factor = made.entries[name].multipliers(optimizer)
            assert group["lr"] == 0.5 * factor.lr
            assert group["weight_decay"] == 0.25 * factor.weight_decay
            assert group.get("eps", 0.125 * factor.eps) == 0.125 * factor.eps
    settings = {tuple(v for k, v in g.items() if k not in ("params", "names")) for g in groups}
    assert len(settings) == len(groups)  # one for each combination


@pytest.mark.parametrize("muon", ["muon", "muon-rms"])
@each
def test_muon_and_adamw_beside_it_share_the_parameters(made, muon):
    model = built(made)
    taken = made.groups(model, lr=1, optimizer=muon)
    rest = made.groups(model, lr=1, beside=muon)
    names = [[name for group in groups for name in group["names"]] for groups in (taken, rest)]
    assert sorted(names[0] + names[1]) == sorted(made.entries)
    assert all(
        made.entries[n].kind == "hidden" and model.get_parameter(n).dim() == 2 for n in names[0]
    )
    assert not any(made.entries[name].kind == "hidden" for name in names[1])
    assert all("eps" not in group for group in taken)
    torch.optim.Muon(taken)


def test_what_is_frozen_is_in_no_group():
    model = built(PLAN)
    model.requires_grad_(False)
    model.get_parameter("pos_embed").requires_grad_(True)
    (group,) = PLAN.groups(model, lr=1)
    assert group["names"] == ["pos_embed"]


def test_the_norm_counts_an_output_by_its_reference_and_clips_all_alike():
    model = PLAN.build()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    model.get_parameter("pos_embed").grad = None
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    parts = {
        name: g.double().norm() / (3 if name == "proj_out.weight" else 1)
        for name, g in before.items()
    }
    expected = math.sqrt(sum(part.item() ** 2 for part in parts.values()))
    assert PLAN.clip_grad_norm_(model, 2 * expected).item() == pytest.approx(expected)
    for name, gradient in before.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=0, atol=0)
    assert PLAN.clip_grad_norm_(model, expected / 2).item() == pytest.approx(expected)
    for name, gradient in before.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient / 2)


def test_without_a_gradient_the_norm_is_zero():
    assert PLAN.clip_grad_norm_(PLAN.build(), 1.0) == 0


def test_a_plan_makes_no_weight():
    devices = set()

    class Net(UViT):
        def __init__(self, num_attention_heads=1 << 14, attention_head_dim=64, num_layers=1):
            super().__init__(num_attention_heads, attention_head_dim, num_layers)
            devices.update(p.device.type for p in self.parameters())

    made = plan(Net, {}, base={"num_attention_heads": 4})  # a trillion numbers a matrix
    assert devices == {"meta"}
    assert made.entries["mid_block.attn.to_q.weight"].m_in == 1 << 12


def test_what_was_found_and_what_narrows_is_warned_of():
    class Net(nn.Module):
        def __init__(self, dim=8, num_kv_heads=2, ffn_dim=16):
            super().__init__()
            self.low = nn.Sequential(nn.Linear(dim, 2), nn.Linear(2, dim))
            self.mix, self.out = nn.Linear(dim, dim), nn.Linear(dim, 3)

    told = plan(Net, {}, base={"dim": 4}).warnings
    assert told[0] == "num_kv_heads grows with the width (hold it: fixed=('num_kv_heads',))"
    assert told[1].startswith("ffn_dim grows")
    assert told[2].startswith("1 of the layers that end in a finite dimension are not the last")
    assert "low.0.weight" in told[2]
    fixed = plan(Net, {}, base={"dim": 4}, fixed=["num_kv_heads", "ffn_dim"])
    assert len(fixed.warnings) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 1, "optimizer": "lion"}, "no muP rule for the optimizer 'lion'; there are 'adamw'"),
        ({"lr": -1}, "want lr >= 0, got -1"),
        ({"lr": math.nan}, "want lr >= 0, got nan"),
        ({"lr": 1, "weight_decay": -0.1}, "want weight_decay >= 0"),
        ({"lr": 1, "eps": -1e-8}, "want eps >= 0"),
    ],
)
def test_settings_that_are_none_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PLAN.groups(built(PLAN), **settings)


class Adapted(UViT):
    """With a layer that the plan has not seen."""

    def __init__(self, *sizes, **more):
        super().__init__(*sizes, **more)
        self.adapter = nn.Linear(3, 3)


class Headless(UViT):
    def __init__(self, *sizes, **more):
        super().__init__(*sizes, **more)
        del self.proj_out


@pytest.mark.parametrize(
    ("model_class", "heads", "message"),
    [
        (Adapted, 12, r"a parameter 'adapter.weight' that the plan does not know: plan the model"),
        (Headless, 12, r"the plan has 'proj_out.weight', and the model does not"),
        (UViT, 8, r"pos_embed is \[1, 18, 128\], and in the plan \[1, 18, 192\].*plan\.at"),
    ],
)
def test_another_model_is_refused_by_the_first_parameter_that_differs(model_class, heads, message):
    model = model_class(**PLAN.config | {"num_attention_heads": heads})
    for use in (
        lambda: PLAN.groups(model, lr=1),
        lambda: PLAN.init_(model),
        lambda: PLAN.clip_grad_norm_(model, 1.0),
    ):
        with pytest.raises(ValueError, match=message):
            use()


class Tied(nn.Module):
    def __init__(self, dim=12, depth=2):
        super().__init__()
        self.words, self.mix = nn.Embedding(7, dim), nn.Linear(dim, dim)
        self.readout = nn.Linear(dim, 7)
        self.readout.weight = self.words.weight


class Fused(nn.Module):
    def __init__(self, dim=12, depth=2):
        super().__init__()
        self.mix, self.both = nn.Linear(dim, dim), nn.Linear(dim, dim + 5)


class Cube(nn.Module):
    def __init__(self, dim=12, depth=2):
        super().__init__()
        self.mix, self.form = nn.Linear(dim, dim), nn.Bilinear(dim, dim, dim)


@pytest.mark.parametrize("ratio", [2, 3])
@pytest.mark.parametrize(
    ("model_class", "message"),
    [
        (Tied, r"words.weight is one tensor that serves as vector and as output.*Untie it"),
        (Fused, r"both.weight: dimension 0 is 5 \+ \d+ times the width.*Split it in two"),
        (Cube, r"form.weight \[12, 12, 12\] grows in 3 dimensions.*hold one of them, or split"),
    ],
)
def test_a_model_to_which_muP_has_no_rule_is_refused_by_the_parameter(model_class, message, ratio):
    with pytest.raises(ValueError, match=message):
        plan(model_class, {}, base={"dim": 12 // ratio})


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({}, "want the width keys at the base.*of this configuration: dim"),
        ({"dim": 12}, r"the base equals the target \(dim=12\)"),
        ({"depth": 1}, "the keys in base are not the width of this model"),
        ({"width": 1}, "the configuration has no key 'width'; its width keys: dim"),
    ],
)
def test_a_base_that_is_no_narrower_model_is_refused(base, message):
    with pytest.raises(ValueError, match=message):
        plan(Fused, {}, base=base)


def test_every_optimizer_that_is_known_has_groups():
    for optimizer in OPTIMIZERS:
        assert PLAN.groups(built(PLAN), lr=1, optimizer=optimizer)
