"""The survey: all of diffusers' transformers are planned, and each layer against what it says.

A layer's own `in_features` and `out_features`, at base and target, say which of its sides grow.
"""

import re

import pytest
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from core.mup import survey as module
from core.mup.plan import Plan
from core.mup.survey import CASES, model_names, plan_of, survey

# diffusers warns of its own class FluxPosEmbed while it builds some models
pytestmark = pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")

KINDS = {
    (True, True): "hidden",
    (True, False): "output",
    (False, True): "input",
    (False, False): "finite",
}
# matrices that do not grow with the width belong to a stream that has a width of its own: first
# embedders of time and of what goes with it, in many classes, then by class
TIME = r"(^|\.|_)(time|timestep|condition|pooled_text|caption|t)_(embed|proj|embedder|embeddings)"
STAYS = {
    "ChromaTransformer2DModel": r"^distilled_guidance_layer",  # an MLP of 5120
    "HunyuanVideo15Transformer3DModel": r"^(image_embedder|context_embedder_2)",  # of 1152, 2048
    "Krea2Transformer2DModel": r"^text_fusion",  # a transformer of 2560
    "MiniMaxMusic3Transformer1DModel": r"^(pre|post)process_conv",  # between channels of data
    "MochiTransformer3DModel": r"ff_context",  # the text's stream, of 1536
    "WanAnimate2Transformer3DModel": r"^img_emb",  # of 1280
    "WanAnimateTransformer3DModel": r"^(motion|face)_encoder|image_embedder",
}


@pytest.fixture(scope="module")
def found():
    return survey()


@pytest.fixture(scope="module")
def plans(found):
    return {name: plan for name, plan in found.items() if isinstance(plan, Plan)}


def test_nearly_every_transformer_is_planned_and_the_rest_has_a_reason(found, plans):
    assert len(found) >= 65
    assert len(plans) >= 58
    assert all(len(reason) > 20 for reason in found.values() if isinstance(reason, str))


def test_every_plan_has_hidden_parameters_inputs_and_a_readout(plans):
    for name, plan in plans.items():
        kinds = [entry.kind for entry in plan.entries.values()]
        assert kinds.count("hidden") >= 6, name
        assert {"input", "output"} <= set(kinds), name


def test_what_is_scaled_is_a_width_or_a_number_of_heads(plans):
    scaled = {key for plan in plans.values() for key in plan.ratios}
    heads = {key for key in scaled if re.search("heads$", key)}
    assert scaled - heads == {
        *("hidden_size", "model_dim", "dim"),
        *("ff_dim", "ffn_dim", "ff_inner_dim", "ffn_hidden_size", "intermediate_size"),
        *("cross_attention_dim", "audio_cross_attention_dim", "caption_projection_dim"),
        *("time_embed_dim", "time_embed_hidden_dim"),  # of MiniMaxH3
    }


def sides(layer):
    """What a layer says of its (fan-in, fan-out), None for another module."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, _ConvNd):  # a group sees a part of what comes in
        return layer.in_channels // layer.groups, layer.out_channels
    return None


def test_every_layer_has_the_kind_that_its_own_sizes_say(plans):
    checked = 0
    for name, plan in plans.items():
        with torch.device("meta"):
            base, target = (
                dict(plan.model_class(**config).named_modules())
                for config in (plan.base_config, plan.config)
            )
        for path, layer in target.items():
            small, large = sides(base[path]), sides(layer)
            if small is None or large is None or f"{path}.weight" not in plan.entries:
                continue
            grows = small[0] != large[0], small[1] != large[1]
            assert plan.entries[f"{path}.weight"].kind == KINDS[grows], f"{name} {path}"
            checked += 1
    assert checked > 2000


def test_a_matrix_that_stays_is_of_a_stream_with_a_width_of_its_own(plans):
    for name, plan in plans.items():
        known = f"{TIME}|{STAYS.get(name, TIME)}"
        stays = [n for n, e in plan.entries.items() if e.kind == "finite" and len(e.shape) > 1]
        unknown = [n for n in stays if max(plan.entries[n].shape) > 16 and not re.search(known, n)]
        assert not unknown, f"{name}: {unknown}"


def test_widths_double_except_where_they_are_rounded(plans):
    rounded = {"BriaFibo2Transformer2DModel", "HiDreamImageTransformer2DModel"}
    for name in set(plans) - rounded:
        factors = {f for e in plans[name].entries.values() for f in (e.m_in, e.m_out)}
        assert factors == {1.0, 2.0}, name


def test_of_auraflow_only_the_first_and_last_layers_are_not_hidden():
    kinds = {
        name: entry.kind for name, entry in plan_of("AuraFlowTransformer2DModel").entries.items()
    }
    apart = {name: kind for name, kind in kinds.items() if kind in ("input", "output")}
    assert apart == {
        "pos_embed.proj.weight": "input",
        "context_embedder.weight": "input",
        "time_step_proj.linear_1.weight": "input",
        "proj_out.weight": "output",
    }


def test_every_case_is_of_a_class_and_is_needed(monkeypatch):
    assert set(CASES) <= set(model_names())
    assert list(CASES) == sorted(CASES)
    plans = {name: plan_of(name) for name in CASES}
    monkeypatch.setattr(module, "CASES", {})
    for name, case in CASES.items():
        if case.config:
            with pytest.raises(ValueError, match=r"\w{3}"):
                plan_of(name)
        else:
            assert plan_of(name).entries != plans[name].entries, name


def test_a_refusal_says_what_was_asked_of_the_constructor(monkeypatch):
    monkeypatch.setattr(module, "CASES", {})
    with pytest.raises(ValueError, match="EasyAnimateTransformer3DModel cannot be built with"):
        plan_of("EasyAnimateTransformer3DModel")


def test_a_class_without_a_width_is_refused():
    class Fixed(nn.Module):
        def __init__(self, depth=3):
            super().__init__()

    with pytest.raises(
        ValueError, match="none of hidden_size, model_dim, dim, num_attention_heads"
    ):
        module._half(Fixed)
