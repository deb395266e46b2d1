r"""The numbers that the authors of arXiv:2505.15270v3 have made public, and where each was read.

Three kinds of source, which differ in trust:

    figure   read off a figure of the authors' repository by its pixels; `error` says how well
    script   the repository's README, configurations and scripts
             (ML-GSAI/Scaling-Diffusion-Transformers-muP at 6d1583d)
    note     notes on the paper by others, which may err; the paper's own tables were not read

A run that exploded has no FID. It is `inf` here: larger than any, and never to be averaged.
Nothing was measured by us. Every point is one run.
"""

from math import inf, isfinite
from typing import NamedTuple

LOG2_RATES: tuple[int, ...] = (-13, -12, -11, -10, -9)
"""Base-2 logarithms of the base learning rates of every sweep (script)."""


class Setting(NamedTuple):
    """How the proxies of Figure 3 are trained, where a row does not say otherwise (script)."""

    width: int = 288
    head_dim: int = 72
    layers: int = 28
    patch: int = 2
    batch: int = 256
    iterations: int = 200_000
    weight_decay: float = 0.0
    """AdamW at a constant learning rate, without guidance when FID is taken."""


class Sweep(NamedTuple):
    """One curve of Figure 3 (figure): FID-50K over `LOG2_RATES`."""

    panel: str
    """What the panel varies: "width", "batch" or "iterations"."""
    at: int
    """Its value here; the other two are those of `Setting`."""
    fid: tuple[float, ...]
    error: float = 0.2
    """The reading error: the arm drawn in all three panels was read within 0.17 of itself."""

    @property
    def best(self) -> int:
        """Return the base-2 logarithm of the best base learning rate on the grid."""
        return LOG2_RATES[self.fid.index(min(self.fid))]

    @property
    def censored(self) -> bool:
        """Tell whether the best point is the last that did not explode, or the last of all.

        Then the curve says of the optimum that it is at least about there, and no more.
        """
        finite = [rate for rate, fid in zip(LOG2_RATES, self.fid, strict=True) if isfinite(fid)]
        return self.best == finite[-1]


FIGURE_3: tuple[Sweep, ...] = (
    Sweep("width", 144, (103.2, 93.9, 92.0, 88.9, inf), 0.5),  # -11 partly under the legend
    Sweep("width", 288, (79.3, 65.9, 63.8, 61.6, inf)),
    Sweep("width", 576, (66.3, 50.0, 44.9, 43.7, inf)),
    Sweep("batch", 128, (88.8, 76.9, 73.5, 74.5, inf), 0.5),  # -12 partly under the legend
    Sweep("batch", 256, (79.1, 66.0, 63.8, 61.6, inf)),
    Sweep("batch", 512, (72.0, 57.6, 54.4, 53.8, 53.9)),
    Sweep("iterations", 100_000, (102.9, 84.9, 78.6, 75.4, 74.3)),
    Sweep("iterations", 150_000, (88.0, 72.6, 69.6, 67.5, 70.4)),
    Sweep("iterations", 200_000, (79.2, 65.9, 63.9, 61.7, inf)),
)
"""Figure 3, from `assets/HP_transfer.jpg`. Width 288, batch 256 and 200,000 iterations are one set
of runs, drawn three times."""


class Curve(NamedTuple):
    """FID-50K without guidance against training iterations."""

    millions: tuple[float, ...]
    """Of iterations, at batch 256."""
    fid: tuple[float, ...]
    error: float = 0.05


DIT_XL_2 = Curve(
    (0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 7.0), (20.35, 14.70, 12.76, 11.77, 10.93, 10.73, 9.59)
)
"""The published DiT-XL/2 recipe, learning rate 1e-4 (figure: `fid_pretraining_dit.png`)."""
DIT_XL_2_MUP = Curve((0.4, 0.8, 1.2, 1.6, 2.0, 2.4), (18.57, 12.92, 11.25, 10.16, 9.68, 9.43))
"""The authors' recipe: muP, their initialisation, base learning rate 2^-10 (same figure)."""
DIT_XL_2_ORIGINAL_FID = 9.62
"""At 7 M iterations, as the paper of DiT itself prints it (arXiv:2212.09748v2)."""


class FinalRun(NamedTuple):
    """DiT-XL/2 and DiT-XL/2-muP as trained to the end (script: README)."""

    width: int = 1152
    base_width: int = 288
    heads: int = 16
    layers: int = 28
    batch: int = 256
    log2_rate: int = -10
    epochs: int = 480
    baseline_epochs: int = 1400
    images: int = 1_281_167
    """Training images of ImageNet-1k (arXiv:1409.0575v3)."""

    def millions(self, epochs: int) -> float:
        """Return the iterations of so many epochs, in millions."""
        return epochs * self.images / self.batch / 1e6

    @property
    def hidden_rate(self) -> float:
        """Return the learning rate of its hidden matrices: the base's, over the width ratio."""
        return 2.0**self.log2_rate * self.base_width / self.width


class PixArt(NamedTuple):
    """PixArt-alpha-muP: the search on the proxy, and the target (script; steps: note)."""

    rates: int = 5
    """Base learning rates tried, 2^-9 to 2^-13, the best 2^-10."""
    proxy_billions: float = 0.04
    target_billions: float = 0.61
    proxy_epochs: int = 5
    target_epochs: int = 30
    proxy_batch: int = 176 * 8
    target_batch: int = 176 * 32
    proxy_steps: int = 39_000
    target_steps: int = 59_000
    claimed_share: float = 0.055
    """Tuning over one training of the target, as the abstract prints it."""


PIXART_AFTER_30_EPOCHS = {
    # metric -> (PixArt-alpha, PixArt-alpha-muP)
    "GenEval": (0.15, 0.26),
    "FID-30K MJHQ": (42.71, 29.96),
    "FID-30K COCO": (37.61, 25.84),
}
"""One run each (note: the first two in two notes written apart, the third in one)."""


class MMDiT(NamedTuple):
    """The search before MMDiT-18B, on data that is not public (note)."""

    trials: int = 80
    proxy_billions: float = 0.18
    target_billions: float = 18.0
    proxy_steps: int = 30_000
    target_steps: int = 200_000
    expert_trainings: float = 5.0
    """What tuning by hand is said to cost, in trainings of the target; in one of two notes."""
    claimed_share: float = 0.03
    """Of the cost of tuning by hand, as the abstract prints it."""


MMDIT_18B = {
    # metric -> (tuned by hand, muP)
    "GenEval": (0.8154, 0.8218),
    "human alignment accuracy": (0.703, 0.715),
}
"""One run each (note: two)."""


def sweeps(panel: str) -> tuple[Sweep, ...]:
    """Return the curves of one panel of Figure 3.

    Raises:
        ValueError: there is no such panel.
    """
    found = tuple(sweep for sweep in FIGURE_3 if sweep.panel == panel)
    if not found:
        raise ValueError(f"Figure 3 has the panels width, batch and iterations, got {panel!r}")
    return found
