"""DiT as its paper has it, in the class that diffusers gives everybody.

In `DiTTransformer2DModel` every block owns an embedder of time and label: 749.8 million parameters
at XL/2, where DiT (arXiv:2212.09748v2, Sec. 3.2) has one for all, and 674.8 million. Trained from
scratch the two are different networks, and one more thing differs: while it trains, each block of
diffusers' drops labels on its own, so that an image's label is almost never dropped by all of them,
and the network does not learn to do without it, which guidance needs.

`SharedDiT` has one embedder and drops a label for the whole network or not at all. It saves what
the plain class reads, with equal outputs, and reads what was trained with one embedder.
"""

import os
from inspect import signature
from typing import Any, Self

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from torch import Tensor, nn

EMBEDDER = "norm1.emb"
"""Where a block has it."""
OWN = {"freq_shift": 1, "class_dropout_prob": 0.1}
"""What the plain class cannot be told, and what it does."""


class SharedDiT(DiTTransformer2DModel):
    """DiT with one embedder of time and label; its name is the first block's."""

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        in_channels: int = 4,
        out_channels: int | None = None,
        num_layers: int = 28,
        dropout: float = 0.0,
        sample_size: int = 32,
        patch_size: int = 2,
        num_embeds_ada_norm: int = 1000,
        norm_eps: float = 1e-5,
        freq_shift: int = 1,
        class_dropout_prob: float = 0.1,
    ) -> None:
        """Build the network; the defaults are XL/2 for latents of 256 x 256 images.

        Args:
            num_attention_heads: H.
            attention_head_dim: D / H.
            in_channels: C, of the latents.
            out_channels: C for the noise alone, 2 C for its variance too, as DiT has it.
            num_layers: blocks.
            dropout: inside the blocks.
            sample_size: latent pixels a side.
            patch_size: latent pixels a side of a patch.
            num_embeds_ada_norm: labels; there is one more, for none.
            norm_eps: of the norm before a feed-forward layer; 1e-6 in the released code of DiT.
            freq_shift: frequency i of 128 is 10000^(-i / (128 - freq_shift)): 1 in diffusers, 0 in
                the released code of DiT. A checkpoint works with one of them only.
            class_dropout_prob: how often a label is dropped while it trains.
        """
        super().__init__(
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            num_layers=num_layers,
            dropout=dropout,
            sample_size=sample_size,
            patch_size=patch_size,
            num_embeds_ada_norm=num_embeds_ada_norm,
            norm_eps=norm_eps,
        )
        embedder = self.transformer_blocks[0].get_submodule(EMBEDDER)
        embedder.get_submodule("time_proj").downscale_freq_shift = freq_shift  # type: ignore[assignment]
        # labels are dropped in `forward`, once
        embedder.get_submodule("class_embedder").dropout_prob = 0.0  # type: ignore[assignment]
        for block in self.transformer_blocks[1:]:
            block.set_submodule(EMBEDDER, embedder)

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        timestep: Tensor | None = None,
        class_labels: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Return what the plain class returns; while it trains, some labels are dropped.

        Args:
            hidden_states: `[B, C, S, S]` noised latents.
            timestep: `[B]`.
            class_labels: `[B]`, the last one for no label.
            *args: as of the plain class.
            **kwargs: as of the plain class.
        """
        if self.training and class_labels is not None:
            drop = torch.rand(class_labels.shape, device=class_labels.device)
            drop = drop < self.config["class_dropout_prob"]
            class_labels = class_labels.masked_fill(drop, self.config["num_embeds_ada_norm"])
        asked: Any = (hidden_states, timestep, class_labels)
        return super().forward(*asked, *args, **kwargs)

    @classmethod
    def share(cls, plain: DiTTransformer2DModel) -> Self:
        """Return a model with the weights of a plain one, not copied, whose embedders are equal.

        Raises:
            ValueError: they differ, or the plain model has a part that DiT has not.
        """
        _same_embedders(plain)
        with torch.device("meta"):
            model = cls(**_own_config(plain.config))
        fill_(model, plain.state_dict(), dict(plain.named_buffers()))
        return model.train(plain.training)

    def plain(self) -> DiTTransformer2DModel:
        """Return a copy of diffusers' class: each block has an embedder of its own, all equal."""
        known = _keys(DiTTransformer2DModel)
        with torch.device("meta"):
            model = DiTTransformer2DModel(**{k: v for k, v in self.config.items() if k in known})
        model.register_to_config(**{k: self.config[k] for k in OWN if self.config[k] != OWN[k]})
        copies = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        fill_(model, copies, dict(self.named_buffers()))
        return model.train(self.training)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> None:
        """Write a checkpoint of diffusers' class.

        Read by that class it gives equal outputs if `freq_shift` is 1; it knows no other.

        Args:
            save_directory: a folder.
            *args: as of the plain class.
            **kwargs: as of the plain class.
        """
        self.plain().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **kwargs: Any) -> Self:  # type: ignore[override]
        """Read a checkpoint of diffusers' class whose embedders are equal.

        Args:
            source: a folder, or a name on the hub.
            **kwargs: as of the plain class.

        Raises:
            ValueError: the embedders of two blocks differ.
        """
        return cls.share(DiTTransformer2DModel.from_pretrained(source, **kwargs))


def fill_(model: nn.Module, tensors: dict[str, Tensor], buffers: dict[str, Tensor]) -> None:
    """Put tensors, not copied, into a model on the meta device.

    Args:
        model: without values.
        tensors: its state dict.
        buffers: by name, what no state dict holds.
    """
    model.load_state_dict(tensors, assign=True)
    for name, buffer in buffers.items():
        path, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(path), attribute, buffer)


def _same_embedders(plain: DiTTransformer2DModel) -> None:
    first, *others = (block.get_submodule(EMBEDDER) for block in plain.transformer_blocks)
    expected = first.state_dict()
    for number, embedder in enumerate(others, start=1):
        for name, tensor in embedder.state_dict().items():
            if not torch.equal(tensor, expected[name]):
                raise ValueError(
                    f"transformer_blocks.{number}.{EMBEDDER}.{name} differs from the first "
                    "block's: the model was trained with an embedder in each block, as "
                    "DiTTransformer2DModel has them, and cannot share one"
                )


def _own_config(config: Any) -> dict[str, Any]:
    """Of a plain configuration, what `SharedDiT` takes."""
    taken, plain = _keys(SharedDiT), _keys(DiTTransformer2DModel)
    for key, default in plain.items():
        if key not in taken and config[key] != default:
            raise ValueError(
                f"{key}={config[key]!r} is not DiT: SharedDiT is for {key}={default!r} only"
            )
    return {key: config[key] for key in taken if key in config}


def _keys(model_class: type) -> dict[str, Any]:
    return {name: p.default for name, p in signature(model_class).parameters.items()}
