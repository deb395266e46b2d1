"""Which implementation serves a call: the one named, the one chosen for the run, or the best.

    impl= in the call  >  `with use(...)`  >  CORE_KERNELS in the environment  >  auto

auto is Triton where the tensors are on a GPU and it can serve them, else torch. A named
implementation that cannot serve raises; nothing is computed on another path instead.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

Impl = Literal["auto", "reference", "torch", "triton"]
NAMES: tuple[str, ...] = get_args(Impl)
VARIABLE = "CORE_KERNELS"

# one for the process, not one a thread: a backward pass may run in a thread of its own. And
# torch.compile guards a global, so that a compiled function follows a later choice.
_of_the_run: str = os.environ.get(VARIABLE, "auto")

NOT_INSTALLED = (
    "impl='triton' wants Triton, which is not installed: pip install 'triton>=3.6' (Linux), or "
    "take impl='torch'"
)

_OPS: dict[str, "Op"] = {}


@dataclass(frozen=True)
class Op:
    """What is to be known about an op to choose its implementation."""

    name: str
    check: Callable[..., tuple[Tensor, ...]]
    """Takes the public arguments without `impl`; returns the tensors, or raises a ValueError."""
    limits: Mapping[str, Callable[..., str | None]]
    """Implementation -> takes the tensors, says why it cannot serve them, or None."""
    names: tuple[str, ...] = field(init=False)
    """The implementations that there are."""

    def __post_init__(self) -> None:
        """Enter the op where `explain` finds it."""
        object.__setattr__(self, "names", ("reference", "torch", *self.limits))
        _OPS[self.name] = self

    def obstacle(self, impl: str, *tensors: Tensor) -> str | None:
        """Return why an implementation cannot serve these tensors, None where it can."""
        if impl == "triton":
            missing = _triton_missing(tensors[0].device.type)
            if missing:
                return missing
        return self.limits[impl](*tensors) if impl in self.limits else None

    def choose(self, impl: str, *tensors: Tensor) -> str:
        """Return the implementation that serves this call, never "auto".

        Raises:
            ValueError: `impl`, or what was chosen for the run, is unknown or cannot serve.
            ImportError: it lacks a package.
        """
        wanted = _known(impl, "impl")
        if wanted == "auto":
            wanted = _known(_of_the_run, f"{VARIABLE}, core.kernels.use")
        if wanted == "auto":
            on_gpu = tensors[0].is_cuda and "triton" in self.names
            return "triton" if on_gpu and self.obstacle("triton", *tensors) is None else "torch"
        if wanted not in self.names:
            raise ValueError(f"{self.name}: want one of {', '.join(self.names)}, got {wanted!r}")
        reason = self.obstacle(wanted, *tensors)
        if reason is not None:
            raise (ImportError if reason is NOT_INSTALLED else ValueError)(reason)
        return wanted


class Explanation(NamedTuple):
    """What `explain` found; its text is a table."""

    op: str
    chosen: str
    """What serves this call as things stand: "auto", `use` and CORE_KERNELS resolved."""
    obstacles: dict[str, str | None]
    """Implementation -> why it cannot serve, None where it can."""

    def __str__(self) -> str:
        """Return one line an implementation."""
        lines = [f"{self.op}: {self.chosen} serves"]
        for name, reason in self.obstacles.items():
            lines.append(f"  {name:<10}{'can' if reason is None else f'cannot: {reason}'}")
        return "\n".join(lines)


def explain(op: Callable[..., Any] | str, *args: Any, **options: Any) -> Explanation:
    """Say which implementations can serve a call, why the others cannot, and which one does.

    Args:
        op: the op's function, or its name.
        *args: what the call would be given.
        **options: its options, `impl` too.

    Raises:
        ValueError: there is no such op; or the op would refuse the call.
        ImportError: the op would refuse the call for lack of a package.
    """
    entry = _find(op if isinstance(op, str) else getattr(op, "__name__", repr(op)))
    impl = options.pop("impl", "auto")
    tensors = entry.check(*args, **options)
    obstacles = {name: entry.obstacle(name, *tensors) for name in entry.names}
    return Explanation(entry.name, entry.choose(impl, *tensors), obstacles)


@contextmanager
def use(impl: Impl) -> Iterator[None]:
    """Choose the implementation of every call that names none, while the context lasts.

    It holds for the whole process, other threads included.

    Raises:
        ValueError: `impl` is unknown.
    """
    global _of_the_run
    before, _of_the_run = _of_the_run, _known(impl, "use")
    try:
        yield
    finally:
        _of_the_run = before


def constant(function: Callable[..., str | None]) -> Callable[..., str | None]:
    """Let torch.compile call a function as it traces, not look into it.

    As `torch.compiler.assume_constant_result` does, which would import the whole compiler here.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant
def _triton_missing(device: str) -> str | None:
    """Say why Triton cannot run a kernel on tensors of this type of device, None if it can."""
    if find_spec("triton") is None:
        return NOT_INSTALLED
    version = metadata.version("triton")
    if tuple(int(part) for part in version.split(".")[:2]) < (3, 6):
        return f"impl='triton' wants Triton 3.6 or later, got {version}: take impl='torch'"
    if triton_interprets() or (device == "cuda" and torch.cuda.is_available()):
        return None
    return (
        f"impl='triton' wants tensors on a CUDA device, got {device}: move them, take "
        "impl='torch', or set TRITON_INTERPRET=1 before Triton is imported to run the kernel on "
        "the CPU, slowly"
    )


def triton_interprets() -> bool:
    """Tell whether kernels run in Triton's interpreter, which is decided as Triton is imported."""
    import triton
    from triton import language as tl

    return not isinstance(tl.sum, triton.runtime.JITFunction)


def refuse_forward_mode(op: str, instead: str, *tensors: Tensor) -> None:
    """Raise a ValueError where a tensor carries a forward-mode tangent.

    An `autograd.Function` that defines `jvp` cannot be compiled, so that the ops define none.
    """
    if torch.compiler.is_compiling():
        return
    if any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise ValueError(
            f"{op} has gradients in reverse mode only (backward, torch.autograd.grad), got a "
            f"forward-mode dual tensor: take {instead}"
        )


def _find(name: str) -> Op:
    if name not in _OPS and name.isidentifier() and find_spec(f"core.kernels.{name}") is not None:
        import_module(f"core.kernels.{name}")
    if name not in _OPS:
        raise ValueError(f"want an op of core.kernels ({', '.join(_OPS) or 'none'}), got {name!r}")
    return _OPS[name]


def _known(impl: str, where: str) -> str:
    if impl not in NAMES:
        raise ValueError(f"{where}: want one of {', '.join(NAMES)}, got {impl!r}")
    return impl
