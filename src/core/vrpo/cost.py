r"""What a step of training costs: operations and bytes, before a GPU is rented.

Counted from the architecture: matrix products, attention, the head on masked rows alone; norms,
rotations and the optimizer's arithmetic are left out. A multiply-add is two operations.

Symbols: T tokens of a sequence, L of its response, N parameters of the blocks' matrices, D width,
M width of the MLP, V rows of the head, n masks a response.
"""

from dataclasses import dataclass

import numpy as np

from core.vrpo.draws import Design, count_law
from core.vrpo.model import Config

LOGIT_BYTES = 4
"""Of one logit in float32, as a full-logits loss holds them."""


@dataclass(frozen=True)
class Cost:
    """What it takes to train on pairs of one size."""

    config: Config
    prompt: int
    """Tokens of the prompt."""
    response: int
    """Tokens of a response, L."""
    design: Design
    reference_passes: bool = True
    """False where the reference's scores are precomputed."""
    two_passes: bool = True
    """Whether sequences are scored first and run again, a few at a time, for the gradient."""
    trained: float = 1.0
    """Share of the parameters that is trained: far below 1 with adapters."""
    checkpointing: bool = False
    bytes_per_number: int = 2

    @property
    def matrices(self) -> int:
        """Return N."""
        c = self.config
        attention = 2 * c.d_model * (c.n_heads + c.kv_heads) * c.head_width
        return c.n_layers * (attention + 3 * c.d_model * c.mlp_hidden)

    @property
    def parameters(self) -> int:
        """Return all parameters: matrices, embedding, head, norms."""
        c = self.config
        return self.matrices + 2 * c.vocab_size * c.d_model + (2 * c.n_layers + 1) * c.d_model

    @property
    def masked(self) -> float:
        """Return the masked tokens of a sequence, on average: (L + 1) / 2 for uniform counts."""
        law = count_law(self.response, self.design.proposal)
        return float(law @ np.arange(1, self.response + 1))

    @property
    def forward(self) -> float:
        """Return the operations of one sequence forward."""
        c, T = self.config, self.prompt + self.response
        attention = 4 * c.n_layers * T**2 * c.n_heads * c.head_width
        return 2 * self.matrices * T + attention + 2 * c.d_model * c.vocab_size * self.masked

    @property
    def pair(self) -> float:
        """Return the operations of a pair: 2 n sequences, forward, backward and the reference."""
        # backward: gradients of activations, and of the weights that are trained
        run = 1 + 1 + self.trained + self.checkpointing
        return 2 * self.design.n * self.forward * (run + self.two_passes + self.reference_passes)

    @property
    def activations(self) -> float:
        """Return the bytes that one sequence keeps for its backward pass, about.

        Eight rows of width D and four of width M a token and block; with checkpointing the block's
        input alone, and all of one block.
        """
        c, T = self.config, self.prompt + self.response
        block = (8 * c.d_model + 4 * c.mlp_hidden) * T * self.bytes_per_number
        if self.checkpointing:
            return c.n_layers * T * c.d_model * self.bytes_per_number + block
        return c.n_layers * block

    def memory(self, at_once: int = 1) -> float:
        """Return the bytes of a step, about: weights, gradients, AdamW in float32, activations.

        Args:
            at_once: sequences that run forward and backward at once; all 2 n B without two passes.
        """
        weights = self.parameters * self.bytes_per_number
        state = self.trained * self.parameters * (self.bytes_per_number + 12)
        return weights + state + at_once * self.activations

    @property
    def logits_avoided(self) -> float:
        """Return the bytes of float32 logits of one sequence that the fused head never holds."""
        return (self.prompt + self.response) * self.config.vocab_size * LOGIT_BYTES
