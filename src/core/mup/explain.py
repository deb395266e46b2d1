"""A plan as a table: one row for the parameters of all layers that are treated alike."""

import re
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from core.mup.rules import OPTIMIZERS, Entry

if TYPE_CHECKING:
    from core.mup.plan import Plan

COLUMNS = ("parameter", "shape", "kind", "m", "init", "lr", "decay", "eps")
Row = tuple[str, ...]


def rows(plan: "Plan", optimizer: str) -> list[Row]:
    """Return name (a number in it is a star), shape, kind, width ratio and the factors.

    Raises:
        ValueError: no rule for the optimizer.
    """
    alike: dict[Row, None] = {}
    for name, entry in plan.entries.items():
        shown = "adamw" if optimizer.startswith("muon") and not entry.muon else optimizer
        factor = entry.multipliers(shown)
        numbers = (entry.init, factor.lr, factor.weight_decay, factor.eps)
        stars = re.sub(r"\.\d+(?=\.|$)", ".*", name)
        shape = "x".join(map(str, entry.shape)) or "scalar"
        alike[stars, shape, entry.kind, f"{_grown(entry):g}", *(f"{n:.4g}" for n in numbers)] = None
    return list(alike)


def as_text(plan: "Plan", optimizer: str) -> str:
    """Return the plan as text, with what was found and what to look at.

    It has 120 columns, and more only if a parameter's name does not fit.
    """
    table = Table(*COLUMNS, box=None, pad_edge=False, header_style="bold")
    lines = rows(plan, optimizer)
    for row in lines:
        table.add_row(*row)
    widths = ", ".join(
        f"{key} {plan.base_config[key]} -> {plan.config[key]}" for key in plan.ratios
    )
    rest = "; what it does not take, for adamw" if optimizer.startswith("muon") else ""
    width = max(120, 60 + max(len(row[0]) for row in lines))
    out = Console(file=StringIO(), width=width, highlight=False)
    out.print(f"{plan.parametrization}: {widths}; factors for {optimizer}")
    out.print(f"({OPTIMIZERS[optimizer]}{rest})")
    out.print(table)
    for warning in plan.warnings:
        out.print(f"look at this: {warning}")
    return out.file.getvalue()  # type: ignore[attr-defined]


def _grown(entry: Entry) -> float:
    """The ratio that its rule speaks of: of the fan-in, or of what there is."""
    return entry.m_in if entry.kind in ("hidden", "output") else entry.m_out
