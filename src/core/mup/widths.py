"""Which keys of a configuration are the width, and what they are at another one.

`base` names some: `{"num_attention_heads": 4}`. Others must go with them or the model cannot be
built, or would be another model: PixArt's `cross_attention_dim` is its width, and so is SD3's
`caption_projection_dim`; the feed-forward layer keeps its ratio; where the width is `hidden_size`,
the heads grow and their dimension stays. These are found, and `Plan.explain` lists them for whoever
knows better: a key that must stay is named in `fixed`, one that must go along in `base`.

What describes data or a text encoder (`in_channels`, `joint_attention_dim`) is never taken for the
width, whatever its value.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from math import prod
from typing import Any

Config = Mapping[str, Any]

HEADS = re.compile(r"(^|_)heads?$")
HEAD_DIM = re.compile(r"(^|_)(head_dim|dim_head)$")
HEADED = re.compile(r"(num_|n_)?(attention_)?(heads?|head_dim|dim_head)$")
FEED_FORWARD = re.compile(r"^(ffn?|mlp|intermediate|feed_forward)_(\w+_)?(dim|size|channels)$")
WIDTH = re.compile(r"(^|_)(dim|size|width|channels)$")
DATA = re.compile(
    r"^(in|out|sample|image|text|caption_channels|joint|pooled|context|encoder|vocab|codebook|cond|"
    r"condition|time|timestep|freq|max|patch|pos|audio|cap|llm|base|micro|crossattn|kernel|conv)(_|$)"
)


def full_config(model_class: Callable[..., Any], config: Config) -> dict[str, Any]:
    """Return the configuration with the defaults of the constructor filled in.

    Keys with a leading underscore are diffusers' own notes in a model's `config`, and left out.

    Raises:
        ValueError: the constructor takes no such key.
    """
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    parameters = inspect.signature(model_class).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [key for key in config if key not in parameters and not free]
    if unknown:
        name = getattr(model_class, "__name__", str(model_class))
        raise ValueError(f"{name} takes no {unknown[0]!r}; it takes {', '.join(parameters)}")
    defaults = {k: p.default for k, p in parameters.items() if p.default is not p.empty}
    return {**defaults, **config}


def co_scaled(
    config: Config, base: Config, fixed: tuple[str, ...] = ()
) -> dict[str, tuple[str, ...]]:
    """Return each key that grows with the width, and the keys of `base` whose ratios it grows by.

    Those of `base` come first, each by itself. The width is heads times their dimension, and a key
    that equals it grows by both ratios if `base` names both.

    Args:
        config: the whole configuration of the target, as `full_config` gives it.
        base: the width keys at the base, such as `{"num_attention_heads": 4}`.
        fixed: keys that stay, though they look like a width.

    Raises:
        ValueError: `base` is empty, names what is no positive integer key of the configuration,
            or equals the target.
    """
    _check(config, base)
    if all(config[key] == value for key, value in base.items()):
        named = ", ".join(f"{key}={value}" for key, value in base.items())
        raise ValueError(
            f"the base equals the target ({named}): nothing grows between them. As base, name the "
            "width of the model that was tuned; its own plan is plan(...).at(...)"
        )
    widths = _widths(config, base)
    grow = any(HEAD_DIM.search(key) for key in base)
    others = {
        key: _follows(key, value, widths, head_dims_grow=grow)
        for key, value in config.items()
        if key not in base and key not in fixed
    }
    return {key: (key,) for key in base} | {key: by for key, by in others.items() if by}


def grown(
    follows: Mapping[str, tuple[str, ...]], ratios: Mapping[str, Fraction]
) -> dict[str, Fraction]:
    """Return the ratio of every width key, given those of the keys of `base`."""
    return {
        key: prod((ratios[one] for one in by), start=Fraction(1)) for key, by in follows.items()
    }


def at_base(config: Config, ratios: Mapping[str, Fraction]) -> dict[str, Any]:
    """Return the configuration of the base.

    Raises:
        ValueError: a key would not be a whole number there.
    """
    return {**config, **{key: _whole(key, config[key], ratio) for key, ratio in ratios.items()}}


def _check(config: Config, base: Config) -> None:
    widths = [k for k, v in config.items() if type(v) is int and _may_be_width(k)]
    listed = ", ".join(widths) or "none that looks like one"
    if not base:
        raise ValueError(
            "want the width keys at the base, such as base={'num_attention_heads': 4}; width keys "
            f"of this configuration: {listed}"
        )
    for key, value in base.items():
        if key not in config:
            raise ValueError(f"the configuration has no key {key!r}; its width keys: {listed}")
        for where, number in (("base", value), ("target", config[key])):
            if type(number) is not int or number < 1:
                raise ValueError(f"{key}: want a positive integer at the {where}, got {number!r}")


def _may_be_width(key: str) -> bool:
    return bool(HEADS.search(key) or WIDTH.search(key)) and not DATA.search(key)


def _widths(config: Config, base: Config) -> dict[int | None, tuple[str, ...]]:
    """Return the widths at the target that `base` speaks of, and the keys of `base` in each.

    A width is a key's own value, or heads times their dimension; None stands for one that cannot
    be told from the configuration.
    """
    found: dict[int | None, tuple[str, ...]] = {}
    for key in base:
        if FEED_FORWARD.search(key):
            continue
        factors = [key, *_partner(config, key)]
        known = len(factors) == 2 or not HEADED.search(key)
        width = prod(config[k] for k in factors) if known else None
        found.setdefault(width, tuple(k for k in factors if k in base))
    return found


def _partner(config: Config, key: str) -> list[str]:
    """Return the key of the heads' dimension, given that of their number, and the reverse.

    That of the same stream if it has one: `audio_num_attention_heads` goes with
    `audio_attention_head_dim`.
    """
    if not HEADED.search(key):
        return []
    other = HEADS if HEAD_DIM.search(key) else HEAD_DIM
    keys = [k for k, v in config.items() if other.search(k) and type(v) is int]
    own = [k for k in keys if HEADED.sub("", k) == HEADED.sub("", key)]
    return (own or keys)[:1]


def _follows(
    key: str,
    value: Any,
    widths: Mapping[int | None, tuple[str, ...]],
    *,
    head_dims_grow: bool,
) -> tuple[str, ...]:
    """Return by which keys of `base` another grows; none if it stays."""
    if type(value) is not int or value < 1 or HEAD_DIM.search(key) or DATA.search(key):
        return ()
    first = next(iter(widths.values()), ())
    if HEADS.search(key):  # of keys and values, or of another stream
        return () if head_dims_grow else first
    if FEED_FORWARD.search(key):
        return first
    return widths.get(value, ()) if WIDTH.search(key) else ()


def _whole(key: str, value: int, ratio: Fraction) -> int:
    number = Fraction(value) / ratio
    if number.denominator != 1:
        raise ValueError(
            f"{key}={value} grows with the width, and is no whole number at the base "
            f"({value} / {ratio}): choose another base, say in base what it is there, or hold it: "
            f"fixed=({key!r},)"
        )
    return int(number)
