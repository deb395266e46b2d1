"""Every transformer that diffusers exports, planned at twice the width of a base.

What makes `plan` general is not said but counted. A class is planned with its own default
configuration, two layers deep, the base at half the width; where that is not a model (a default is
None) or not the whole width (a second stream has its own), `CASES` says what to do and why. All of
it happens on the meta device.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from core.mup.plan import Plan, plan

WIDTHS = ("hidden_size", "model_dim", "dim", "num_attention_heads")
"""The key that is halved, the first of these that a class has."""
DEPTHS = ("layers", "blocks")
"""What counts blocks; two are as good as sixty to a plan."""


@dataclass(frozen=True)
class Case:
    """What a class needs to be planned that its defaults do not say."""

    why: str
    config: Mapping[str, Any] = field(default_factory=dict)
    """Keys whose default cannot be used."""
    base: Mapping[str, int] = field(default_factory=dict)
    """All width keys at the base, where one halved is not enough."""
    fixed: tuple[str, ...] = ()
    """Keys that look like a width and are none."""


SOUND = Case(
    "has a stream of sound, with a width of its own",
    base={
        "num_attention_heads": 16,
        "cross_attention_dim": 2048,
        "audio_num_attention_heads": 16,
        "audio_cross_attention_dim": 1024,
    },
)

CASES = {
    "DreamLiteTransformer2DModel": Case("has no default channels", {"in_channels": 32}),
    "EasyAnimateTransformer3DModel": Case(
        "has no default channels or patches",
        {"in_channels": 16, "out_channels": 16, "patch_size": 2},
    ),
    "HiDreamImageTransformer2DModel": Case(
        "has no default patches or text; its feed-forward width is rounded up to 256, so that at "
        "twice the base it is not twice as wide",
        {
            "patch_size": 2,
            "in_channels": 16,
            "caption_channels": (4096, 4096),
            "llama_layers": (0, 1, 2, 3),
        },
        {"num_attention_heads": 4},
    ),
    "LTX2VideoTransformer3DModel": SOUND,
    "LatteTransformer3DModel": Case(
        "has no default channels, patches or text",
        {
            "in_channels": 4,
            "patch_size": 2,
            "cross_attention_dim": 1408,
            "caption_channels": 4096,
            "norm_type": "ada_norm_single",
        },
    ),
    "MiniMaxH3Transformer3DModel": Case(
        "has an embedding of time as wide as the model, under a name of its own",
        base={"hidden_size": 2688, "time_embed_hidden_dim": 2688, "time_embed_dim": 1344},
    ),
    "OmniGenTransformer2DModel": Case(
        "has no default rotary factors",
        {"rope_scaling": {"type": "su", "long_factor": [1.0] * 48, "short_factor": [1.0] * 48}},
    ),
    "SanaWMLTX2RefinerTransformer3DModel": SOUND,
    "Transformer2DModel": Case("has no default channels", {"in_channels": 32}),
    "TransformerTemporalModel": Case("has no default channels", {"in_channels": 32}),
    "WanAnimateTransformer3DModel": Case(
        "has heads of faces, which count tokens and are no width",
        fixed=("face_encoder_num_heads",),
    ),
    "WanVACETransformer3DModel": Case("names layers that two do not have", {"vace_layers": [0]}),
}
"""By class, in the order of the alphabet."""


def model_names() -> list[str]:
    """Return the name of every transformer that diffusers exports, in alphabetical order."""
    import diffusers  # takes seconds, as do its classes

    return sorted(n for n in dir(diffusers) if "Transformer" in n and n.endswith("Model"))


def plan_of(name: str) -> Plan:
    """Return the plan of a class of diffusers, two layers deep, from a base of half the width.

    Raises:
        ValueError: it cannot be planned; the message says why.
    """
    import diffusers

    model_class: Callable[..., nn.Module] = getattr(diffusers, name)
    case = CASES.get(name, Case(""))
    config = _shallow(model_class) | dict(case.config)
    base = case.base or _half(model_class)
    try:
        return plan(model_class, config, base=base, fixed=case.fixed)
    except TypeError as error:  # a constructor given None where it wants a number
        raise ValueError(f"{name} cannot be built with {config}: {error}") from error


def survey() -> dict[str, Plan | str]:
    """Return, by class of diffusers, its plan, or why there is none."""
    found: dict[str, Plan | str] = {}
    for name in model_names():
        try:
            found[name] = plan_of(name)
        except ValueError as refused:
            found[name] = str(refused)
    return found


def _defaults(model_class: Callable[..., nn.Module]) -> dict[str, Any]:
    return {k: p.default for k, p in inspect.signature(model_class).parameters.items()}


def _shallow(model_class: Callable[..., nn.Module]) -> dict[str, Any]:
    deep = {k: v for k, v in _defaults(model_class).items() if k.endswith(DEPTHS)}
    return {key: 2 for key, value in deep.items() if type(value) is int and value > 2}


def _half(model_class: Callable[..., nn.Module]) -> dict[str, int]:
    defaults = _defaults(model_class)
    for key in WIDTHS:
        if type(defaults.get(key)) is int:
            return {key: defaults[key] // 2}
    raise ValueError(f"none of {', '.join(WIDTHS)} has a number by default: name its width")
