r"""What the trained layer can and cannot predict, as functions of four moments.

At the limit the layer predicts y_hat = ab (sum_i x_{i+1} x_i^*) x_t / (t-1) (Eq. (3)). For starts
that meet Assumption 4.1, with y = W x_t the truth and t = T_te:

    E[y_hat_j / y_j]              = ab k0                                   (Proposition 4.1)
    E Re(y_hat . y^*) / E|y|^2    = ab k1 / k0
    E|y_hat - y|^2 / E|y|^2       = (k0 - 2 ab k1 + ab^2 (k2 + k3/(t-1))) / k0

and as T_tr, T_te grow, the last tends to 1 - k1^2 / (k0 k2): zero exactly where Cauchy-Schwarz is
an equality, that is where x_j^2 takes only the values 0 and c^2 (Assumption 4.2, Theorem 4.2).

Source: arXiv:2405.16845v2, Section 4; the last two forms are ours.
"""

from itertools import product
from math import sqrt

from core.checks import at_least
from core.mesa._checks import finite
from core.mesa.moments import Kappas, Start


def mean_ratio(kappas: Kappas, ab: float) -> float:
    """Return E[y_hat_j / y_j], the same at every test length (Proposition 4.1).

    For starts whose coordinates are never zero. Where they are zero with some probability, so is
    y_j, and the mean over the others is this over the probability of not being zero.

    Raises:
        ValueError: ab is not finite, or no law has these moments (so below).
    """
    finite(ab=ab)
    return ab * kappas.check().k0


def energy_slope(kappas: Kappas, ab: float) -> float:
    """Return E Re(y_hat . y^*) / E|y|^2: the slope of y_hat on y, each pair by its energy."""
    finite(ab=ab)
    return ab * kappas.check().k1 / kappas.k0


def relative_mse(kappas: Kappas, ab: float, T_te: int) -> float:
    """Return E|y_hat - y|^2 / E|y|^2 at test length T_te.

    Raises:
        ValueError: T_te < 2, where there is no context, or ab is not finite.
    """
    finite(ab=ab)
    at_least(2, because="one transition to learn from", T_te=T_te)
    k0, k1, k2, k3 = kappas.check()
    return (k0 - 2 * ab * k1 + ab**2 * (k2 + k3 / (T_te - 1))) / k0


def error_floor(kappas: Kappas) -> float:
    """Return lim relative MSE = 1 - k1^2 / (k0 k2) >= 0; zero iff Assumption 4.2 can hold."""
    k0, k1, k2, _ = kappas.check()
    return max(0.0, 1 - k1**2 / (k0 * k2))


def sampled_mse_error(start: Start, ab: float, N: int) -> float:
    """Return the standard error of the relative MSE of N sequences with long contexts.

    There the error of a sequence is sum_j z_j with z = x^2 - 2 ab x^4 + ab^2 x^6, so that moments
    up to x^12 decide. A sample's own estimate is too small where tails are heavy, as Laplace's are:
    it has not seen the sequences that matter.

    Args:
        start: law of x_1.
        ab: the layer's product.
        N: number of sequences, at least one.

    Raises:
        ValueError: N is below one, ab is not finite, or the start has no finite twelfth moment.
    """
    at_least(1, N=N)
    finite(ab=ab)
    z = {2: 1.0, 4: -2 * ab, 6: ab**2}  # power of x_j -> coefficient
    pairs = [(n, m, c * k) for (n, c), (m, k) in product(z.items(), z.items())]
    mean = sum(c * start.finite_moment((n,)) for n, c in z.items())
    same = sum(c * start.finite_moment((n + m,)) for n, m, c in pairs) - mean**2
    other = (
        sum(c * start.finite_moment((n, m)) for n, m, c in pairs) - mean**2 if start.d > 1 else 0
    )
    variance = start.d * (same + (start.d - 1) * other)
    return sqrt(max(variance, 0.0) / N) / (start.d * start.kappas.k0)
