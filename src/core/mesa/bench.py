"""How much faster, and how much smaller, than the published way of computing the same numbers.

Each measurement of the sampled training runs in a process of its own, so that its peak memory is
its own: everything the process ever held, interpreter, torch and sequences included. All run on one
thread, and seconds are those of the processor: what else the machine does leaves the ratios alone.
"""

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from core.mesa.lsa import LinearSelfAttention
from core.mesa.moments import all_ones, gaussian
from core.mesa.population import Population
from core.mesa.process import sample_sequences
from core.mesa.published import INITS, Run, published_runs
from core.mesa.quadratic import diagonal_weights, gaussian_weights
from core.mesa.sampled import SampledLoss, train, weights_of
from core.timing import seconds_of

Way = Literal["loop", "passes", "sums"]
Comparison = dict[str, float | str]

D, T, EPOCHS, LR = 5, 100, 200, 1e-5
PAPER_SECONDS = 3600.0
"""All experiments "on a single GeForce RTX 3090 GPU in one hour" (arXiv:2405.16845v2, App. B.1)."""


class Cost(NamedTuple):
    """What a way of training costs on N sequences."""

    once: float
    """Seconds before the first step."""
    step: float
    """Seconds a step."""
    peak: float
    """Bytes, the most that the process ever held."""

    def per_step(self, steps: int) -> float:
        """Return the seconds a step, what was spent once spread over all steps."""
        return self.once / steps + self.step


def main(N: int = 10_000) -> dict[str, Comparison]:
    """Compare; a few minutes, and 10 GB for the published loop at its full size.

    Args:
        N: training sequences; the paper's number is the default.
    """
    return {
        f"sampled training, d = {D}, T = {T}, N = {N:,}": sampled_training(N),
        "the paper's suite, exact loss": exact_suite(),
    }


def sampled_training(N: int) -> Comparison:
    """Compare a step of gradient descent in the published loop with ours, time and memory.

    A quarter of the sequences goes first. Where four times its peak would not fit into three
    quarters of the free memory, its cost is scaled up instead: it is linear in N.
    """
    ours, passes = measure("sums", N), measure("passes", N)
    quarter = measure("loop", N // 4)
    if 4 * quarter.peak < 0.75 * _free_memory():
        loop, note = measure("loop", N), "measured"
    else:
        loop = Cost(0.0, 4 * quarter.step, 4 * quarter.peak)
        note = f"scaled from N = {N // 4:,}"
    return {
        "loop": note,
        "loop (s a step)": loop.step,
        f"loop, N = {N // 4:,} (s a step)": quarter.step,
        "one pass a step (s a step)": passes.step,
        "sums (s once)": ours.once,
        "sums (s a step)": ours.step,
        f"ratio, {EPOCHS} steps by sums": loop.step / ours.per_step(EPOCHS),
        "ratio, one pass a step": loop.step / passes.step,
        "loop (GB at most)": loop.peak / 1e9,
        f"loop, N = {N // 4:,} (GB at most)": quarter.peak / 1e9,
        "sums (GB at most)": ours.peak / 1e9,
        "one pass a step (GB at most)": passes.peak / 1e9,
        "ratio of memory, sums": loop.peak / ours.peak,
        "ratio of memory, one pass a step": loop.peak / passes.peak,
    }


def exact_suite() -> Comparison:
    """Time every training run of the paper's figures on the exact loss, in all 6 d^2 parameters."""
    seconds, runs = time.perf_counter(), 0
    for run in published_runs():  # Figures 1 to 3
        runs += run.train().shape[1]
    brief = Run(gaussian(5), 5, 5e-3, 200)  # Figure 4; its step is ours
    runs += brief.train().shape[1]
    for index in (1, 4, 5):  # Figures 5 and 6; their step is ours
        run = published_runs()[index]
        step = 0.1 * run.flow.largest_stable_step(0.1, 0.1)
        for sigma_w in (0.001, 0.01, 0.1):
            weights = gaussian_weights(D, sigma_w, np.random.default_rng(1))
            runs += len(list(run.population.descend(weights, lr=step, steps=EPOCHS))) > 0
    for masked in (False, True):  # Figure 7 and Theorem 4.3
        for a0, b0 in INITS:
            ones = Population(all_ones(D), T)
            path = ones.descend(diagonal_weights(D, a0, b0), lr=5e-4, steps=EPOCHS, masked=masked)
            runs += len(list(path)) > 0
    seconds = time.perf_counter() - seconds
    return {
        "runs": float(runs),
        "all runs (s)": seconds,
        "the paper, one RTX 3090 (s)": PAPER_SECONDS,
        "ratio": PAPER_SECONDS / seconds,
    }


def measure(way: Way, N: int) -> Cost:
    """Run one way of training in a fresh process and return what it cost."""
    code = f"from core.mesa.bench import report; report({way!r}, {N})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return Cost(**json.loads(done.stdout))


def report(way: Way, N: int) -> None:
    """Train, and print the cost as JSON: what `measure` starts."""
    x = sample_sequences(gaussian(D), T, N, torch.Generator().manual_seed(1))
    once, step = {"loop": _loop, "passes": _passes, "sums": _sums}[way](x)
    print(json.dumps(Cost(once, step, _peak())._asdict()))


def _layer() -> LinearSelfAttention:
    return LinearSelfAttention.from_diagonal(D, 0.1, 0.1)


def _loop(x: torch.Tensor) -> tuple[float, float]:
    """Two steps as published, the faster of them: the first also warms up."""
    layer = _layer()
    optimizer = torch.optim.SGD(layer.parameters(), lr=LR)

    def step() -> None:
        optimizer.zero_grad()
        layer.loss(x, impl="loop").backward()
        optimizer.step()

    return 0.0, min(seconds_of(step) for _ in range(2))


def _passes(x: torch.Tensor) -> tuple[float, float]:
    seconds = seconds_of(lambda: train(_layer(), x, lr=LR, steps=3))  # four losses, three steps
    return 0.0, seconds / 4


def _sums(x: torch.Tensor) -> tuple[float, float]:
    start = time.process_time()
    loss = SampledLoss(x)
    once = time.process_time() - start
    start = time.process_time()
    for _ in loss.descend(weights_of(_layer()), lr=LR, steps=EPOCHS):
        pass
    return once, (time.process_time() - start) / EPOCHS


def _peak() -> float:
    """Return the peak resident bytes of this process.

    On Linux from /proc: `ru_maxrss` would count what the parent held when it started us.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * float(unit)


def _free_memory() -> float:
    """Return the bytes that can be had without swapping; 8e9 where the system does not say."""
    meminfo = Path("/proc/meminfo")
    found = (
        re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
    )
    return int(found[1]) * 1024.0 if found else 8e9
