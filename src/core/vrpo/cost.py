r"""What a step of training costs: operations and bytes, before a GPU is rented.

Counted from the architecture: matrix products, attention, the head on masked rows alone; norms,
rotations and the optimizer's arithmetic are left out. A multiply-add is two operations.

Assumed of memory, as `core.vrpo.train` has it: what is trained is held in float32, or float64, as
weight, gradient and the two moments of AdamW, also where the model computes in bfloat16; what is
not trained, and the reference, in what it computes in. The bfloat16 copy of the trained weights is
one block's at a time, and left out. On several GPUs that share them, divide.

Symbols: T tokens of a sequence, L of its response, N parameters of the blocks' matrices, D width,
M width of the MLP, V rows of the head, n masks a response.
"""

from dataclasses import dataclass

import numpy as np

from core.vrpo.draws import Design, count_law
from core.vrpo.model import Config

LLADA_8B = Config(
    vocab_size=126_464, d_model=4096, n_layers=32, n_heads=32, mlp_hidden=12_288, mask_id=126_336
)
"""The sizes that costs depend on (arXiv:2505.19223v2, Table 3); a checkpoint brings its own."""


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
    reference_copy: bool = True
    """Whether the reference has weights of its own: not where it is the policy without adapters."""
    two_passes: bool = True
    """Whether sequences are scored first and run again, a few at a time, for the gradient."""
    trained: float = 1.0
    """Share of the parameters that is trained: below 1 with adapters, and then the head is not."""
    checkpointing: bool = False
    bytes_per_number: int = 2
    """Of what the model computes in: 2 for bfloat16, 4 for float32."""

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
    def products(self) -> tuple[float, float, float]:
        """Return a sequence's operations forward: blocks' matrices, attention, head."""
        c, T = self.config, self.prompt + self.response
        attention = 4 * c.n_layers * T**2 * c.n_heads * c.head_width
        return 2 * self.matrices * T, attention, 2 * c.d_model * c.vocab_size * self.masked

    @property
    def forward(self) -> float:
        """Return the operations of one sequence forward."""
        return sum(self.products)

    @property
    def gradient(self) -> float:
        """Return the operations of one sequence forward and backward.

        Backward, a matrix takes one product for the activations, and one for its weights where
        they are trained; attention takes two; checkpointing runs the blocks forward once more. A
        trained head takes its logits anew, four products in all, a frozen one two
        (`core.kernels.linear_logprob`).
        """
        matrices, attention, head = self.products
        again = self.checkpointing
        blocks = matrices * (2 + self.trained + again) + attention * (3 + again)
        return blocks + head * (4 if self.trained == 1 else 2)

    @property
    def pair(self) -> float:
        """Return the operations of a pair: 2 n sequences, forward, backward and the reference."""
        runs = self.forward * (self.two_passes + self.reference_passes)
        return 2 * self.design.n * (self.gradient + runs)

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
        """Return the bytes of a step, about: weights, gradients, AdamW, reference, activations.

        16 bytes for a parameter that is trained; see the module.

        Args:
            at_once: sequences that run forward and backward at once; all 2 n B without two passes.
        """
        trained = 4 * max(4, self.bytes_per_number)
        kept = 1 - self.trained + (self.reference_passes and self.reference_copy)
        each = self.trained * trained + kept * self.bytes_per_number
        return self.parameters * each + at_once * self.activations
