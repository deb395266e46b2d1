"""A folder of runs of `python -m core.mup.train`, as the table of a sweep.

Runs can be compared that were scored on the same images with the same noise: of the same latents,
as many of them held out, with a patch and a network that sees as much. A run that diverged has no
loss; it is `inf` here, as in `core.mup.published`.
"""

import json
from math import inf, log2
from pathlib import Path
from typing import Any, NamedTuple

from core.mup._training import COMMAND


class Row(NamedTuple):
    """A run that came to its end."""

    name: str
    """Of its folder."""
    width: int
    """D."""
    base_width: int
    """At which the learning rate is meant."""
    layers: int
    patch: int
    parametrization: str
    recipe: str
    """Of initialisation."""
    learning_rate: float
    """At the base."""
    batch: int
    steps: int
    seed: int
    diverged: bool
    loss: float
    """Of the held-out noise, of the weights at the end; `inf` where it diverged."""
    ema_loss: float
    """The same of their moving average."""

    @property
    def log2_rate(self) -> float:
        """Base-2 logarithm of the learning rate."""
        return log2(self.learning_rate)


def read_runs(folder: str | Path) -> list[Row]:
    """Return the runs of a folder that are done or diverged, by width, batch, steps and rate.

    Those that are still running, were interrupted or failed are left out.

    Args:
        folder: holds a folder for each run, with its `run.json`.

    Raises:
        ValueError: there is no such folder, or no run in it that came to its end; a record is
            something else; or two runs cannot be compared.
    """
    root = Path(folder)
    records = {path.parent.name: _record(path) for path in sorted(root.glob("*/run.json"))}
    ended = {k: v for k, v in records.items() if v["status"] in ("done", "diverged")}
    if not ended:
        others = f" ({len(records)} that did not come to their end)" if records else ""
        raise ValueError(
            f"needs runs of DiT on image latents in {root}, found none{others}. For each width and "
            f"learning rate: python -m core.mup.train --data LATENTS --out {root / 'NAME'} "
            "--heads 4 --log2-lr -10; and LATENTS by python -m core.mup.encode, from ImageNet"
        )
    first, *rest = ended.items()
    for name, record in rest:
        for key in ("data", "held_out"):
            here, there = record["identity"][key], first[1]["identity"][key]
            if here != there:
                raise ValueError(
                    f"{root}: {first[0]} and {name} cannot be compared: {key} is {there} and {here}"
                )
    rows = [_row(name, record) for name, record in ended.items()]
    return sorted(rows, key=lambda r: (r.width, r.batch, r.steps, r.learning_rate, r.name))


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except ValueError:
        record = None
    if not isinstance(record, dict) or record.get("command") != COMMAND:
        raise ValueError(f"{path} is no record of {COMMAND}: move its folder away")
    return record


def _row(name: str, record: dict[str, Any]) -> Row:
    network, recipe = record["network"], record["recipe"]
    diverged = record["status"] == "diverged"
    loss = {key: each["loss"] for key, each in record["held_out"].items()}
    return Row(
        name=name,
        width=record["width"],
        base_width=network["base_heads"] * network["head_dim"],
        **{key: network[key] for key in ("layers", "patch", "parametrization", "recipe")},
        **{key: recipe[key] for key in ("learning_rate", "batch", "steps", "seed")},
        diverged=diverged,
        loss=inf if diverged else loss["last"],
        ema_loss=inf if diverged else loss["ema"],
    )
