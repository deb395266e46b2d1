"""How much faster the exact studies are, and what many networks cost, on one thread.

Seconds are those of the processor: what else the machine does leaves the ratios nearly alone.
"""

import math

import torch

from core.multisource.arm import Arm
from core.multisource.denoiser_bench import step_prices
from core.multisource.ensemble import start, train
from core.multisource.gaussians import Setting, simulate
from core.multisource.log_linear_families import draw_counts
from core.multisource.published import SEEDS, measure_point_by_point, settings
from core.multisource.tree import Tables, tree_tv
from core.timing import alternate, seconds_of
from core.train.seeds import generator

Comparison = dict[str, float | str]
REPS = 4000


def main() -> dict[str, Comparison]:
    """Measure; a minute or two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            f"Gaussian study, {len(study())} settings x {REPS:,} replications": gaussian_study(),
            "TV of autoregressive models, D = 18, M = 2, K = 10": tree(),
            "ten autoregressive networks, D = 10, d_e = W = 64, L = 5, a step": networks(),
            "ten denoisers, a step": {**step_prices()},
        }
    finally:
        torch.set_num_threads(threads)


def study() -> list[Setting]:
    """Return the settings of Figure 1, and two beyond: many sources, and many samples."""
    figure = [setting for panel in settings().values() for setting in panel]
    return [*figure, Setting(50, 5000), Setting(5, 50_000)]


def gaussian_study() -> Comparison:
    """Time all settings, and beside them one replication each of the published formulation."""
    simulate(Setting(2, 10), 10, generator(0))
    exact = seconds_of(lambda: [simulate(s, REPS, generator(1, i)) for i, s in enumerate(study())])
    figure = settings()["K"]
    published = seconds_of(lambda: [measure_point_by_point(s, SEEDS[0]) for s in figure])
    each, theirs = exact / (REPS * len(study())), published / len(figure)
    return {
        "exact, all (s)": exact,
        "exact, a replication (s)": each,
        "published, a replication (s)": theirs,
        "ratio": theirs / each,
    }


def tree(D: int = 18, K: int = 10) -> Comparison:
    """Time `tree_tv` on tables of random conditionals, the fastest of three."""
    rng = generator(2)
    p, q = (
        Tables([torch.from_numpy(rng.dirichlet([1, 1], size=(K, 2**d))) for d in range(D)])
        for _ in "pq"
    )
    seconds = min(seconds_of(lambda: tree_tv(p, q, D=D)) for _ in range(3))
    return {"seconds": seconds, "leaves a second": 2 * K * 2**D / seconds}


def networks(K: int = 10, steps: int = 5, rounds: int = 5) -> Comparison:
    """Time a step of one network for K sources, of K networks at once, and one after another."""
    arm = Arm(10)
    p = torch.from_numpy(generator(3).dirichlet([1.0] * 2**arm.D, size=K))
    counts = arm.counts(draw_counts(p, 30_000, 1, generator(4))).float()  # [1, K, C, M]
    multi, single = start(arm, 1, K, seed=0), start(arm, K, 1, seed=0)
    one = {name: part[:1] for name, part in start(arm, 1, 1, seed=0).items()}
    ways = {
        "multi-source (s)": lambda: train(arm, multi, counts, steps=steps, lr=1e-3),
        "ten single-source, at once (s)": lambda: train(
            arm, single, counts.transpose(0, 1), steps=steps, lr=1e-3
        ),
        "ten single-source, one by one (s)": lambda: [
            train(arm, one, counts[:, k : k + 1], steps=steps, lr=1e-3) for k in range(K)
        ],
    }
    found = {name: s / steps for name, s in alternate(ways, "cpu", rounds=rounds).items()}
    together, at_once, by_one = found.values()
    return {
        **found,
        "ratio at once / multi-source": at_once / together,
        "ratio one by one / at once": by_one / at_once,
        "parameters of a network": float(sum(math.prod(x.shape[1:]) for x in one.values())),
    }
