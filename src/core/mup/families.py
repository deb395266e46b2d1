"""The five families of networks, each small enough for an 8 x 8 digit.

    family = FAMILIES["mmdit"]
    plan = family.plan(heads=16, layers=2)
    loss = family.loss(plan.build(), digits.draw(seed=0, step=0, size=32))

DiT, PixArt-alpha, MMDiT (of Stable Diffusion 3) and Flux are the classes of diffusers as they are;
U-ViT is `core.mup.uvit`. The dimension of a head is fixed and the width grows with the number of
heads, as in the paper (arXiv:2505.15270v3, Sec. 4 as the released code has it).

Three of them want text. A label's is a fixed random embedding of 6 tokens, the same at all widths.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from core.mup.digits import CLASSES, STEPS, Batch, draw
from core.mup.plan import Plan, plan
from core.mup.source import source_of
from core.train.seeds import generator

PIXELS, PATCH = 8, 2
ADDED = ("norm1", "adaln", "attn2", "skip", "norm_out", "attn.norm", "attn.add", "proj_out_1")
"""In the names of modules that a plain transformer lacks: modulation, cross-attention, long skips,
joint attention."""
TEXT_TOKENS, TEXT_WIDTH = 6, 32
HEAD_DIM = 16


@dataclass(frozen=True)
class Family:
    """A network, how to size it for digits, and how to ask it for the noise."""

    name: str
    source: str
    """Module and class, `"diffusers:FluxTransformer2DModel"`."""
    config: Callable[..., dict[str, Any]]
    """`config(heads=4, layers=2, head_dim=16)`: the keyword arguments of the class."""
    predict: Callable[[nn.Module, Batch], Tensor]
    """Model and batch -> `[B, 1, 8, 8]`, the predicted noise. Deterministic, in training too."""
    base: Mapping[str, int] = field(default_factory=lambda: {"num_attention_heads": 4})
    """The width at which to tune."""

    @property
    def model_class(self) -> Callable[..., nn.Module]:
        """The class; a plan calls it with `config`. diffusers is imported here, in seconds."""
        return source_of(self.source)

    def plan(self, heads: int = 8, layers: int = 2, **sizes: int) -> Plan:
        """Return the plan of this many heads, tuned with those of `base`.

        Args:
            heads: of the target; as many as the base's too, for the base's own plan.
            layers: as in `config`.
            **sizes: `head_dim`.
        """
        (key, tuned), *_ = self.base.items()
        wider = plan(self.model_class, self.config(2 * tuned, layers, **sizes), base=self.base)
        return wider.at(**{key: heads})

    def first_loss(self, size: int) -> Callable[[nn.Module, int], Tensor]:
        """Return the loss of a seed's first batch, of `size` images: for a coordinate check."""

        def loss(model: nn.Module, seed: int) -> Tensor:
            where = next(model.parameters())
            return self.loss(model, draw(seed, 0, size).to(where.device, where.dtype))

        return loss

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean squared error of the predicted noise, a scalar; 1 for predicting zero."""
        return (self.predict(model, batch) - batch.noise).square().mean()


def text(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the text of labels `[B]`: `[B, 6, 32]`, standard normal, fixed."""
    return _texts().to(y.device, dtype)[y]


@lru_cache(maxsize=1)
def _texts() -> Tensor:
    # three parts, so that it is no batch's name
    rng = generator(0, 0, 0)
    return torch.from_numpy(rng.standard_normal((CLASSES, TEXT_TOKENS, TEXT_WIDTH)))


def _common(heads: int, layers: int, head_dim: int) -> dict[str, Any]:
    return {
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "num_layers": layers,
        "in_channels": 1,
        "sample_size": PIXELS,
        "patch_size": PATCH,
    }


def _uvit_config(heads: int = 4, layers: int = 2, head_dim: int = HEAD_DIM) -> dict[str, Any]:
    # as many blocks as said, and one in the middle where that is even
    odd = layers // 2 * 2 + 1
    return _common(heads, odd, head_dim) | {"num_classes": CLASSES}


