"""What the command line of `core.mup` is asked: a model class, its configuration, its base."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from core.command import FILE, first_line, options
from core.mup import script
from core.mup.families import FAMILIES, Family
from core.mup.initial import RECIPES
from core.mup.parametrizations import PARAMETRIZATIONS
from core.mup.plan import Plan, plan
from core.mup.source import name_of, source_of
from core.mup.widths import full_config

ABOVE_ZERO = click.FloatRange(0, min_open=True)
IMAGES = 16
"""Of a check on digits."""
SIZES = {"num_attention_heads": "heads", "attention_head_dim": "head_dim"}
"""Keys of a configuration, on which others of a family depend: as `Family.config` calls them."""


def pairs(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """Return KEY=VALUE options by key; a value is JSON, or else text."""
    read: dict[str, Any] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"want KEY=VALUE, such as num_layers=4, got {one!r}")
        if key in read:
            raise click.BadParameter(f"{key} is given twice")
        try:
            read[key] = json.loads(value)
        except json.JSONDecodeError:
            read[key] = value
    return read


def numbers(_: click.Context, __: click.Parameter, given: str | None) -> tuple[int, ...] | None:
    """Return integers with commas between them."""
    try:
        return None if given is None else tuple(map(int, given.split(",")))
    except ValueError:
        raise click.BadParameter(f"want integers, such as 4,8,16,32, got {given!r}") from None


def usable(_: click.Context, __: click.Parameter, device: str) -> str:
    """Return a device on which there can be tensors."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise click.BadParameter(f"{device!r} cannot be used: {first_line(error)}") from None
    return device


def writable(_: click.Context, __: click.Parameter, file: Path | None) -> Path | None:
    """Return a file to write, in a folder that there is."""
    if file is not None and not file.parent.is_dir():
        raise click.BadParameter(f"want a file in a folder that exists, got {file}")
    return file


MODEL = options(
    click.option(
        "--base",
        multiple=True,
        callback=pairs,
        metavar="KEY=N",
        help="A width key of the configuration, at the base: the model that was tuned.",
    ),
    click.option(
        "--config",
        multiple=True,
        callback=pairs,
        metavar="KEY=VALUE",
        help="A key of the configuration, at the target; defaults of the class fill the rest.",
    ),
    click.option(
        "--config-file",
        type=FILE,
        help="A JSON file of such keys, as the config.json of diffusers.",
    ),
    click.option(
        "--fixed",
        multiple=True,
        metavar="KEY",
        help="A key that stays, although it looks like a width.",
    ),
)
PARAMETRIZATION = click.option(
    "--parametrization",
    type=click.Choice(list(PARAMETRIZATIONS)),
    default="mup",
    show_default=True,
    metavar="NAME",
    help=f"Another one: {', '.join(list(PARAMETRIZATIONS)[1:])}.",
)
SAVE = click.option(
    "--save",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=writable,
    metavar="FILE",
    help="Write the plan to this file, as JSON.",
)
JSON = click.option("--json", is_flag=True, help="Print JSON.")
RECIPE = click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    help="Of the weights; else the one they obey most.",
)


def planned(
    source: str,
    model_class: Callable[..., nn.Module],
    *,
    base: dict[str, Any],
    config: dict[str, Any],
    config_file: Path | None,
    fixed: tuple[str, ...],
) -> Plan:
    """Plan a class; what its constructor says of a configuration is said in one line."""
    full = _read(config_file) | config
    try:
        return plan(model_class, full, base=base, fixed=fixed)
    except ValueError as error:
        if base or not str(error).startswith("want the width keys"):
            raise
        raise ValueError(f"give --base KEY=N: {error}") from error
    except Exception as error:  # whatever a constructor makes of what it is given
        raise ValueError(
            f"{source} cannot be built with this configuration: {script.one_line(error)}"
        ) from error


def note_wider(made: Plan) -> None:
    """Say it where the base is wider than the target: it may be meant, and is rare."""
    wider = [key for key in made.given if made.ratios[key] < 1]
    if wider:
        click.echo(f"note: the base is wider than the target, by its {wider[0]}", err=True)


def plan_of(model: nn.Module, source: str | None, asked: dict[str, Any]) -> Plan:
    """Plan the model that a script made."""
    model_class = script.function(source) if source else type(model)
    config = script.config_of(model) | _read(asked["config_file"]) | asked["config"]
    asked = asked | {"config": config, "config_file": None}
    return planned(source or name_of(model_class), model_class, **asked)


def to_check(
    source: str, loss: str | None, asked: dict[str, Any]
) -> tuple[Plan, Callable[..., Any]]:
    """Return the plan of a class, and a loss: on digits, of a family that knows them.

    Raises:
        ValueError: there is no loss, or not one width key.
    """
    family = next((one for one in FAMILIES.values() if one.source == source), None)
    if len(asked["base"]) > 1:
        raise ValueError(f"want one --base for a check, got {', '.join(asked['base'])}")
    if loss is not None:
        return _off_base(source, asked), script.loss(loss)
    if family is None:
        known = ", ".join(one.source for one in FAMILIES.values())
        raise ValueError(
            f"want --loss for {source}: path/to/file.py:function of a model and a seed. Without "
            f"one there are {known}, on digits"
        )
    return _on_digits(family, asked)


def _off_base(source: str, asked: dict[str, Any]) -> Plan:
    """Plan a class; at twice the width where the base's is asked for: a check has its own."""
    model_class = source_of(source)
    full = full_config(model_class, _read(asked["config_file"]) | asked["config"])
    twice = {key: 2 * n for key, n in asked["base"].items() if full.get(key) == n}
    if twice:
        doubled: dict[str, Any] = asked | {"base": twice}
        config = planned(source, model_class, **doubled).base_config
        asked = asked | {"config": config, "config_file": None}
    return planned(source, model_class, **asked)


def _on_digits(family: Family, asked: dict[str, Any]) -> tuple[Plan, Callable[..., Any]]:
    base = asked["base"] or dict(family.base)
    given = _read(asked["config_file"]) | asked["config"]
    # which target does not matter, as long as it is another: a check has its own widths
    target = given | {key: 2 * n for key, n in base.items() if type(n) is int}
    sizes = {ours: target[key] for key, ours in SIZES.items() if key in target}
    config = family.config(**sizes) | target
    asked = asked | {"base": base, "config": config, "config_file": None}
    made = planned(family.source, family.model_class, **asked)
    return made, script.guarded_loss(family.first_loss(IMAGES), f"{family.source} on digits")


def loaded(file: Path, asked: Mapping[str, Any]) -> Plan:
    """Return a saved plan.

    Raises:
        ValueError: there is none in the file, or it is asked for another one too.
    """
    also = [f"--{key.replace('_', '-')}" for key, value in asked.items() if value]
    if also:
        raise ValueError(f"want --plan or {also[0]}, got both: a plan has its configuration")
    return Plan.load(file)


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        read = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"want an object of keys in {file}, got {type(read).__name__}")
    return read
