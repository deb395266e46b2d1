r"""The paper's autoregressive model (arXiv:2502.14583, Section 4.2, Definition 4.2).

    E = [V_Y[y]; V_X[x_1]; ..; V_X[x_{D-1}]],    v_j = sigmoid(A_j . E_j + b_j)
    p(x_d | x_<d, y) = softmax f(v_1, .., v_d, 0, .., 0),    f a ReLU network

All prefixes are contexts, numbered level by level: (M^D - 1) / (M - 1) of them. Their counts are
all that a likelihood needs, and the joint probabilities follow by the chain rule.

A source enters through one number only, v_1 = sigmoid(A_1 . V_Y[y] + b_1): of the d_e parameters
that the theory counts for it, one can be told from data.

Symbols here = there: `D` tokens, `M` values, `d_e` $d_e$, `L` layers, `W` width; `code_A`, `code_b`
$A_0$, $b_0$ of the encoding.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from core.checks import at_least
from core.multisource.bracketing import ArmFamily
from core.multisource.ensemble import Parameters, relu_layers, relu_network, size
from core.multisource.tree import Conditionals, prefixes


@dataclass(frozen=True)
class Arm:
    """The family; a `Network` of `ensemble`."""

    D: int
    M: int = 2
    d_e: int = 64
    L: int = 5
    W: int = 64
    gain: float = 1.0
    """Of the last layers' start: above one, a model drawn at random is far from uniform."""

    def __post_init__(self) -> None:
        """Refuse what is no network."""
        at_least(1, D=self.D, d_e=self.d_e, L=self.L, W=self.W)
        at_least(2, M=self.M)

    @cached_property
    def contexts(self) -> tuple[Tensor, Tensor]:
        """Tokens of all prefixes, `[C, D - 1]`, and which codes each sees, `[C, D]`."""
        parts = [self._level(d, 0, self.M**d) for d in range(self.D)]
        tokens, seen = (torch.cat(each) for each in zip(*parts, strict=True))
        return tokens, seen

    def draw(self, K: int, rng: np.random.Generator) -> Parameters:
        """Return one member of K sources: embeddings uniform on [0, 1], as the class has them."""
        scale = 2 * self.gain / math.sqrt(self.d_e)
        drawn = {
            "V_Y": torch.from_numpy(rng.uniform(size=(K, self.d_e))),
            "V_X": torch.from_numpy(rng.uniform(size=(self.M, self.d_e))),
            "code_A": torch.from_numpy(rng.normal(scale=scale, size=(self.D, self.d_e))),
            "code_b": torch.zeros(self.D, dtype=torch.float64),
        }
        layers = relu_layers([self.D, *[self.W] * (self.L - 1), self.M], rng)
        return drawn | {name: self.gain * p for name, p in layers.items()}

    def log_probs(self, parameters: Parameters) -> Tensor:
        """Return log p of the next token after all prefixes, `[E, K, C, M]`."""
        return self._after(parameters, *self.contexts)

    def project(self, parameters: Parameters) -> None:
        """Keep embeddings in [0, 1]."""
        parameters["V_X"].clamp_(0, 1)
        parameters["V_Y"].clamp_(0, 1)

    def family(self, parameters: Parameters) -> ArmFamily:
        """Return the class that these members belong to, with its constants."""
        S, B = size(parameters)
        B = max(B, float(parameters["code_A"].abs().max()), float(parameters["code_b"].abs().max()))
        return ArmFamily(L=self.L, W=self.W, S=S, B=B, D=self.D, M=self.M, d_e=self.d_e)

    def conditionals(self, parameters: Parameters) -> Conditionals:
        """Return all members and sources for `tree_tv`, E K of them, computed as they are asked."""

        @torch.no_grad()
        def after(d: int, start: int, stop: int) -> Tensor:
            return self._after(parameters, *self._level(d, start, stop)).exp().flatten(0, 1)

        return after

    def counts(self, counts: Tensor) -> Tensor:
        """Return how often each token followed each prefix, `[..., C, M]`.

        Args:
            counts: `[..., M^D]` of all sequences.
        """
        batch = counts.shape[:-1]
        levels = [counts.view(*batch, self.M**d, self.M, -1).sum(-1) for d in range(self.D)]
        return torch.cat(levels, dim=-2)

    def joint(self, log_probs: Tensor) -> Tensor:
        """Return the probabilities of all sequences, `[..., M^D]`, from those of all contexts."""
        p = log_probs.double().exp()
        found = p.new_ones(*p.shape[:-2], 1)
        for level in p.split([self.M**d for d in range(self.D)], dim=-2):
            found = (found[..., None] * level).flatten(-2)
        return found

    def _level(self, d: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return tokens `[R, D - 1]` and seen codes `[R, D]` of prefixes of length d."""
        tokens = torch.zeros(stop - start, self.D - 1, dtype=torch.int64)
        tokens[:, :d] = prefixes(d, start, stop, self.M)
        seen = (torch.arange(self.D) <= d).expand(stop - start, -1)
        return tokens, seen

    def _after(self, parameters: Parameters, tokens: Tensor, seen: Tensor) -> Tensor:
        """Return log p of the next token after given prefixes, `[E, K, R, M]`."""
        A, b = parameters["code_A"], parameters["code_b"]
        tokens, seen = tokens.to(A.device), seen.to(A)
        of_y = (parameters["V_Y"] @ A[:, 0, :, None]).squeeze(2) + b[:, :1]  # [E, K]
        of_x = parameters["V_X"] @ A[:, 1:].mT + b[:, None, 1:]  # [E, M, D - 1]
        v_x = of_x.sigmoid().gather(1, tokens.expand(len(A), -1, -1))  # [E, R, D - 1]
        v_y = of_y.sigmoid()[:, :, None, None].expand(-1, -1, len(tokens), 1)
        v = torch.cat([v_y, v_x[:, None].expand(-1, v_y.shape[1], -1, -1)], dim=3) * seen
        out = relu_network(parameters, v.flatten(1, 2))
        return out.view(*v.shape[:3], self.M).log_softmax(-1)
