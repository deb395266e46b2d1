"""What K single-source networks cost a step, together, beside the multi-source one."""

import time
from collections.abc import Callable

import torch

from core.multisource.denoiser import Denoiser, Together
from core.multisource.edm import Edm

SHAPE = (1, 8, 8)


def step_prices(K: int = 10, *, batch: int = 16, repeats: int = 20) -> dict[str, float]:
    """Measure a training step of each family, on one thread, in processor time.

    Args:
        K: sources.
        batch: images of a source in a step: the multi-source network takes K times as many.
        repeats: steps of each; the fastest counts.

    Returns:
        Milliseconds of a step, and ratios to the multi-source one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        multi = _step_ms(1, K, K * batch, repeats)
        together = _step_ms(K, K, batch, repeats)
        apart = K * _step_ms(1, K, batch, repeats)
    finally:
        torch.set_num_threads(threads)
    return {
        "multi-source (ms)": multi,
        f"{K} single-source, together (ms)": together,
        f"{K} single-source, one after another (ms)": apart,
        "ratio of together to multi-source": together / multi,
        "ratio of one after another to together": apart / together,
    }


def _step_ms(networks: int, K: int, batch: int, repeats: int) -> float:
    step = _step(networks, K, batch)
    step()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        found.append(time.process_time() - start)
    return 1000 * min(found)


def _step(networks: int, K: int, batch: int) -> Callable[[], None]:
    """Return a step of Adam on a batch that stays."""
    rng = torch.Generator().manual_seed(0)
    together = Together([Denoiser(SHAPE, K) for _ in range(networks)])
    optimizer = torch.optim.Adam(together.parameters.values(), fused=True)
    x, noise = torch.randn(2, networks, batch, *SHAPE, generator=rng)
    sigma = torch.rand(networks, batch, generator=rng) + 0.1
    y = torch.randint(K, (networks, batch), generator=rng)

    def step() -> None:
        Edm().loss(together, x, noise, sigma, y).mean(1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
