"""Which keys grow: of the five families as their constructors want it, and of made-up cases."""

from fractions import Fraction
from typing import Any

import pytest

from core.mup.families import FAMILIES
from core.mup.widths import at_base, co_scaled, full_config, grown

# what each class needs besides the number of heads, or a base cannot be built, or is another model
FOLLOW = {
    "uvit": set(),
    "dit": set(),
    "pixart": {"cross_attention_dim"},
    "mmdit": {"caption_projection_dim"},
    "flux": set(),
}
HEADS = ("num_attention_heads",)


@pytest.mark.parametrize("name", FAMILIES)
def test_of_the_five_families_the_width_and_nothing_of_text_or_data_grows(name):
    family = FAMILIES[name]
    config = full_config(family.model_class, family.config(heads=12))
    expected = dict.fromkeys([*HEADS, *FOLLOW[name]], HEADS)
    assert co_scaled(config, {"num_attention_heads": 4}) == expected


def test_text_as_wide_as_the_model_stays():
    config = {"num_attention_heads": 12, "attention_head_dim": 64, "joint_attention_dim": 768}
    config |= {"pooled_projection_dim": 768, "caption_channels": 768, "in_channels": 768}
    assert set(co_scaled(config, {"num_attention_heads": 6})) == set(HEADS)


@pytest.mark.parametrize(
    ("config", "base", "expected"),
    [
        # the width itself is given: heads grow, their dimension stays, other widths stay
        (
            {"hidden_size": 64, "num_heads": 8, "num_kv_heads": 4, "head_dim": 8, "ffn_dim": 200},
            {"hidden_size": 32},
            {"num_heads": ("hidden_size",), "num_kv_heads": ("hidden_size",)}
            | {"ffn_dim": ("hidden_size",)},
        ),
        # the dimension of a head grows: the number of heads stays
        (
            {"num_heads": 8, "head_dim": 8, "num_kv_heads": 4, "dim": 64, "mlp_dim": 256},
            {"head_dim": 4},
            {"dim": ("head_dim",), "mlp_dim": ("head_dim",)},
        ),
        # both grow, and the width by both
        (
            {"num_heads": 8, "head_dim": 8, "dim": 64, "other_dim": 65},
            {"num_heads": 4, "head_dim": 4},
            {"dim": ("num_heads", "head_dim")},
        ),
        # two streams: each key goes with the stream whose width it equals
        (
            {
                "num_attention_heads": 4,
                "attention_head_dim": 16,
                "audio_num_attention_heads": 4,
                "audio_attention_head_dim": 8,
                "cross_attention_dim": 64,
                "inner_dim": 32,
            },
            {"num_attention_heads": 2, "audio_num_attention_heads": 1},
            {
                "cross_attention_dim": ("num_attention_heads",),
                "inner_dim": ("audio_num_attention_heads",),
            },
        ),
        # a number of heads whose dimension no key has
        (
            {"n_heads": 8, "ffn_dim": 32, "window_size": 8},
            {"n_heads": 2},
            {"ffn_dim": ("n_heads",)},
        ),
        # a key that is no number, and one that is a truth
        ({"dim": 8, "inner_dim": None, "norm_dim": True}, {"dim": 4}, {}),
    ],
    ids=["hidden size", "head dim", "both", "two streams", "heads alone", "no numbers"],
)
def test_what_follows_what(config, base, expected):
    assert co_scaled(config, base) == {key: (key,) for key in base} | expected


def test_a_fixed_key_stays():
    config = {"num_attention_heads": 4, "attention_head_dim": 8, "cross_attention_dim": 32}
    base = {"num_attention_heads": 2}
    assert "cross_attention_dim" in co_scaled(config, base)
    assert "cross_attention_dim" not in co_scaled(config, base, fixed=("cross_attention_dim",))


def test_a_key_that_stands_still_takes_nothing_along():
    config = {"num_attention_heads": 4, "attention_head_dim": 8, "cross_attention_dim": 32}
    follows = co_scaled(config, {"num_attention_heads": 4, "attention_head_dim": 2})
    ratios = grown(follows, {"num_attention_heads": Fraction(1), "attention_head_dim": Fraction(4)})
    assert at_base(config, ratios)["cross_attention_dim"] == 4 * 2


def test_ratios_multiply_and_the_base_is_the_target_divided_by_them():
    follows = {"heads": ("heads",), "head_dim": ("head_dim",), "dim": ("heads", "head_dim")}
    ratios = grown(follows, {"heads": Fraction(3), "head_dim": Fraction(3, 2)})
    assert ratios["dim"] == Fraction(9, 2)
    config = {"heads": 6, "head_dim": 12, "dim": 72, "depth": 5}
    assert at_base(config, ratios) == {"heads": 2, "head_dim": 8, "dim": 16, "depth": 5}


def test_defaults_fill_the_configuration():
    def made(heads=4, *, width, **more):
        return heads, width, more

    assert full_config(made, {"width": 3, "other": 1}) == {"heads": 4, "width": 3, "other": 1}


def test_a_model_s_own_config_will_do():
    family = FAMILIES["dit"]
    model: Any = family.model_class(**family.config(heads=2, layers=1))
    assert any(key.startswith("_") for key in model.config)
    expected = full_config(family.model_class, family.config(heads=2, layers=1))
    assert full_config(family.model_class, model.config) == expected


HERE = {"num_attention_heads": 8, "attention_head_dim": 4, "ff_dim": 10, "name": "x"}


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({}, "want the width keys at the base.*num_attention_heads, attention_head_dim, ff_dim"),
        ({"width": 3}, "has no key 'width'; its width keys: num_attention_heads"),
        ({"num_attention_heads": 8}, r"the base equals the target \(num_attention_heads=8\)"),
        ({"num_attention_heads": 0}, "want a positive integer at the base, got 0"),
        ({"num_attention_heads": 2.0}, "want a positive integer at the base, got 2.0"),
        ({"name": 2}, "want a positive integer at the target, got 'x'"),
    ],
)
def test_a_base_that_is_none_is_refused(base, message):
    with pytest.raises(ValueError, match=message):
        co_scaled(HERE, base)


def test_a_configuration_without_a_width_says_so():
    with pytest.raises(ValueError, match="width keys of this configuration: none that looks like"):
        co_scaled({"depth": 3, "sample_size": 8, "rate": 0.1}, {})


def test_a_key_that_is_no_whole_number_at_the_base_is_refused():
    with pytest.raises(ValueError, match=r"ff_dim=10 .*10 / 4.*fixed=\('ff_dim',\)"):
        at_base(HERE, {"num_attention_heads": Fraction(4), "ff_dim": Fraction(4)})


def test_a_key_that_the_constructor_does_not_take_is_refused():
    def small(width, depth=2):
        return width, depth

    with pytest.raises(ValueError, match="small takes no 'heads'; it takes width, depth"):
        full_config(small, {"heads": 4})
