r"""The training runs behind the paper's Figures 1 to 3, ready to be trained on any loss.

Six starts, three initialisations each. Step sizes and epochs are those named in `plot.py` of the
public code (ML-GSAI/MesaOpt-AR-Transformer at 1e0a19d), for T = 100. As the loss sums T - 2 terms,
the step is scaled by 98 / (T - 2) for other lengths.

Source: arXiv:2405.16845v2, Section 6 and Appendix B.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from core.checks import at_least
from core.mesa._checks import positive, training_length
from core.mesa.flow import ReducedFlow
from core.mesa.moments import Start, gaussian, sparse
from core.mesa.population import Population
from core.mesa.quadratic import Matrix, QuadraticLoss, diagonal_weights

INITS = ((0.1, 0.1), (0.5, 1.5), (2.0, 2.0))
"""(a0, b0) of Assumption 3.1, as in every figure."""


@dataclass(frozen=True)
class Run:
    """One panel: a start, and how the layer is trained on it from each of `INITS`."""

    start: Start
    T: int
    """Training length T_tr."""
    lr: float
    epochs: int

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        training_length(self.T)
        positive(lr=self.lr)
        at_least(0, epochs=self.epochs)

    @cached_property
    def population(self) -> Population:
        """The exact loss."""
        return Population(self.start, self.T)

    @cached_property
    def flow(self) -> ReducedFlow:
        """Gradient flow of (a, b) on it."""
        return ReducedFlow.trained_on(self.start, self.T)

    def solve(self) -> Matrix:
        """Return the product ab of gradient flow after each epoch, `[epochs + 1, 3]`."""
        tau = self.lr * np.arange(self.epochs + 1)
        return np.transpose([np.multiply(*self.flow.solve(*init, tau)) for init in INITS])

    def train(self, loss: QuadraticLoss | None = None) -> Matrix:
        """Train all 6 d^2 parameters by gradient descent.

        Args:
            loss: the exact loss where None, or one of the same d, such as a `SampledLoss`.

        Returns:
            `[epochs + 1, 3]`: mean over j of the product a_j b_j after each epoch.

        Raises:
            ValueError: the loss has another d, or the training diverges.
        """
        loss = loss or self.population
        if loss.d != self.start.d:
            raise ValueError(f"want a loss of d = {self.start.d}, as the start, got d = {loss.d}")
        paths = [
            loss.descend(diagonal_weights(loss.d, *init), lr=self.lr, steps=self.epochs)
            for init in INITS
        ]
        return np.transpose([[weights.ab.mean() for weights in path] for path in paths])


def published_runs(d: int = 5, T: int = 100) -> list[Run]:
    """Return the runs of Figures 1 to 3: Gaussian with sigma = 0.5, 1, 2, sparse with c alike.

    Raises:
        ValueError: d < 1 or T < 3.
    """
    training_length(T)
    settings = [
        (gaussian(d, 0.5), 1e-3, 200),
        (gaussian(d, 1.0), 1e-4, 150),
        (gaussian(d, 2.0), 2e-6, 201),
        (sparse(d, 0.5), 3e-2, 200),
        (sparse(d, 1.0), 1e-3, 201),
        (sparse(d, 2.0), 1e-4, 121),
    ]
    return [Run(start, T, lr * 98 / (T - 2), epochs) for start, lr, epochs in settings]
