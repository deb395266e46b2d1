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

from core.mesa._checks import at_least, finite
from core.mesa.moments import Kappas


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
