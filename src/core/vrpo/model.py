r"""A masked diffusion language model: LLaDA's architecture, at any size.

A Transformer that reads a sequence with masked tokens and gives, for each, the distribution of the
token that belongs there. Blocks as in Llama (RMSNorm, rotary positions, SwiGLU, no biases) with
attention in both directions; the head is its own matrix. It takes no time: the number of masks
tells it. The same class is the small model of the chapters and, through `core.vrpo.llada`,
LLaDA-8B; its parameters carry LLaDA's names.

    S = sum over masked i of log p(y_i | x, y masked)            one number per sequence of a pack

Sequences are packed end to end (`core.vrpo.packing`), attend within themselves alone, and count
positions from 0; no `[T, T]` mask is built and nothing is padded. Norms and rotations run in
float32 for half types, as LLaDA's do, in the model's own dtype otherwise.

Source: arXiv:2505.19223v2, App. D.1 and Table 3; names and operations as in the public checkpoints.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from core.kernels.linear_logprob import linear_logprob
from core.vrpo._attention import attend, rotary_tables, rotate
from core.vrpo.packing import Layout, Pack, layout

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Config:
    """The size of a model.

    Raises:
        ValueError: a size is not positive, heads do not divide the width, the head's width is odd,
            key and value heads do not divide the heads, or mask or end token are no rows.
    """

    vocab_size: int
    """Rows of embedding and head, the mask token's included."""
    d_model: int
    n_layers: int
    n_heads: int
    mlp_hidden: int
    mask_id: int
    n_kv_heads: int | None = None
    """Heads of keys and values; None: as many as `n_heads`."""
    rope_theta: float = 10_000.0
    rms_eps: float = 1e-5
    max_length: int = 4096
    """Longest sequence, prompt and response together."""
    eos_id: int | None = None
    """The token that ends a response, where there is one."""

    def __post_init__(self) -> None:
        """Check what the architecture needs."""
        sizes = "vocab_size", "d_model", "n_layers", "n_heads", "mlp_hidden", "max_length"
        for name in (*sizes, "rope_theta", "rms_eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"want {name} > 0, got {name} = {getattr(self, name)}")
        if self.d_model % self.n_heads or self.head_width % 2:
            raise ValueError(
                "want d_model / n_heads to be an even integer (rotary positions turn pairs), "
                f"got {self.d_model} / {self.n_heads}"
            )
        if self.kv_heads <= 0 or self.n_heads % self.kv_heads:
            raise ValueError(
                f"want n_kv_heads to divide n_heads, got {self.kv_heads} and {self.n_heads}"
            )
        if not 0 <= self.mask_id < self.vocab_size:
            raise ValueError(
                f"want the mask token among the {self.vocab_size} rows of the embedding, "
                f"got mask_id = {self.mask_id}: count it in vocab_size"
            )
        if self.eos_id is not None and not 0 <= self.eos_id < self.vocab_size:
            raise ValueError(
                f"want eos_id in [0, {self.vocab_size}) or None, got eos_id = {self.eos_id}"
            )

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads


class Linear(nn.Linear):
    """A linear map without bias; its weights are drawn by the model, or loaded."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Leave the weight `[outputs, inputs]` as memory is."""
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Draw nothing: no global state is touched, and nothing is drawn twice."""


class Embedding(nn.Embedding):
    """A row a token; its weights are drawn by the model, or loaded."""

    def reset_parameters(self) -> None:
        """Draw nothing, as in `Linear`."""


class RMSNorm(nn.Module):
    """`weight * x / sqrt(mean x^2 + eps)` over the last axis; in float32 for half types."""

    def __init__(self, width: int, eps: float) -> None:
        """Start from weights of one."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` `[..., D]` normed, in its dtype."""
        if x.dtype in HALF:  # float32 inside, rounded before the weight, as LLaDA does
            return self.weight * F.rms_norm(x, x.shape[-1:], eps=self.eps)
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class Block(nn.Module):
    """Attention within each sequence, then SwiGLU; both on the normed residual stream."""

    def __init__(self, config: Config) -> None:
        """Make the parameters, under LLaDA's names."""
        super().__init__()
        D, width = config.d_model, config.head_width
        self.heads = (config.n_heads, config.kv_heads)
        self.attn_norm = RMSNorm(D, config.rms_eps)
        self.q_proj = Linear(D, config.n_heads * width)
        self.k_proj = Linear(D, config.kv_heads * width)
        self.v_proj = Linear(D, config.kv_heads * width)
        self.attn_out = Linear(D, D)
        self.ff_norm = RMSNorm(D, config.rms_eps)
        self.ff_proj = Linear(D, config.mlp_hidden)
        self.up_proj = Linear(D, config.mlp_hidden)
        self.ff_out = Linear(config.mlp_hidden, D)

    def forward(self, x: Tensor, where: Layout, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Return the residual stream `[T, D]` after this block.

        Args:
            x: `[T, D]`, in the order of `where`.
            where: which tokens attend to which.
            turn: each token's rotation, from `rotary_tables`, `[T, 1, Dh]` each.
        """
        T, (H, kv) = len(x), self.heads
        h = self.attn_norm(x)
        q = rotate(self.q_proj(h).view(T, H, -1), *turn)
        k = rotate(self.k_proj(h).view(T, kv, -1), *turn)
        x = x + self.attn_out(attend(q, k, self.v_proj(h).view(T, kv, -1), where).view(T, -1))
        h = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(h)) * self.up_proj(h))


class MaskedDiffusionLM(nn.Module):
    """LLaDA's architecture; see the module.

    Attributes:
        config: its size.
        wte: embedding, `[vocab_size, d_model]`.
        blocks: the blocks; wrap these one by one to shard or compile.
        ln_f: norm before the head.
        ff_out: the head, `[vocab_size, d_model]`; only its weight is used by `forward`, so it
            belongs to the module that calls `forward` when parameters are sharded.
        checkpointing: True recomputes each block in the backward pass instead of keeping what is
            inside it; the gradient is the same.
    """

    def __init__(self, config: Config, *, generator: torch.Generator | None = None) -> None:
        """Draw the weights from `generator`, see `reset_parameters`."""
        super().__init__()
        self.config = config
        self.checkpointing = False
        self.wte = Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.ln_f = RMSNorm(config.d_model, config.rms_eps)
        self.ff_out = Linear(config.d_model, config.vocab_size)
        self.reset_parameters(generator)

    @classmethod
    def initialised(cls, config: Config, seed: int) -> "MaskedDiffusionLM":
        """Return a model whose weights depend on `seed` alone."""
        return cls(config, generator=torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew from `generator` (the global one if None).

        Normal: the embedding with deviation 1, a matrix with 1 / sqrt(its inputs), and the two of
        each block that write to the residual stream divided by sqrt(2 n_layers), so that the
        stream keeps the size of the embedding at any depth. Norms are one.
        """
        writes = 1 / math.sqrt(2 * self.config.n_layers)
        for name, weight in self.named_parameters():
            if weight.is_meta or "norm" in name or name.startswith("ln_f"):
                continue
            std = 1.0 if name.startswith("wte") else 1 / math.sqrt(weight.shape[1])
            inside = name.endswith(("attn_out.weight", "ff_out.weight")) and "blocks" in name
            weight.normal_(0.0, std * (writes if inside else 1.0), generator=generator)

    def forward(self, pack: Pack) -> Tensor:
        """Return each sequence's masked log-likelihood S, in nats.

        Args:
            pack: S sequences; see `core.vrpo.packing.pack`.

        Returns:
            `[S]`, float64 for a float64 model and float32 for others, each <= 0.

        Raises:
            ValueError: a sequence is longer than `max_length`, or a token is outside the
                vocabulary.
        """
        self._check(pack.tokens, pack.lengths, pack.targets)
        rows = self.hidden(pack.tokens, pack.lengths, pack.rows)
        logp = linear_logprob(rows, self.ff_out.weight, pack.targets)
        assert isinstance(logp, Tensor)  # a pair only where the log-sum is asked for
        return logp.new_zeros(len(pack.lengths)).index_add(0, pack.owner, logp)

    def logits(
        self, tokens: Tensor, lengths: tuple[int, ...], rows: Tensor | None = None
    ) -> Tensor:
        """Return the head's scores of every token, or of the places `rows` alone.

        Args:
            tokens: `[T]` int64, sequences end to end, mask tokens where unknown.
            lengths: of the sequences, summing to T.
            rows: `[N]` int64, places in `tokens`.

        Returns:
            `[T, V]` or `[N, V]`, in the model's dtype.

        Raises:
            ValueError: as in `forward`, or the lengths do not sum to T.
        """
        self._check(tokens, lengths)
        return self.ff_out(self.hidden(tokens, lengths, rows))

    def hidden(
        self, tokens: Tensor, lengths: tuple[int, ...], rows: Tensor | None = None
    ) -> Tensor:
        """Return what the head reads, `[T, D]`, or `[N, D]` at the places `rows` alone."""
        where = layout(lengths, tokens.device)
        x = self.wte(tokens if where.order is None else tokens[where.order])
        turn = rotary_tables(self.config, where.positions, max(lengths), x.dtype)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, where, turn, use_reentrant=False)
            else:
                x = block(x, where, turn)
        if where.inverse is not None:
            x = x[where.inverse if rows is None else where.inverse[rows]]
        elif rows is not None:
            x = x[rows]
        return self.ln_f(x)

    def _check(
        self, tokens: Tensor, lengths: tuple[int, ...], targets: Tensor | None = None
    ) -> None:
        """Refuse what the embedding would read beyond its end, or positions never trained."""
        V, longest = self.config.vocab_size, max(lengths, default=0)
        if tokens.ndim != 1 or sum(lengths) != len(tokens) or min(lengths, default=0) < 1:
            raise ValueError(
                "want tokens [T] and lengths >= 1 that sum to T, "
                f"got {list(tokens.shape)} and a sum of {sum(lengths)}"
            )
        if longest > self.config.max_length:
            raise ValueError(
                f"want sequences of at most max_length = {self.config.max_length} tokens, "
                f"got one of {longest}: cut the prompt or leave the sequence out"
            )
        both = (tokens,) if targets is None else (tokens, targets)
        ends = torch.stack(
            [end for x in both if len(x) for end in x.aminmax()]
        ).tolist()  # one wait
        if min(ends) < 0 or max(ends) >= V:
            raise ValueError(
                f"want tokens in [0, {V}), got {min(ends) if min(ends) < 0 else max(ends)}: "
                "is this the model's tokenizer?"
            )
