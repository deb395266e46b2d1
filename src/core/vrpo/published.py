r"""The paper's own numbers, and what can be read off them without a computer.

Everything here is copied from arXiv:2505.19223v2 (its tables in Section 4 and Appendix D) or is
arithmetic on it. Nothing was measured by us.
"""

from typing import NamedTuple

import numpy as np

from core.stats import half_width
from core.vrpo.draws import Design

TASKS: tuple[str, ...] = (
    "GSM8K",
    "Math",
    "GPQA",
    "HumanEval",
    "MBPP",
    "IFEval",
    "Arena-Hard",
    "AlignBench",
    "MTBench",
)


class Model(NamedTuple):
    """Table 3: LLaDA 8B."""

    layers: int = 32
    width: int = 4096
    heads: int = 32
    mlp: int = 12_288
    vocabulary: int = 126_464
    parameters: float = 8.02e9
    without_embedding: float = 6.98e9

    @property
    def body(self) -> int:
        """Return the parameters of the blocks' matrices."""
        return self.layers * (4 * self.width**2 + 3 * self.width * self.mlp)

    @property
    def embeddings(self) -> int:
        """Return those of embedding and head, which are two matrices."""
        return 2 * self.vocabulary * self.width


class Training(NamedTuple):
    """Appendices D.1 and D.3."""

    pairs: int = 350_000
    batch: int = 64
    beta: float = 0.2
    supervised: float = 0.05
    learning_rate: float = 5e-7
    warmup_steps: int = 15
    n: int = 8
    h100_hours: float = 405.0
    pretraining_tokens: float = 2.3e12


class Row(NamedTuple):
    """One configuration of Table 2."""

    design: Design
    score: float
    """Variance of the score."""
    loss: float
    gradient: float
    tasks: tuple[float, ...]
    """In the order of TASKS."""


TABLE_1 = {
    "LLaDA Instruct": (78.6, 42.2, 33.3, 49.4, 41.0, 62.2, 10.0, 5.4, 7.2),
    "naive DPO": (80.7, 41.6, 34.3, 48.2, 41.4, 62.0, 11.9, 5.8, 7.1),
    "LLaDA 1.5": (83.3, 42.6, 36.9, 52.4, 42.8, 66.2, 14.3, 5.9, 7.3),
}
_D = Design
TABLE_2 = (
    Row(_D(4), 2.2, 3.1e-3, 2.5, (82.8, 42.3, 36.4, 51.2, 42.8, 66.1, 13.9, 5.9, 7.4)),
    Row(_D(1), 44.0, 8.7e-2, 13.0, (80.1, 41.7, 34.3, 50.6, 40.6, 63.9, 13.5, 5.6, 7.0)),
    Row(_D(8), 1.0, 2.6e-3, 1.6, (83.3, 42.6, 36.9, 52.4, 42.8, 66.2, 14.3, 5.9, 7.3)),
    Row(_D(1, 4), 7.3, 3.2e-2, 4.7, (81.4, 41.9, 34.9, 48.2, 40.8, 64.8, 13.8, 5.8, 7.0)),
    Row(_D(2, 2), 4.7, 7.3e-3, 2.5, (82.3, 42.4, 36.4, 48.8, 41.0, 66.2, 13.4, 5.9, 7.2)),
    Row(
        _D(4, shared=False),
        2183.7,
        62.0,
        10.6,
        (82.0, 42.4, 35.9, 47.0, 41.2, 65.8, 15.6, 5.9, 7.2),
    ),
)
TABLE_4 = {
    # task -> sampler -> (Instruct, 1.5)
    "GSM8K": {"diffusion": (53.2, 55.7), "low confidence": (69.4, 70.3), "blocks": (78.6, 83.3)},
    "HumanEval": {
        "diffusion": (12.2, 17.1),
        "low confidence": (49.4, 47.0),
        "blocks": (47.6, 52.4),
    },
    "IFEval": {"diffusion": (55.2, 59.4), "low confidence": (62.2, 60.1), "blocks": (61.7, 66.2)},
}


class Seeds(NamedTuple):
    """A row of Table 5: three trainings with other seeds."""

    mean: float
    deviation: float
    low: float
    """Lower end of the 95 % interval."""
    high: float

    def half_width(self, seeds: int = 3) -> float:
        """Return Student's half-width of the interval from the deviation."""
        return half_width(self.deviation, seeds)


TABLE_5 = {
    "GSM8K": Seeds(82.9, 0.6, 81.4, 84.3),
    "Math": Seeds(43.0, 0.3, 42.2, 43.8),
    "GPQA": Seeds(35.7, 1.0, 33.1, 38.3),
    "HumanEval": Seeds(52.0, 0.7, 50.3, 53.7),
    "MBPP": Seeds(42.3, 0.8, 40.4, 44.1),
    "IFEval": Seeds(65.1, 0.9, 62.8, 67.4),
}
PRETRAINING_HOURS = 130_000.0
"""H800-hours of LLaDA's pre-training, as arXiv:2502.09992 reports them."""
EOS_ZERO_HUMANEVAL = (47.6, 49.4)
"""LLaDA Instruct before and after the end token's confidence is set to zero (Appendix D.4)."""


