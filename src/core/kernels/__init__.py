"""GPU kernels, each with the plain formula it is tested against.

An op is one function, `core.kernels.<op>.<op>`, with up to three implementations: `reference` (the
formula as it stands), `torch` (blocked, fast without a GPU) and `triton`. `use` and the environment
variable CORE_KERNELS choose one for a whole run; `explain` says which of them can serve a call.
"""

from core.kernels._choice import Explanation, explain, use

__all__ = ["Explanation", "explain", "use"]
