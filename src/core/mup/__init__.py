"""muP for diffusion transformers (arXiv:2505.15270v3), without touching a forward pass.

To take home: `plan` (what each parameter of a model takes at a new width), `coordinates` (a check
that can fail), `transfer` (sweeps and what they say), `doctor` (an audit of somebody's optimizer),
`python -m core.mup` and `python -m core.mup.train`.
"""

from core.mup.plan import Plan, plan

__all__ = ["Plan", "plan"]
