r"""What tuning on a proxy costs, and what "2.9 times faster" comes to: arithmetic, no training.

The paper counts the cost of tuning as a share of one training of the target,

    share = R  S_p / S_t  B_p / B_t  T_p / T_t

for R runs of a proxy p and a target t, S parameters, batches of B and T iterations
(arXiv:2505.15270v3). Where the length is said in epochs, their ratio is that of B T. The inputs are
in `core.mup.published`, each with its source; the paper's text was not read.

A multiply-add is two operations here; what papers on images call Gflops are multiply-adds.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from core.mup import published

H200_PEAK = 989e12
"""Dense bfloat16 operations a second of an H200."""


def tuning_share(runs: int, *, size: float, length: float, batch: float = 1.0) -> float:
    """Return the cost of tuning on a proxy, as a share of one training of the target.

    Args:
        runs: trainings of the proxy.
        size: parameters of the proxy over those of the target.
        length: of training, proxy over target: iterations, or epochs and then `batch` stays 1.
        batch: proxy over target.

    Raises:
        ValueError: a number is not positive.
    """
    given = {"runs": runs, "size": size, "length": length, "batch": batch}
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"want {name} above 0, got {value!r}")
    return runs * size * length * batch


def pixart_shares() -> dict[str, float]:
    """Return the "5.5 %" of PixArt-alpha by three readings of its inputs.

    The parameters as the abstract rounds them, and epochs; the parameters of diffusers' class, and
    epochs; the rounded parameters, and iterations times batch.
    """
    p = published.PixArt()
    rounded = p.proxy_billions / p.target_billions
    counted = pixart_parameters(4) / pixart_parameters(16)
    epochs = p.proxy_epochs / p.target_epochs
    steps = {
        "length": p.proxy_steps / p.target_steps,
        "batch": p.proxy_batch / p.target_batch,
    }
    return {
        "rounded": tuning_share(p.rates, size=rounded, length=epochs),
        "counted parameters": tuning_share(p.rates, size=counted, length=epochs),
        "counted steps": tuning_share(p.rates, size=rounded, **steps),
    }


def mmdit_share(batch: float = 1.0, expert_trainings: float | None = None) -> float:
    """Return the "3 %" of MMDiT-18B: tuning on the proxy over tuning by hand.

    Args:
        batch: of the proxy over that of the target, which is not public.
        expert_trainings: what tuning by hand takes, in trainings of the target; the published 5
            where None, and 1 for the share of one training.
    """
    m = published.MMDiT()
    size, length = m.proxy_billions / m.target_billions, m.proxy_steps / m.target_steps
    share = tuning_share(m.trials, size=size, length=length, batch=batch)
    return share / (m.expert_trainings if expert_trainings is None else expert_trainings)


def reached(curve: published.Curve, fid: float) -> float:
    """Return where a falling curve passes an FID, in millions of iterations, by straight lines.

    Raises:
        ValueError: the curve never does, or begins below.
    """
    if not min(curve.fid) <= fid <= max(curve.fid):
        raise ValueError(f"the curve goes from {curve.fid[0]} to {curve.fid[-1]}, got FID {fid}")
    return float(np.interp(-fid, -np.array(curve.fid), curve.millions))


class Speedup(NamedTuple):
    """Iterations of the baseline over those that muP takes to the same FID."""

    at: float
    """Millions of iterations of the baseline."""
    fid: float
    """Of the baseline there, which muP is to reach."""
    ratio: float
    low: float
    """With both curves read wrong by their errors, against muP."""
    high: float
    """The same in its favour."""


def speedup(at: float, fid: float | None = None) -> Speedup:
    """Return how much sooner DiT-XL/2-muP has the FID of DiT-XL/2 after `at` million iterations.

    Read from the digitised curves; single runs, and of two recipes that differ in learning rate,
    initialisation and parametrisation.

    Args:
        at: millions of iterations of the baseline.
        fid: of the baseline there; its own curve's where None.

    Raises:
        ValueError: muP's curve does not pass that FID.
    """
    base, mup = published.DIT_XL_2, published.DIT_XL_2_MUP
    goal = float(np.interp(at, base.millions, base.fid)) if fid is None else fid
    error = base.error + mup.error
    slow = max(goal - error, min(mup.fid))
    fast = min(goal + error, max(mup.fid))
    return Speedup(
        at, goal, at / reached(mup, goal), at / reached(mup, slow), at / reached(mup, fast)
    )


@dataclass(frozen=True)
class DiT:
    """A DiT as in the public code, one embedder of timestep and label for all blocks; XL/2."""

    width: int = 1152
    layers: int = 28
    side: int = 32
    """Of the latent image."""
    patch: int = 2
    channels: int = 4
    out_channels: int = 8
    """Twice the channels where the variance is learned too."""
    classes: int = 1000
    frequencies: int = 256
    """Sines and cosines of the timestep."""

    @property
    def tokens(self) -> int:
        """Return the patches of an image."""
        return (self.side // self.patch) ** 2

    @property
    def _patch_sizes(self) -> tuple[int, int]:
        """Numbers in a patch, as it goes in and as it comes out."""
        return self.patch**2 * self.channels, self.patch**2 * self.out_channels

    @property
    def embedder(self) -> int:
        """Return the parameters of the embedder: two linears of the timestep, and the labels."""
        D = self.width
        return (self.frequencies + 1) * D + (D + 1) * D + (self.classes + 1) * D

    @property
    def parameters(self) -> int:
        """Return the trained parameters; the positions are fixed and not counted."""
        D, (into, out) = self.width, self._patch_sizes
        block = 18 * D**2 + 15 * D  # 4 + 8 + 6 matrices; biases 4 + 5 + 6
        final = 2 * D**2 + 2 * D + (D + 1) * out
        return (into + 1) * D + self.embedder + self.layers * block + final

    @property
    def forward(self) -> int:
        """Return the multiply-adds of one image forward.

        Twelve D x D matrices a token and block, six for the modulation an image and block, two
        products of attention; norms and activations are left out.
        """
        D, T, (into, out) = self.width, self.tokens, self._patch_sizes
        block = 12 * T * D**2 + 2 * T**2 * D + 6 * D**2
        ends = T * D * (into + out) + self.frequencies * D + D**2 + 2 * D**2
        return self.layers * block + ends

    def training(self, images: float) -> float:
        """Return the operations of training on so many images: backward costs two forwards."""
        return 3 * 2 * self.forward * images


def hours(operations: float, *, utilisation: float = 0.4, peak: float = H200_PEAK) -> float:
    """Return the hours of one device.

    Args:
        operations: in all.
        utilisation: of the peak; 0.4 is what good training loops get.
        peak: operations a second.
    """
    return operations / (utilisation * peak) / 3600


def pixart_parameters(heads: int) -> int:
    """Return the parameters of diffusers' PixArt-alpha at 256 pixels, head dimension 72, 28 blocks.

    Built on the meta device: no memory.

    Args:
        heads: 4 of the proxy, 16 of the target.
    """
    import torch
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

    with torch.device("meta"):
        model = PixArtTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=72,
            cross_attention_dim=72 * heads,
            num_layers=28,
            sample_size=32,
            caption_channels=4096,
            use_additional_conditions=False,
        )
    return sum(p.numel() for p in model.parameters())
