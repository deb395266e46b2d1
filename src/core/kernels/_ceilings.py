"""What a machine can do at the most: bytes a second in a large copy, FLOP a second in a product.

A case takes at least the time to move its bytes, and at least the time to do its operations: the
longer of the two is its floor. The rate is that of a product in the case's own dtype, as torch
computes it by default (float32 without TF32); the bfloat16 rate is measured in any case.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from core.kernels._subject import Case, name_of
from core.timing import alternate


class Size(NamedTuple):
    """How large the copy and the product are."""

    copy: int
    """Bytes that are read; as many are written."""
    product: int
    """n, of a product of two n x n matrices."""


SIZES = {"cpu": Size(2**29, 1024), "cuda": Size(2**31, 8192)}


@dataclass(frozen=True)
class Ceilings:
    """Ceilings of one machine."""

    size: Size
    bandwidth: float
    """Bytes a second, read and written ones."""
    rates: Mapping[str, float]
    """Dtype -> real operations a second."""

    def floor(self, case: Case) -> tuple[float, str]:
        """Return the seconds that a case takes at the least, and what bounds it."""
        moved = case.bytes / self.bandwidth
        computed = case.flop / self.rates[name_of(case.dtype)]
        return max((moved, "bytes"), (computed, "FLOP"))

    def as_dict(self) -> dict[str, Any]:
        """Return them as they are written."""
        return {
            "copy": {
                "bytes": 2 * self.size.copy,
                "bytes_per_second": float(f"{self.bandwidth:.4g}"),
            },
            "product": {
                "n": self.size.product,
                "flop_per_second": {
                    name: float(f"{rate:.4g}") for name, rate in self.rates.items()
                },
            },
        }


def ceilings_of(device: str, dtypes: Iterable[torch.dtype]) -> Ceilings:
    """Measure them; some seconds."""
    size = SIZES[device]
    wanted = dict.fromkeys([torch.bfloat16, *dtypes])
    rates = {name_of(dtype): _rate(size.product, dtype, device) for dtype in wanted}
    return Ceilings(size, _bandwidth(size.copy, device), rates)


def _bandwidth(size: int, device: str) -> float:
    source = torch.ones(size, dtype=torch.int8, device=device)
    target = torch.zeros_like(source)  # touched, so that no page is new in the copy
    return 2 * size / alternate({"copy": lambda: target.copy_(source)}, device)["copy"]


def _rate(n: int, dtype: torch.dtype, device: str) -> float:
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    flop = (8 if dtype.is_complex else 2) * n**3
    return flop / alternate({"product": lambda: a @ b}, device)["product"]
