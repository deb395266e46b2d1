"""Recipes: the spread of every parameter against its law, written by hand at the base's sizes.

DiT and PixArt of one layer, width 64 at the base, 192 at the target: m = 3.
"""

import math
import re

import pytest
import torch
from torch import nn

from core.mup import plan
from core.mup.families import FAMILIES
from core.mup.initial import RECIPES, laws, read_law
from core.mup.shapes import owned

M = 3
PLANS = {name: FAMILIES[name].plan(heads=12, layers=1) for name in ("dit", "pixart")}


def xavier(fan_out, fan_in):
    return math.sqrt(2 / (fan_in + fan_out))


HIDDEN = 1 / math.sqrt(M)
FEED = {r"ff\.net\.0\.proj\.weight": xavier(256, 64) * HIDDEN}
FEED |= {r"ff\.net\.2\.weight": xavier(64, 256) * HIDDEN}
# name -> spread at width 192, the first that matches; of a layer that grows on both sides, the
# law of its base over the root of three
EXPECTED = {
    ("dit", "dit"): {
        r"^proj_out|norm1\.linear": 0.0,  # readout, and the gates and shifts before it
        r"timestep_embedder\.linear_1\.weight|embedding_table": 0.02,
        r"timestep_embedder\.linear_2\.weight": 0.02 * HIDDEN,
        r"pos_embed\.proj\.weight": xavier(64, 4),  # of the base's 64 rows: width-free
        r"attn1\..*weight": xavier(64, 64) * HIDDEN,
        **FEED,
        r"bias": 0.0,
    },
    ("dit", "dit-mup"): {
        r"^proj_out_2": 0.0,
        r"embedding_table": 1.0,
        r"pos_embed\.proj\.weight": 1 / math.sqrt(4),
        r"timestep_embedder\.linear_1\.weight": 1 / math.sqrt(256),
        r"ff\.net\.2\.weight": 1 / math.sqrt(768),
        r"weight": 1 / math.sqrt(192),  # gates too: fan-in at the target, as n^-1/2 says
        r"bias": 0.0,
    },
    ("pixart", "pixart"): {
        r"^proj_out|attn2\.to_out\.0": 0.0,
        r"scale_shift_table": 0.02,
        r"(timestep_embedder|caption_projection)\.linear_1\.weight": 0.02,
        r"(timestep_embedder|caption_projection)\.linear_2\.weight": 0.02 * HIDDEN,
        r"adaln_single\.linear\.weight": 0.02 * HIDDEN,
        r"pos_embed\.proj\.weight": xavier(64, 4),
        r"attn[12]\..*weight": xavier(64, 64) * HIDDEN,
        **FEED,
        r"bias": 0.0,
    },
    ("pixart", "torch"): {
        r"scale_shift_table": 1 / math.sqrt(64),  # randn / sqrt(width), of the base's width
        r"pos_embed\.proj": 1 / math.sqrt(3 * 4),
        r"timestep_embedder\.linear_1": 1 / math.sqrt(3 * 256),
        r"caption_projection\.linear_1": 1 / math.sqrt(3 * 32),
        r"^proj_out\.weight": 1 / math.sqrt(3 * 64) / M,
        r"ff\.net\.2\.weight": 1 / math.sqrt(3 * 768),
        r"ff\.net\.2\.bias": 1 / math.sqrt(3 * 256),
        r"weight": 1 / math.sqrt(3 * 192),
        r"bias": 1 / math.sqrt(3 * 64),
    },
}


@pytest.mark.parametrize("case", EXPECTED, ids=str)
def test_every_parameter_has_the_spread_of_its_law(case):
    family, recipe = case
    models = [dict(PLANS[family].build(recipe, seed=s).named_parameters()) for s in range(3)]
    for name in models[0]:
        spread = next(s for pattern, s in EXPECTED[case].items() if re.search(pattern, name))
        drawn = torch.stack([model[name].detach() for model in models])
        measured = drawn.square().mean().sqrt().item()
        if spread == 0:
            assert measured == 0, name
            continue
        # a normal's relative sd is 1 / sqrt(2 size); five of it, and what the law of a small
        # table of the base was read off with, 1 / sqrt(2 x 2 x 64)
        allowed = 5 / math.sqrt(2 * drawn.numel()) + (0.15 if "scale_shift" in name else 0)
        assert abs(measured / spread - 1) < allowed, (name, measured, spread)


def test_mup_s_dit_has_the_spread_of_kaiming_at_the_target():
    """`models_mup.py` draws every layer by torch's own function; here the large ones of it."""
    torch.manual_seed(1)
    for name, tensor in PLANS["dit"].build("dit-mup").named_parameters():
        if tensor.dim() == 2 and "proj_out_2" not in name and "embedding" not in name:
            theirs = nn.init.kaiming_normal_(torch.empty(tensor.shape), a=1)
            ratio = (tensor.detach().std() / theirs.std()).item()
            assert ratio == pytest.approx(1, abs=5 / math.sqrt(tensor.numel())), name


FIRST = "pos_embed.proj.weight"
TABLE = "transformer_blocks.0.scale_shift_table"


@pytest.mark.parametrize("recipe", ["torch", "pixart"])
def test_the_table_and_what_comes_in_do_not_shrink_with_the_width(recipe):
    models = [PLANS["pixart"].at(num_attention_heads=w).build(recipe) for w in (4, 36)]
    for name in (FIRST, TABLE):
        narrow, wide = (model.get_parameter(name).std().item() for model in models)
        assert wide / narrow == pytest.approx(1, abs=0.25), name  # of 256 numbers: sd 4 %