def _dit_config(heads: int = 4, layers: int = 2, head_dim: int = HEAD_DIM) -> dict[str, Any]:
    return _common(heads, layers, head_dim) | {"num_embeds_ada_norm": CLASSES}


def _pixart_config(heads: int = 4, layers: int = 2, head_dim: int = HEAD_DIM) -> dict[str, Any]:
    return _common(heads, layers, head_dim) | {
        "out_channels": 1,
        "cross_attention_dim": heads * head_dim,  # its text is projected to the width
        "caption_channels": TEXT_WIDTH,
        "use_additional_conditions": False,
    }


def _mmdit_config(heads: int = 4, layers: int = 2, head_dim: int = HEAD_DIM) -> dict[str, Any]:
    return _common(heads, layers, head_dim) | {
        "out_channels": 1,
        "caption_projection_dim": heads * head_dim,  # likewise
        "joint_attention_dim": TEXT_WIDTH,
        "pooled_projection_dim": TEXT_WIDTH,
        "pos_embed_max_size": PIXELS // PATCH,
        "qk_norm": "rms_norm",
    }


def _flux_config(heads: int = 4, layers: int = 2, head_dim: int = HEAD_DIM) -> dict[str, Any]:
    plane = 2 * (3 * head_dim // 16)  # as Flux divides its 128: 16, 56, 56
    return {
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "num_layers": layers,
        "num_single_layers": layers,
        "in_channels": PATCH**2,  # it is given patches
        "joint_attention_dim": TEXT_WIDTH,
        "pooled_projection_dim": TEXT_WIDTH,
        "axes_dims_rope": (head_dim - 2 * plane, plane, plane),
    }


def _uvit_predict(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch.x_t, batch.t, batch.y)


def _dit_predict(model: nn.Module, batch: Batch) -> Tensor:
    _keep_labels(model)
    return model(batch.x_t, timestep=batch.t, class_labels=batch.y).sample


def _pixart_predict(model: nn.Module, batch: Batch) -> Tensor:
    return model(
        batch.x_t,
        encoder_hidden_states=text(batch.y, batch.x_t.dtype),
        timestep=batch.t,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample


def _mmdit_predict(model: nn.Module, batch: Batch) -> Tensor:
    words = text(batch.y, batch.x_t.dtype)
    return model(
        batch.x_t, encoder_hidden_states=words, pooled_projections=words.mean(1), timestep=batch.t
    ).sample


def _flux_predict(model: nn.Module, batch: Batch) -> Tensor:
    words = text(batch.y, batch.x_t.dtype)
    patches = nn.functional.unfold(batch.x_t, PATCH, stride=PATCH).mT  # [B, 16, 4]
    side = torch.arange(PIXELS // PATCH, device=batch.t.device)
    predicted = model(
        patches,
        encoder_hidden_states=words,
        pooled_projections=words.mean(1),
        timestep=batch.t.to(words.dtype) / STEPS,  # it multiplies by 1000
        img_ids=torch.cartesian_prod(side[:1], side, side),
        txt_ids=torch.zeros(TEXT_TOKENS, 3, device=batch.t.device),
    ).sample
    return nn.functional.fold(predicted.mT, (PIXELS, PIXELS), PATCH, stride=PATCH)


def _keep_labels(model: nn.Module) -> None:
    """Stop diffusers' DiT from dropping one label in ten at random while it trains."""
    from diffusers.models.embeddings import LabelEmbedding

    for module in model.modules():
        if isinstance(module, LabelEmbedding):
            module.dropout_prob = 0.0


FAMILIES = {
    family.name: family
    for family in (
        Family("uvit", "core.mup.uvit:UViT", _uvit_config, _uvit_predict),
        Family("dit", "diffusers:DiTTransformer2DModel", _dit_config, _dit_predict),
        Family("pixart", "diffusers:PixArtTransformer2DModel", _pixart_config, _pixart_predict),
        Family("mmdit", "diffusers:SD3Transformer2DModel", _mmdit_config, _mmdit_predict),
        Family("flux", "diffusers:FluxTransformer2DModel", _flux_config, _flux_predict),
    )
}
"""By name: the paper's four, and Flux."""
