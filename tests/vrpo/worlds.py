"""Small worlds that several tests look into: a model, a pair of responses, a reference."""

import numpy as np
import torch

from core.vrpo.exact import masked_sums, terms
from core.vrpo.model import Config, MaskedDiffusionLM

MASK = 7
TINY = Config(vocab_size=8, d_model=8, n_layers=1, n_heads=2, mlp_hidden=12, mask_id=MASK)


def tiny_model(seed=0):
    """In float64, with weights large enough that its probabilities are far from equal."""
    model = MaskedDiffusionLM.initialised(TINY, seed).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(15)
    return model


def pair(L, seed=0, P=2):
    """A prompt, a chosen and a rejected response of L tokens."""
    generator = torch.Generator().manual_seed(seed)
    x, w, l = (torch.randint(0, MASK, (n,), generator=generator) for n in (P, L, L))
    return x, (w, l)


def pair_terms(L, seed=0):
    """Terms `[M]` of policy and reference, chosen and rejected, under two models."""
    x, responses = pair(L, seed)
    found = []
    for model in (tiny_model(1), tiny_model(2)):
        sums = masked_sums(model, [x, x], list(responses))
        found.append(tuple(terms(sums)))
    return found[0], found[1]


def brute_force(model, x, y, mask):
    """S(m) by a forward pass over one sequence and torch's own log-softmax."""
    tokens = torch.cat([x, torch.where(mask, MASK, y)])
    logp = torch.log_softmax(model.logits(tokens, (len(tokens),)), dim=-1)[len(x) :]
    return float(logp[torch.arange(len(y)), y][mask].sum().detach())


def mixed(values, seed=0):
    """Values of any size in any order."""
    return np.random.default_rng(seed).permutation(values)
