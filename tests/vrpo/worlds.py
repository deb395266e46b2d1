"""Small worlds that several tests look into: a model, a pair of responses, a reference."""

import torch

from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.pairs import pair_terms
from core.vrpo.preferences import Preference

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


def terms_of_a_pair(L, seed=0):
    """Its terms under two models."""
    x, (w, l) = pair(L, seed)
    return pair_terms(tiny_model(1), tiny_model(2), [Preference(x, w, l, 0)])


def brute_force(model, x, y, mask):
    """S(m) by a forward pass over one sequence and torch's own log-softmax."""
    tokens = torch.cat([x, torch.where(mask, MASK, y)])
    logp = torch.log_softmax(model.logits(tokens, (len(tokens),)), dim=-1)[len(x) :]
    return float(logp[torch.arange(len(y)), y][mask].sum().detach())