def cell(n_t: int, n_y: int = 1, *, shared: bool = True) -> Row:
    """Return a row of Table 2."""
    return next(row for row in TABLE_2 if row.design == Design(n_t, n_y, shared=shared))


def listed(before: tuple[float, ...], after: tuple[float, ...]) -> str:
    """Return "GSM8K 78.6 to 83.3, ..." for two rows of results in the order of TASKS."""
    rows = zip(TASKS, before, after, strict=True)
    return ", ".join(f"{task} {a} to {b}" for task, a, b in rows)


class Forced(NamedTuple):
    """What Lemma 5 forces from a printed cell, at one model and exact variances."""

    low: float
    high: float
    printed: float

    @property
    def consistent(self) -> bool:
        """Tell whether the printed value is within, a tenth being granted for rounding."""
        return 0.9 * self.low <= self.printed <= 1.1 * self.high


def forced_variances() -> dict[str, Forced]:
    """Return what Lemma 5 says of the score variance at (1, 1) from each other shared cell.

    n_t counts with one mask at each are n_t independent draws: V(1, 1) = n_t V(n_t, 1). And
    V(1, 4) <= V(1, 1) <= 4 V(1, 4), as V_t / n_t + V_y / n with V_t, V_y >= 0.
    """
    one = cell(1).score
    return {
        "(4, 1)": Forced(4 * cell(4).score, 4 * cell(4).score, one),
        "(8, 1)": Forced(8 * cell(8).score, 8 * cell(8).score, one),
        "(2, 2)": Forced(2 * cell(2, 2).score, 4 * cell(2, 2).score, one),
        "(1, 4)": Forced(cell(1, 4).score, 4 * cell(1, 4).score, one),
    }


def splits_from_two_cells() -> dict[tuple[tuple[int, int], tuple[int, int]], tuple[float, float]]:
    """Return (V_t, V_y) of the score, solved from each pair of shared cells with n > 1 of Table 2.

    They disagree, down to negative variances: the ratio V_t : V_y cannot be read off the table.
    """
    cells = [row for row in TABLE_2 if row.design.shared and row.design.n > 1]
    found = {}
    for i, a in enumerate(cells):
        for b in cells[i + 1 :]:
            M = np.array([[1 / r.design.n_t, 1 / r.design.n] for r in (a, b)])
            if abs(np.linalg.det(M)) > 1e-12:
                V = np.linalg.solve(M, [a.score, b.score])
                keys = tuple((r.design.n_t, r.design.n_y) for r in (a, b))
                found[keys] = (float(V[0]), float(V[1]))
    return found


def split_under_noise(noise: float, rng: np.random.Generator, runs: int = 2000) -> np.ndarray:
    """Return V_t and V_y fitted to the four shared cells with n > 1, noise on each, `[runs, 2]`.

    Args:
        noise: relative standard deviation of a cell.
        rng: draws it.
        runs: how many fits, least squares in relative error each.
    """
    cells = [row for row in TABLE_2 if row.design.shared and row.design.n > 1]
    M = np.array([[1 / r.design.n_t, 1 / r.design.n] for r in cells])
    V = np.array([r.score for r in cells]) * np.exp(noise * rng.standard_normal((runs, len(cells))))
    return np.stack([np.linalg.lstsq(M / v[:, None], np.ones(len(v)), rcond=None)[0] for v in V])


def implied_correlation() -> float:
    """Return Corr(B_theta, B_ref) that Table 2 implies *if* both have one variance: 1 - ratio."""
    return 1 - cell(4).score / cell(4, shared=False).score


def decided_by_seeds() -> list[str]:
    """Return the tasks of Table 5 whose printed interval lies above LLaDA Instruct's result."""
    base = dict(zip(TASKS, TABLE_1["LLaDA Instruct"], strict=True))
    return [task for task, row in TABLE_5.items() if row.low > base[task]]


def gains() -> dict[str, float]:
    """Return the gain of LLaDA 1.5 over LLaDA Instruct in Table 1, points."""
    before, after = TABLE_1["LLaDA Instruct"], TABLE_1["LLaDA 1.5"]
    return {t: round(b - a, 1) for t, a, b in zip(TASKS, before, after, strict=True)}


def compute_share(utilisation: float = 0.4, peak: float = 989e12) -> float:
    """Return training FLOP as a share of pre-training's, 6 parameters a token.

    Args:
        utilisation: of the GPU's peak, which the paper does not state.
        peak: dense bfloat16 FLOP/s of an H100.
    """
    spent = Training().h100_hours * 3600 * utilisation * peak
    return spent / (6 * Model().parameters * Training().pretraining_tokens)
