r"""Depth, as an outlook: residual branches and learning rates where the number of blocks grows.

With L / L_0 = m_L times the blocks of the base, CompleteP (arXiv:2505.01618v3, Table 1) multiplies
each residual branch by m_L^-alpha and the learning rates of the blocks' parameters by
m_L^(alpha - 1), here alpha = 1 or 1/2. The factor of a branch is carried by its last linear layer,
as an output's is by the readout: no forward pass changes.

arXiv:2603.00541v2 derives alpha = 1 for branches of two matrices and more, validated on GPT-2; for
diffusion transformers, with gates from adaLN in each branch, nothing is published that we know of.
"""

import re
from dataclasses import replace

from core.mup.plan import Plan
from core.mup.rules import Entry

BLOCK = re.compile(r"^transformer_blocks\.(\d+)")
BRANCH_END = re.compile(r"\.(attn1\.to_out\.0|ff\.net\.2)\.")
"""What ends the branches of a block of diffusers' DiT, in a parameter's name."""


def deepened(plan: Plan, layers: int, *, base_layers: int, alpha: float | None) -> Plan:
    """Return the plan of a model of more blocks, tuned with fewer.

    Args:
        plan: of a DiT of diffusers, under muP.
        layers: L of the target.
        base_layers: L_0, with which the learning rate was tuned.
        alpha: of the branch's factor m_L^-alpha, with learning rates m_L^(alpha - 1) in the
            blocks; None scales neither.

    Raises:
        ValueError: the model has no such blocks.
    """
    taller = replace(plan, config={**plan.config, "num_layers": layers})
    taller = taller.at(**{key: taller.config[key] for key in taller.given})
    if not any(BRANCH_END.search(name) for name in taller.mup):
        raise ValueError(
            f"want blocks like those of diffusers' DiT, got {list(taller.mup)[:3]} ..."
        )
    if alpha is None:
        return taller
    m = layers / base_layers
    return replace(taller, mup={n: _deep(n, e, m, alpha) for n, e in taller.mup.items()})


def _deep(name: str, entry: Entry, m: float, alpha: float) -> Entry:
    if not BLOCK.match(name):
        return entry
    factor = m**-alpha if BRANCH_END.search(name) else 1.0
    return replace(entry, rate=entry.rate * m ** (alpha - 1), fold=entry.fold * factor)


def last_block(layers: int, name: str) -> str:
    """Call the last block's output the same at every depth: for `coordinates.compare`."""
    return "last block" if name == f"transformer_blocks.{layers - 1}" else name
