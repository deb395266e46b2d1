r"""What sharing costs where sources differ a little, and what the adviser makes of it.

Of the Gaussians of `gaussians`, the coordinates that are taken for shared differ by N(0, tau^2)
from source to source. Averaged means err by 1 / (K n_k) + tau^2 (1 - 1 / K), means alone by
1 / n_k: for equal n_k both are alike at tau^2 n_k = 1, whatever K. For fixed offsets of mean square
tau^2 (their squares divided by K) it is tau^2 n_k = 1 - 1 / K.

`pooling` sees the data only; here its rules are applied to many replications at once, with the
variance known.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import erf

from core.checks import at_least
from core.multisource._checks import comparison
from core.multisource.bounds import Array
from core.multisource.gaussians import Setting, draw_counts
from core.multisource.pooling import THRESHOLD, kept_part


class Advised(NamedTuple):
    """R_TV of each replication, `[R]`, and how often the adviser pools."""

    single: Array
    multi: Array
    chosen: Array
    """Each coordinate averaged or not, as the criterion says."""
    partial: Array
    """James and Stein's rule: the safe estimate."""
    pooled: Array
    """`[R]` part of the coordinates that the criterion averages."""


def simulate_advice(setting: Setting, reps: int, rng: np.random.Generator) -> Advised:
    """Return the errors of four estimates of the same data.

    Args:
        setting: of two sources at least, with d1 < d.
        reps: R, independent replications.
        rng: what is drawn from.

    Raises:
        ValueError: there is nothing to compare: one source, or no coordinate taken for shared.
    """
    at_least(1, reps=reps)
    comparison(setting.K)
    K, d, d1 = setting.K, setting.d, setting.d1
    if d1 == d:
        raise ValueError(f"want coordinates that are taken for shared, d1 < d, got {setting}")
    n_k = draw_counts(setting, reps, rng)[..., None]
    error = rng.standard_normal((reps, K, d)) / np.sqrt(n_k)
    own, nu = (error[..., :d1] ** 2).sum(-1), setting.tau * rng.standard_normal((reps, K, d - d1))
    single = nu + error[..., d1:]
    share = n_k / setting.n
    average = (share * single).sum(1, keepdims=True)
    spread = (n_k * (single - average) ** 2).sum(1)  # [R, d - d1]
    chance = np.full(spread.shape, K - 1.0)
    kept = kept_part(spread, chance, K=K)[:, None]
    pool = spread < THRESHOLD * chance
    hats = (
        single,
        np.broadcast_to(average, single.shape),
        np.where(pool[:, None], average, single),
        average + kept * (single - average),
    )
    errors = (_tv(own + ((hat - nu) ** 2).sum(-1)) @ setting.p_Y for hat in hats)
    return Advised(*errors, pooled=pool.mean(1))


def _tv(square: Array) -> Array:
    return erf(np.sqrt(square / 8))
