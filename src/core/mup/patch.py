"""Make the blocks of diffusers' DiT, PixArt and SD3 use `core.kernels.adaln`, numerically equal.

A block of these models is norm, modulation, layer, gated residual, twice over. Written in torch
each of the operations reads and writes all activations; `adaln` does a residual and the norm that
follows it in one pass, forward and backward. `patch(model)` gives the blocks a class whose forward
says that; parameters, their names, and the order in which layers are called (and draw their
dropout) stay. So a state dict fits both ways, and `unpatch` takes it back.

What is fused in a block, by diffusers' names:

    ada_norm_zero     norm1 alone; the residual of attn1 with norm3           DiT, SharedDiT
    ada_norm_single   norm1 alone; the residual of attn2 with norm2           PixArt
    joint             norm1 alone; the residual of attn (or attn2) with norm2,
                      for tokens of the image and of the text                 SD3

The last residual of a block meets the norm of the next one, across a call of a module: it is left
as it is, so that hooks and gradient checkpointing see what they saw. In PixArt no norm follows the
residual of attn1. Modules that are now part of a pass (norm1, norm2, norm3, and norm_out of SD3)
are not called any more, and hooks on them hear nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from diffusers.models.attention import (
    BasicTransformerBlock,
    JointTransformerBlock,
    _chunked_feed_forward,
)
from diffusers.models.normalization import (
    AdaLayerNormContinuous,
    AdaLayerNormZero,
    SD35AdaLayerNormZeroX,
)
from torch import Tensor, nn

from core.kernels.adaln import adaln

Model = TypeVar("Model", bound=nn.Module)


def patch(model: Model) -> Model:
    """Change the model in place, and return it; all blocks, or none if one is not known.

    Raises:
        ValueError: a block, named, is of a kind that is not known; or there is none to change.
    """
    found = list(_changes(model))
    if not found:
        raise ValueError(
            f"want a model with blocks of DiT, PixArt or SD3, got {type(model).__name__}, which "
            "has none, or is patched already"
        )
    for module, fused in found:
        module.__class__ = fused
    return model


def unpatch(model: Model) -> Model:
    """Give every block the class it had; return the model, which may not be patched at all."""
    for module in model.modules():
        if isinstance(module, _Fused):
            module.__class__ = type(module).__bases__[1]
    return model


def _changes(model: nn.Module) -> Iterator[tuple[nn.Module, type]]:
    """Yield what to change, and the class that it gets."""
    for name, module in model.named_modules():
        if type(module) not in _KINDS:
            continue
        fused = _KINDS[type(module)](module)
        why = fused if isinstance(fused, str) else _norms(module)
        if why:
            raise ValueError(f"{name}, {type(module).__name__}: {why}; nothing is changed")
        yield module, fused  # type: ignore[misc]


def _basic(block: Any) -> "type | str":
    """Return the class for a block, or why there is none."""
    kinds = {"ada_norm_zero": _Zero, "ada_norm_single": _Single}
    if block.norm_type not in kinds:
        return f"want norm_type among {', '.join(kinds)}, got {block.norm_type!r}"
    for part in ("pos_embed", "fuser"):
        if getattr(block, part, None) is not None:
            return f"want a block without {part}, got one that has it"
    if block.only_cross_attention:
        return "want self-attention in attn1, got only_cross_attention"
    if block.norm_type == "ada_norm_zero" and block.attn2 is not None:
        return "want ada_norm_zero without cross-attention, got attn2"
    return kinds[block.norm_type]


def _norms(module: Any) -> str | None:
    """Return why a norm is none that the kernel knows."""
    for name in ("norm", "norm1", "norm2", "norm3", "norm1_context", "norm2_context"):
        norm = getattr(module, name, None)
        if isinstance(norm, AdaLayerNormZero | SD35AdaLayerNormZeroX | AdaLayerNormContinuous):
            norm = norm.norm
        if norm is not None and (type(norm) is not nn.LayerNorm or norm.elementwise_affine):
            return f"want {name} as a LayerNorm without weight and bias, got {norm}"
    return None


class _Fused:
    """What is patched; its layers have their names from diffusers."""

    attn1: Any
    attn2: Any
    ff: Any
    ff_context: Any
    norm: Any
    norm1: Any
    norm1_context: Any
    norm2: Any
    norm2_context: Any
    norm3: Any


class _Zero(_Fused, BasicTransformerBlock):
    """A block of DiT: vectors from time and label, six a block."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Do what `BasicTransformerBlock.forward` does."""
        x, norm1 = hidden_states, self.norm1
        emb = norm1.emb(timestep, class_labels, hidden_dtype=x.dtype)
        b1, s1, g1, b2, s2, g2 = norm1.linear(norm1.silu(emb)).chunk(6, dim=1)
        x, y = adaln(x, b1, s1, eps=norm1.norm.eps)
        h = self.attn1(y, attention_mask=attention_mask, **(cross_attention_kwargs or {}))
        x, y = adaln(x, b2, s2, branch=h, gate=g1, eps=self.norm3.eps)
        return g2[:, None] * _feed(self, self.ff, y) + x


