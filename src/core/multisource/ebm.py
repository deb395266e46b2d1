r"""The paper's energy-based model (arXiv:2502.14583, Section 4.3), normalised on a grid.

    p(x | y) = exp(-u(x | y)) / int exp(-u),    u(x | y) = f([x; V[y]]),  x in [0, 1]^D

f is a ReLU network with one output, V[y] an embedding in [0, 1]^d_e. The integral is a sum over the
cells of a grid, so that the fitted law is one of cells: exact as such, and `grid_tv` says how far
it may be from the continuous one, with the bounds on the slope that `energy` gives.

Symbols here = there: `D` coordinates, `d_e` $d_e$, `L` layers, `W` width, `V` $V$.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from core.checks import at_least
from core.multisource._blocks import MEMORY, rows_at_a_time
from core.multisource.bracketing import EbmFamily
from core.multisource.ensemble import Parameters, relu_layers, relu_network, size
from core.multisource.grid import Energy, midpoints


@dataclass(frozen=True)
class Ebm:
    """The family; a `Network` of `ensemble` with one context and cells^D outcomes."""

    D: int
    cells: int
    d_e: int = 8
    L: int = 3
    W: int = 32
    gain: float = 1.0
    """Of the start: above one, a model drawn at random is far from uniform."""

    def __post_init__(self) -> None:
        """Refuse what is no network, or a grid that does not fit into a quarter of a GiB."""
        at_least(1, D=self.D, d_e=self.d_e, L=self.L, W=self.W)
        at_least(2, cells=self.cells)
        what = f"a layer on a grid of {self.cells}^{self.D} cells"
        rows_at_a_time(4 * self.W * self.cells**self.D, MEMORY, what=what)

    @cached_property
    def points(self) -> Tensor:
        """Midpoints of the cells, `[N, D]` float64."""
        return midpoints(0, self.cells**self.D, self.D, self.cells)

    def draw(self, K: int, rng: np.random.Generator) -> Parameters:
        """Return one member of K sources: embeddings uniform on [0, 1], as the class has them."""
        drawn = {"V": torch.from_numpy(rng.uniform(size=(K, self.d_e)))}
        layers = relu_layers([self.D + self.d_e, *[self.W] * (self.L - 1), 1], rng)
        return drawn | {name: self.gain * p for name, p in layers.items()}

    def log_probs(self, parameters: Parameters) -> Tensor:
        """Return log p of all cells, `[E, K, 1, N]`."""
        u = self._energies(parameters, self.points)
        return (-u).log_softmax(-1)[:, :, None]

    def project(self, parameters: Parameters) -> None:
        """Keep embeddings in [0, 1]."""
        parameters["V"].clamp_(0, 1)

    def family(self, parameters: Parameters) -> EbmFamily:
        """Return the class that these members belong to, with its constants."""
        S, B = size(parameters)
        return EbmFamily(L=self.L, W=self.W, S=S, B=B, d_e=self.d_e)

    def energy(self, parameters: Parameters) -> Energy:
        """Return all members and sources for `grid_tv`, E K of them, with bounds on their slopes.

        The slope of a ReLU network is at most the product of its layers' largest row sums; of the
        first layer only the columns of x count.
        """
        K = parameters["V"].shape[1]
        slope = parameters["A0"][:, : self.D].abs().sum(1)  # [E, W], by the change of one unit
        for l in range(1, self.L):
            slope = torch.einsum("ei,eij->ej", slope, parameters[f"A{l}"].abs())

        @torch.no_grad()
        def of(x: Tensor) -> Tensor:
            return self._energies(parameters, x).flatten(0, 1)

        return Energy(of, slope[:, 0].repeat_interleave(K).double())

    def _energies(self, parameters: Parameters, x: Tensor) -> Tensor:
        """Return u at points `[N, D]`, `[E, K, N]`."""
        V = parameters["V"]
        E, K, N = *V.shape[:2], len(x)
        at = x.to(V).expand(E, K, -1, -1)
        of = V[:, :, None].expand(-1, -1, N, -1)
        return relu_network(parameters, torch.cat([at, of], dim=3).flatten(1, 2)).view(E, K, N)