def test_left_to_themselves_they_would():
    """The class's table is `randn / sqrt(width)`, and xavier's spread goes by the fan-out."""
    plain = PLANS["pixart"].at(num_attention_heads=36).standard()
    table, first = plain.build().get_parameter(TABLE), plain.build("pixart").get_parameter(FIRST)
    assert table.std().item() == pytest.approx(1 / math.sqrt(576), rel=0.1)
    assert first.std().item() == pytest.approx(xavier(576, 4), rel=0.1)


def test_uniform_laws_stay_within_their_bound_and_fill_it():
    weight = PLANS["dit"].build("dit").get_parameter("transformer_blocks.0.attn1.to_q.weight")
    bound = math.sqrt(3) * xavier(64, 64) * HIDDEN
    assert 0.999 * bound < weight.abs().max().item() <= bound * (1 + 1e-6)


def test_the_standard_parametrization_has_the_law_of_its_own_width():
    weight = PLANS["dit"].standard().build().get_parameter("proj_out_2.weight")
    assert weight.std().item() == pytest.approx(1 / math.sqrt(3 * 192), rel=0.1)


def test_at_the_base_the_class_itself_is_what_the_recipe_torch_draws():
    made = PLANS["pixart"].at(num_attention_heads=4)
    ours = dict(made.build().named_parameters())
    theirs = dict(FAMILIES["pixart"].model_class(**made.config).named_parameters())
    for name, tensor in theirs.items():
        allowed = 6 / math.sqrt(tensor.numel())
        if tensor.std() > 0 and allowed < 1:
            assert abs(ours[name].std() / tensor.std() - 1) < allowed, name


def test_a_seed_is_a_draw_and_a_parameter_s_draw_depends_on_no_other():
    before = torch.get_rng_state()
    one, again, other = (PLANS["dit"].build(seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    deeper = FAMILIES["dit"].plan(heads=12, layers=2).build(seed=3)
    for name, tensor in one.named_parameters():
        assert torch.equal(tensor, again.get_parameter(name))
        assert torch.equal(tensor, deeper.get_parameter(name))
        assert not torch.equal(tensor, other.get_parameter(name))
    blocks = (deeper.get_parameter(f"transformer_blocks.{i}.ff.net.2.weight") for i in (0, 1))
    assert not torch.equal(*blocks)


def test_init_draws_what_build_draws_whatever_the_model_was():
    model = FAMILIES["dit"].model_class(**PLANS["dit"].config)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.fill_(7)
    PLANS["dit"].init_(model, "dit", seed=5)
    expected = PLANS["dit"].build("dit", seed=5).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


class Odd(nn.Module):
    """Tensors that are no samples, and one that is."""

    def __init__(self, width=400):
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.ramp = nn.Parameter(torch.linspace(0, 1, width))
        self.frozen = nn.Parameter(torch.randn(width), requires_grad=False)
        self.gain = nn.Parameter(torch.full((width,), 0.5))
        self.table = nn.Parameter(0.3 * torch.randn(5, width))
        self.empty = nn.Parameter(torch.empty(0))


def test_the_law_of_a_fresh_tensor_is_read_off_it():
    found = {name: read_law(one[0]) for name, one in owned(Odd()).items()}
    assert found["ramp"].family == found["frozen"].family == "kept"
    assert (found["gain"].family, found["gain"].std) == ("constant", 0.5)
    assert found["table"].family == "normal"
    assert found["table"].std == pytest.approx(0.3, abs=0.03)
    assert found["hidden.weight"].family == found["hidden.bias"].family == "uniform"
    assert found["hidden.bias"].std == pytest.approx(1 / math.sqrt(3 * 400))


def test_what_is_no_sample_is_kept():
    made = plan(Odd, {"width": 1200}, base={"width": 400})
    model = Odd(1200)
    ramp, frozen = model.ramp.clone(), model.frozen.clone()
    made.init_(model)
    assert torch.equal(model.ramp, ramp)
    assert torch.equal(model.frozen, frozen)
    assert (model.gain == 0.5).all()


@pytest.mark.parametrize(
    ("family", "recipe", "message"),
    [
        ("dit", "DiT", "no recipe 'DiT'; there are torch, dit, dit-mup, pixart"),
        ("uvit", "dit", "the recipe 'dit' speaks of .*and UViT has no such parameter"),
        ("dit", "pixart", "speaks of 'scale_shift_table', and DiTTransformer2DModel has no such"),
    ],
)
def test_a_recipe_that_is_none_or_of_another_model_is_refused(family, recipe, message):
    with pytest.raises(ValueError, match=message):
        FAMILIES[family].plan(heads=4, layers=1).build(recipe)


@pytest.mark.parametrize("name", ["mmdit", "flux"])
@pytest.mark.parametrize("recipe", ["dit", "dit-mup"])
def test_dit_s_recipes_reach_every_gate_of_the_other_families(name, recipe):
    model = FAMILIES[name].plan(heads=4, layers=1).build(recipe)
    gates = {n: p for n, p in model.named_parameters() if re.search(r"norm\w*\.linear\.weight", n)}
    assert len(gates) >= 3
    zero = {n for n, p in gates.items() if not p.any()}
    assert zero == (set(gates) if recipe == "dit" else set())
    assert not model.get_parameter("proj_out.weight").any()


def test_every_recipe_has_a_law_for_every_parameter():
    for recipe in RECIPES:
        pattern = FAMILIES["pixart" if recipe == "pixart" else "dit"].model_class(
            **PLANS["pixart" if recipe == "pixart" else "dit"].base_config
        )
        assert set(laws(pattern, recipe)) == {name for name, _ in pattern.named_parameters()}
