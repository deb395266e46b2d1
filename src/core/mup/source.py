"""A model class by its name, and the name of a class: what a plan file and the command line hold.

`diffusers:SD3Transformer2DModel`, `core.mup.uvit:UViT`: a module, a colon, a name in it.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Literal, overload

from torch import nn

Model = Callable[..., nn.Module]


def name_of(model_class: Model) -> str:
    """Return `module:name`; of a class of diffusers, `diffusers:name`."""
    module, name = model_class.__module__, getattr(model_class, "__qualname__", "")
    if module.startswith("diffusers."):
        module = "diffusers"
    return f"{module}:{name}"


@overload
def source_of(name: str | None, *, missing_ok: Literal[True]) -> Model | None: ...
@overload
def source_of(name: str, *, missing_ok: Literal[False] = False) -> Model: ...
def source_of(name: str | None, *, missing_ok: bool = False) -> Model | None:
    """Return the class of that name.

    Args:
        name: `module:name`.
        missing_ok: whether to return None for what cannot be imported.

    Raises:
        ValueError: it is not of that form, or cannot be imported.
    """
    module, _, attribute = (name or "").partition(":")
    try:
        found = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        if missing_ok:
            return None
        raise ValueError(
            f"want a model class as module:name, such as diffusers:SD3Transformer2DModel, got "
            f"{name!r}: {error}"
        ) from error
    return found  # type: ignore[return-value]