class _Single(_Fused, BasicTransformerBlock):
    """A block of PixArt: vectors of time for all blocks, and a table of each."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Do what `BasicTransformerBlock.forward` does."""
        x, options = hidden_states, cross_attention_kwargs or {}
        vectors: Any = timestep
        vectors = self.scale_shift_table[None] + vectors.reshape(len(x), 6, -1)
        b1, s1, g1, b2, s2, g2 = vectors.chunk(6, dim=1)
        x, y = adaln(x, b1, s1, eps=self.norm1.eps)
        h, gate = self.attn1(y, attention_mask=attention_mask, **options), g1
        if self.attn2 is not None:
            x, gate = g1 * h + x, None
            h = self.attn2(
                x,
                encoder_hidden_states=encoder_hidden_states,
                attention_mask=encoder_attention_mask,
                **options,
            )
        x, y = adaln(x, b2, s2, branch=h, gate=gate, eps=self.norm2.eps)
        return g2 * _feed(self, self.ff, y) + x


class _Joint(_Fused, JointTransformerBlock):
    """A block of SD3: tokens of the image and of the text, each with its vectors."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """Do what `JointTransformerBlock.forward` does."""
        options = joint_attention_kwargs or {}
        x, y, image = _first(self.norm1, hidden_states, temb)
        dual = None
        if self.use_dual_attention:
            x, dual = adaln(x, *image[6:8], eps=self.norm1.norm.eps)
        if self.context_pre_only:
            c, text, y_c = None, image, self.norm1_context(encoder_hidden_states, temb)
        else:
            c, y_c, text = _first(self.norm1_context, encoder_hidden_states, temb)
        h, h_c = self.attn(hidden_states=y, encoder_hidden_states=y_c, **options)
        gate = image[2]
        if dual is not None:
            x, gate = x + gate[:, None] * h, image[8]
            h = self.attn2(hidden_states=dual, **options)
        x = _second(self, x, h, gate, image, self.norm2, self.ff)
        if c is not None:
            c = _second(self, c, h_c, text[2], text, self.norm2_context, self.ff_context)
        return c, x


class _Continuous(_Fused, AdaLayerNormContinuous):
    """The last norm of SD3, and of its text."""

    def forward(self, x: Tensor, conditioning_embedding: Tensor) -> Tensor:
        """Do what `AdaLayerNormContinuous.forward` does."""
        s, b = self.linear(self.silu(conditioning_embedding).to(x.dtype)).chunk(2, dim=1)
        return adaln(x, b, s, eps=self.norm.eps)[1]


def _first(norm: Any, x: Tensor, temb: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Return x, its norm, and the vectors: shift, scale, gate of each layer."""
    vectors = norm.linear(norm.silu(temb))
    vectors = vectors.chunk(vectors.shape[1] // x.shape[2], dim=1)
    return *adaln(x, *vectors[:2], eps=norm.norm.eps), vectors


def _second(
    block: Any,
    x: Tensor,
    h: Tensor,
    gate: Tensor,
    vectors: tuple[Tensor, ...],
    norm: Any,
    layer: Any,
) -> Tensor:
    """Return x with a residual of h, and that of the feed-forward layer."""
    x, y = adaln(x, *vectors[3:5], branch=h, gate=gate, eps=norm.eps)
    return x + vectors[5][:, None] * _feed(block, layer, y)


def _feed(block: Any, layer: nn.Module, y: Tensor) -> Tensor:
    if block._chunk_size is None:
        return layer(y)
    return _chunked_feed_forward(layer, y, block._chunk_dim, block._chunk_size)


_KINDS: dict[type, Callable[[Any], "type | str"]] = {
    BasicTransformerBlock: _basic,
    JointTransformerBlock: lambda block: _Joint,
    AdaLayerNormContinuous: lambda norm: _Continuous,
}
