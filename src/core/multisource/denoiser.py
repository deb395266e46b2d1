r"""The network F of a class-conditional denoiser, and many of them evaluated at once.

Multi-source training is one network that knows the source y; single-source training is K networks
of the same architecture, one a source. `Together` evaluates any number of equal networks as one
under `torch.func.vmap`, so that K small single-source networks on b images each cost about what one
multi-source network on K b images costs. Large ones fill a device alone, and run one by one.

Source: arXiv:2502.14583 (as published at ICML 2025), Sec. 5.2: one architecture for both, EDM2-XS
there; `Denoiser` is small enough for 8 x 8 images on one core, `UNet` is diffusers' for others.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import one_hot, silu

FREQUENCIES = 6


class Denoiser(nn.Module):
    """A residual perceptron of pixels, noise level and source."""

    def __init__(
        self, shape: Sequence[int], sources: int, *, width: int = 96, blocks: int = 3
    ) -> None:
        """Begin with an output of zero: a denoiser that knows the variance and no more.

        Args:
            shape: of an image, such as `(1, 8, 8)`.
            sources: K.
            width: of the hidden layers.
            blocks: residual layers.
        """
        super().__init__()
        self.sources, self.shape = sources, tuple(shape)
        pixels = math.prod(shape)
        self.first = nn.Linear(pixels + 2 * FREQUENCIES + sources, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.last = nn.Linear(width, pixels)
        for p in self.last.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor, c_noise: Tensor, y: Tensor) -> Tensor:
        """Return F.

        Args:
            x: `[B, *shape]`, of unit variance.
            c_noise: `[B]`, a quarter of ln sigma.
            y: `[B]` int64 in [0, K).
        """
        octaves = torch.arange(FREQUENCIES, device=x.device, dtype=x.dtype)
        angle = c_noise[:, None] * (math.pi / 2) * 2**octaves
        known = [x.flatten(1), angle.cos(), angle.sin(), one_hot(y, self.sources).to(x)]
        h = silu(self.first(torch.cat(known, 1)))
        for block in self.blocks:
            h = h + silu(block(h))
        return self.last(h).unflatten(1, self.shape)


class UNet(nn.Module):
    """diffusers' `UNet2DModel` with a source for each class, called as `Denoiser` is."""

    one_by_one = True
    """For `Together`: large enough alone, and group norm knows no `vmap`."""

    def __init__(self, shape: Sequence[int], sources: int, *, channels: Sequence[int]) -> None:
        """Begin with an output of zero.

        Args:
            shape: of an image, `(C, H, W)`, square; each level but one halves it.
            sources: K.
            channels: of each level, from the finest; 32 divides each. All but the first attend.

        Raises:
            ValueError: the image is not square, or the levels or channels do not divide.
        """
        super().__init__()
        colours, height, side = shape
        halvings = 2 ** (len(channels) - 1)
        if height != side or side % halvings or any(c % 32 for c in channels):
            raise ValueError(
                f"want square images whose side {halvings} divides and channels that 32 divides, "
                f"got {tuple(shape)} and {tuple(channels)}"
            )
        # takes seconds to import
        from diffusers.models.unets.unet_2d import UNet2DModel

        deeper = len(channels) - 1
        self.model = UNet2DModel(
            sample_size=side,
            in_channels=colours,
            out_channels=colours,
            block_out_channels=tuple(channels),
            down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * deeper),
            up_block_types=(*["AttnUpBlock2D"] * deeper, "UpBlock2D"),
            num_class_embeds=sources,
        )
        for p in self.model.conv_out.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor, c_noise: Tensor, y: Tensor) -> Tensor:
        """Return F; arguments as of `Denoiser`."""
        return self.model(x, c_noise, class_labels=y).sample


class Together:
    """E networks of one architecture, as one."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """Take the networks' weights; the networks themselves are not trained.

        Args:
            networks: E of one class and configuration.

        Raises:
            ValueError: there is none.
        """
        if not networks:
            raise ValueError("want at least one network, got none")
        self._pattern = networks[0]
        self._one_by_one = getattr(networks[0], "one_by_one", False)
        parameters, self._buffers = stack_module_state(list(networks))
        self.parameters: dict[str, Tensor] = parameters
        """`[E, ...]` of each parameter, by name: leaves."""

    def __len__(self) -> int:
        """Return E."""
        return len(next(iter(self.parameters.values())))

    def __call__(self, x: Tensor, c_noise: Tensor, y: Tensor) -> Tensor:
        """Return F of each network: `[E, B, ...]`, `[E, B]`, `[E, B]` -> `[E, B, ...]`."""

        if self._one_by_one:
            rows = zip(*self._members(), x, c_noise, y, strict=True)
            return torch.stack([self._of_one(p, b, *inputs) for p, b, *inputs in rows])
        return vmap(self._of_one)(self.parameters, self._buffers, x, c_noise, y)

    def _of_one(self, parameters: dict, buffers: dict, *inputs: Tensor) -> Tensor:
        return functional_call(self._pattern, (parameters, buffers), inputs)

    def _members(self) -> tuple[list[dict[str, Tensor]], ...]:
        """Return the parameters of each network, and its buffers."""
        return tuple(
            [{name: value[e] for name, value in stacked.items()} for e in range(len(self))]
            for stacked in (self.parameters, self._buffers)
        )

    def copy(self) -> "Together":
        """Return the same networks with weights of their own, which want no gradient."""
        twin = object.__new__(Together)
        twin._pattern, twin._buffers = self._pattern, self._buffers
        twin._one_by_one = self._one_by_one
        twin.parameters = {name: p.detach().clone() for name, p in self.parameters.items()}
        return twin
