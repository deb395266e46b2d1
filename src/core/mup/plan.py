"""A plan: how each parameter of a model is initialised and trained at a new width under muP.

    plan = core.mup.plan(SD3Transformer2DModel, config, base={"num_attention_heads": 4})
    model = plan.build(recipe="dit")
    optimizer = torch.optim.AdamW(plan.groups(model, lr=2**-10, weight_decay=0.03))
    plan.clip_grad_norm_(model, 1.0)

What was tuned at the base, the learning rate above all, is then used as it is at the target. The
forward pass is the model's own: nothing is swapped, wrapped or patched, and a checkpoint is a plain
checkpoint. The plan is data by parameter name and is saved beside it as JSON.

(arXiv:2505.15270v3, Tables 1 and 5; the form without a forward factor is derived in `rules.py`.)
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from core.mup import _saved as saved
from core.mup.attention import fold_attention
from core.mup.parametrizations import PARAMETRIZATIONS
from core.mup.rules import Entry, check_optimizer
from core.mup.shapes import Axes, bottlenecks, classify
from core.mup.source import name_of
from core.mup.widths import HEAD_DIM, Config, at_base, co_scaled, full_config, grown

# what wrappers put in a parameter's name
WRAPPED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def plan(
    model_class: Callable[..., nn.Module],
    config: Config,
    *,
    base: Config,
    fixed: Iterable[str] = (),
    axes: Axes | None = None,
) -> "Plan":
    """Plan a model's training at the width of `config`, with what was tuned at that of `base`.

    Three models are built on the meta device, without memory for a weight.

    Args:
        model_class: called with keyword arguments, such as a model class of diffusers.
        config: its arguments at the target, or a model's own `config` in diffusers; defaults fill
            the rest.
        base: the width keys at the base, such as `{"num_attention_heads": 4}`. Keys that must grow
            with them are found.
        fixed: keys that stay although they look like a width.
        axes: parameter name -> (axis of fan-out, axis of fan-in), for a matrix that is no weight
            of a torch layer.

    Raises:
        ValueError: there is no width key, the base equals the target, a tensor serves in two roles,
            a parameter is undecidable or grows in three dimensions; the message names it and says
            what to do.
    """
    full = full_config(model_class, config)
    follows = co_scaled(full, base, tuple(fixed))
    ratios = grown(follows, {key: Fraction(full[key], value) for key, value in base.items()})
    entries = _entries(model_class, full, ratios, follows, axes or {})
    return Plan(model_class, full, ratios, follows, entries, dict(axes or {}))


@dataclass(frozen=True)
class Plan:
    """What `plan` returns: an entry a parameter, and where they came from."""

    model_class: Callable[..., nn.Module] | None
    """None in a plan loaded where the class cannot be imported: it cannot build."""
    config: dict[str, Any]
    """The whole configuration of the target."""
    ratios: dict[str, Fraction]
    """Width keys, given and found: value at the target over that at the base."""
    follows: dict[str, tuple[str, ...]]
    """By width key, those that were given in `base` by whose ratios it grows."""
    mup: dict[str, Entry]
    """By parameter name, under muP."""
    axes: dict[str, tuple[int, int]] = field(default_factory=dict)
    parametrization: str = "mup"
    """A name in `core.mup.parametrizations`."""

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """By parameter name, under the plan's parametrization."""
        change = PARAMETRIZATIONS[self.parametrization]
        return {name: change(entry) for name, entry in self.mup.items()}

    @property
    def given(self) -> tuple[str, ...]:
        """The width keys that were given; what was found follows them."""
        return tuple(key for key, by in self.follows.items() if by == (key,))

    @property
    def base_config(self) -> dict[str, Any]:
        """The configuration of the base."""
        return at_base(self.config, self.ratios)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was decided and should be looked at, one sentence each."""
        found = [key for key in self.ratios if key not in self.given]
        told = [f"{key} grows with the width (hold it: fixed=({key!r},))" for key in found]
        inner = bottlenecks(self.entries)
        if inner:
            told.append(
                f"{len(inner)} of the layers that end in a finite dimension are not the last, such "
                f"as {inner[0]}: all are trained as outputs, which at initialisation fade with the "
                "width; right of a second readout, to be looked at in a bottleneck"
            )
        wider = [key for key, ratio in self.ratios.items() if HEAD_DIM.search(key) and ratio != 1]
        if wider and all(e.fold == 1 for e in self.mup.values() if e.kind != "output"):
            told.append(
                f"{wider[0]} grows, and no attention was found whose queries could carry its "
                "factor: see core.mup.attention"
            )
        return tuple(told)

    def at(self, **widths: int) -> Self:
        """Return the plan of the same model and base at another width; the base's own is allowed.

        Args:
            **widths: keys that were given in `base`, at the new target; what was found follows.

        Raises:
            ValueError: a key was not given in `base`, or the model cannot be built there.
        """
        if set(widths) != set(self.given):
            raise ValueError(f"want the keys {', '.join(self.given)}, got {', '.join(widths)}")
        base = self.base_config
        growth = {key: Fraction(value, base[key]) for key, value in widths.items()}
        ratios = grown(self.follows, growth)
        config = {**base, **{key: _whole(key, base[key] * r) for key, r in ratios.items()}}
        entries = _entries(self._class(), config, ratios, self.follows, self.axes)
        return replace(self, config=config, ratios=ratios, mup=entries)

    def standard(self) -> Self:
        """Return the standard parametrization: the same names, and every factor 1."""
        return self.under("standard")

    def under(self, parametrization: str) -> Self:
        """Return the plan under another parametrization, such as a wrong one, to try a check on.

        Raises:
            ValueError: there is none of that name.
        """
        if parametrization not in PARAMETRIZATIONS:
            known = ", ".join(map(repr, PARAMETRIZATIONS))
            raise ValueError(f"no parametrization {parametrization!r}; there are {known}")
        return replace(self, parametrization=parametrization)

    def build(self, recipe: str = "torch", *, seed: int = 0) -> nn.Module:
        """Return a new model on the CPU, initialised; `init_` says how.

        Raises:
            ValueError: the recipe is unknown, or not one for this model.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self._class()(**self.config)
        self.init_(model, recipe, seed=seed)
        return model

    def init_(self, model: nn.Module, recipe: str = "torch", *, seed: int = 0) -> None:
        """Draw every parameter of a model anew, in place, by its recipe's law and its entry.

        A recipe is a law for each parameter at the base width, where it is known to work; a wider
        tensor takes the law of its base, times its factor. `core.mup.initial.RECIPES` lists them.
        Call it before the model is sharded by FSDP2.

        Args:
            model: built with the plan's configuration.
            recipe: `"torch"` (what the class itself draws), `"dit"`, `"dit-mup"` or `"pixart"`.
            seed: of the draws.

        Raises:
            ValueError: the recipe is unknown or not one for this model, the model is another, or
                is sharded.
        """
        from core.mup.initial import draw_, laws

        named = self.named(model)
        if any(hasattr(parameter, "full_tensor") for parameter in named.values()):
            raise ValueError(
                "the model is sharded, and each rank would draw its part as if it were the whole: "
                "init_ first, then fully_shard"
            )
        config = self.config if self.parametrization == "standard" else self.base_config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pattern = self._class()(**config)
        draw_(named, laws(pattern, recipe), self.entries, seed)

    def groups(
        self,
        model: nn.Module,
        *,
        lr: float,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        optimizer: str = "adamw",
        beside: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return the parameter groups of an optimizer, those that want a gradient.

        Args:
            model: the model, in whatever wraps it: DDP, FSDP2, `torch.compile`.
            lr: the learning rate that was tuned at the base.
            weight_decay: the same of the weight decay.
            eps: of Adam. Zero divides by zero where a gradient is zero, as below a readout that
                begins at zero.
            optimizer: one of `core.mup.rules.OPTIMIZERS`.
            beside: `"muon"`, to leave out what `groups(..., optimizer="muon")` takes.

        Returns:
            Groups with `params`, their `names`, `lr`, `weight_decay` and, for Adam, `eps`; one for
            each combination that occurs.

        Raises:
            ValueError: no rule for the optimizer, a negative setting, or the model's parameters
                are not the plan's; the message names the first.
        """
        check_optimizer(optimizer)
        for name, value in (("lr", lr), ("weight_decay", weight_decay), ("eps", eps)):
            if not value >= 0:
                raise ValueError(f"want {name} >= 0, got {value}")
        made: dict[tuple[float, ...], dict[str, Any]] = {}
        for name, parameter in self.named(model).items():
            entry = self.entries[name]
            if not parameter.requires_grad or not _serves(entry, optimizer, beside):
                continue
            factor = entry.multipliers(optimizer)
            settings = {"lr": lr * factor.lr, "weight_decay": weight_decay * factor.weight_decay}
            if optimizer in ("adamw", "decoupled", "adam"):
                settings["eps"] = eps * factor.eps
            group = made.setdefault(
                tuple(settings.values()), {"params": [], "names": [], **settings}
            )
            group["params"].append(parameter)
            group["names"].append(name)
        return list(made.values())

    @torch.no_grad()
    def clip_grad_norm_(self, model: nn.Module, max_norm: float) -> Tensor:
        """Scale all gradients so that their norm, as the reference has it, is at most `max_norm`.

        A folded tensor W = f W~ has the gradient G = G~ / f of another scale: the norm counts f G.

        Returns:
            The norm before clipping, a scalar; on every rank of a sharded model the same.

        Raises:
            ValueError: the model's parameters are not the plan's.
        """
        folds: dict[float, list[Tensor]] = {}
        for name, parameter in self.named(model).items():
            if parameter.grad is not None:
                folds.setdefault(self.entries[name].fold, []).append(parameter.grad)
        norms = [f * _whole_norm(torch.nn.utils.get_total_norm(g)) for f, g in folds.items()]
        total = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
        parameters = [p for p in model.parameters() if p.grad is not None]
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, total)
        return total

    def named(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the model's parameters under the plan's names, in the plan's order.

        Raises:
            ValueError: one is missing, is not in the plan, or has another shape.
        """
        found = {self._plain(name): p for name, p in model.named_parameters()}
        for name in [*found, *self.entries]:
            if name not in self.entries:
                raise ValueError(
                    f"the model has a parameter {name!r} that the plan does not know: plan the "
                    "model as it is trained"
                )
            if name not in found:
                raise ValueError(f"the plan has {name!r}, and the model does not: another model?")
            if tuple(found[name].shape) != self.entries[name].shape:
                raise ValueError(
                    f"{name} is {list(found[name].shape)}, and in the plan "
                    f"{list(self.entries[name].shape)}: the plan is of another width (plan.at), or "
                    "the model is sharded in a way that hides its shapes (FSDP2 does not)"
                )
        return {name: found[name] for name in self.entries}

    def explain(self, *, optimizer: str = "adamw") -> str:
        """Return the plan as a table: a row for all parameters that are treated alike."""
        from core.mup.explain import as_text

        return as_text(self, optimizer)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as what JSON can hold."""
        return {
            "format": saved.FORMAT,
            "model": name_of(self.model_class) if self.model_class else None,
            "parametrization": self.parametrization,
            "config": self.config,
            "ratios": {key: str(ratio) for key, ratio in self.ratios.items()},
            "follows": self.follows,
            "axes": self.axes,
            "entries": {name: asdict(entry) for name, entry in self.mup.items()},
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the plan as JSON, whole or not at all: a file, or `mup_plan.json` in a folder.

        Raises:
            ValueError: the configuration holds what JSON cannot.
        """
        return saved.write(self.as_dict(), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a plan that `save` wrote: the file, or its folder.

        Raises:
            ValueError: it is no such file.
        """
        return cls(**saved.read(path))

    def _class(self) -> Callable[..., nn.Module]:
        if self.model_class is None:
            raise ValueError(
                "the class of this plan's model cannot be imported here: nothing to build"
            )
        return self.model_class

    def _plain(self, name: str) -> str:
        """Take away what wrappers add to a name."""
        for part in WRAPPED:
            name = name.replace(part, "")
        while name not in self.entries and name.startswith("module."):
            name = name.removeprefix("module.")
        return name


def _entries(
    model_class: Callable[..., nn.Module],
    config: Config,
    ratios: Mapping[str, Fraction],
    follows: Mapping[str, tuple[str, ...]],
    axes: Axes,
) -> dict[str, Entry]:
    base = at_base(config, ratios)
    # a third width, so that what is rounded is told from what grows
    factor = Fraction(3 if Fraction(2) in ratios.values() else 2)
    wider = grown(follows, dict.fromkeys(follows, factor))
    delta = {**base, **{key: int(base[key] * ratio) for key, ratio in wider.items()}}
    with torch.device("meta"):
        models = [model_class(**settings) for settings in (base, delta, config)]
    given = [key for key, by in follows.items() if by == (key,)]
    together = {**follows, "heads times their dimension": tuple(given)}
    growth = set(zip(*(grown(together, of).values() for of in (wider, ratios)), strict=True))
    return fold_attention(classify(*models, growth=growth, axes=axes), models[0], models[2])


def _whole(key: str, value: Fraction) -> int:
    if value.denominator != 1:
        raise ValueError(f"{key} would be {value} there, and must be a whole number: another width")
    return int(value)


def _serves(entry: Entry, optimizer: str, beside: str | None) -> bool:
    if optimizer.startswith("muon"):
        return entry.muon
    return not (beside and beside.startswith("muon") and entry.muon)


def _whole_norm(norm: Tensor) -> Tensor:
    """Return the norm of all shards."""
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # type: ignore[operator]
