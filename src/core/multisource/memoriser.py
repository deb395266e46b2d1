r"""The denoiser that knows its training images and nothing else, in closed form.

It has the least training loss of all denoisers: the mean of the training images, weighted by how
likely each is to have given what is seen,

    D(x; sigma) = sum_i w_i x_i        w = softmax_i(-|x - x_i|^2 / (2 sigma^2))

and its samples are training images. A network that is trained for long enough on few images tends
to it. A metric under which it does well does not measure what was learnt.

Source: arXiv:2206.00364v2, App. B.3: the ideal denoiser of a finite set.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.multisource.edm import Edm
from core.multisource.examples import Examples


class Memoriser:
    """E such denoisers, as a network F for an `Edm`."""

    def __init__(self, edm: Edm, train: Sequence[Examples]) -> None:
        """Keep the images.

        Args:
            edm: whose preconditioning is undone, so that its `denoised` is D.
            train: E sets, of one source each.

        Raises:
            ValueError: there is no set.
        """
        if not train:
            raise ValueError("want at least one set of training images, got none")
        self.edm = edm
        rows = [part.images.flatten(1) for part in train]
        # sets may differ in size: what is not there has no weight
        self._known = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        sizes = torch.tensor([len(row) for row in rows], device=self._known.device)
        there = torch.arange(self._known.shape[1], device=sizes.device) < sizes[:, None]
        self._absent = ~there[:, None]

    def __call__(self, x: Tensor, c_noise: Tensor, y: Tensor) -> Tensor:
        """Return F: `[E, B, ...]`, `[E, B]` -> `[E, B, ...]`; sources `y` are not looked at."""
        sigma = (4 * c_noise).exp()[..., None]
        c = self.edm.coefficients(sigma)
        seen = x.flatten(2) / c.c_in
        distance = torch.cdist(seen, self._known, compute_mode="donot_use_mm_for_euclid_dist")
        logits = -0.5 * (distance / sigma) ** 2
        D = logits.masked_fill(self._absent, -torch.inf).softmax(2) @ self._known
        return ((D - c.c_skip * seen) / c.c_out).reshape(x.shape)
