import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from worlds import TINY

from core.vrpo.cost import Cost
from core.vrpo.draws import Design, draw
from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.packing import pack

CONFIG = Config(
    vocab_size=50, d_model=32, n_layers=3, n_heads=4, n_kv_heads=2, mlp_hidden=80, mask_id=49
)
LLADA = Config(
    vocab_size=126_464, d_model=4096, n_layers=32, n_heads=32, mlp_hidden=12_288, mask_id=126_336
)


def packed(config, P=5, L=9, n=6):
    masks = draw(Design(n), L, 1).masks
    x, y = torch.arange(P) % 40, torch.arange(L) % 40
    return pack([x] * n, [y] * n, list(masks), mask_id=config.mask_id), masks


def test_the_parameters_are_the_models():
    for config in (CONFIG, TINY):
        model = MaskedDiffusionLM.initialised(config, 0)
        expected = sum(p.numel() for p in model.parameters())
        assert Cost(config, 1, 1, Design()).parameters == expected


def test_llada_has_eight_billion():
    cost = Cost(LLADA, 1, 1, Design())
    assert cost.parameters == pytest.approx(8.02e9, rel=1e-3)
    assert cost.matrices == pytest.approx(6.98e9, rel=1e-3)


def test_the_operations_of_a_forward_pass_are_those_that_torch_counts():
    model = MaskedDiffusionLM.initialised(CONFIG, 0)
    batch, masks = packed(CONFIG)
    plain = sdpa_kernel(SDPBackend.MATH)  # the fused one is not counted
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        model.logits(batch.tokens, batch.lengths)
    cost = Cost(CONFIG, 5, 9, Design())
    head = 2 * CONFIG.d_model * CONFIG.vocab_size
    assert masks.any(1).all()
    # logits are of all tokens; the cost counts those of masked ones
    expected = 6 * (cost.forward - head * cost.masked) + head * len(batch.tokens)
    assert counter.get_total_flops() == expected


def test_the_activations_are_those_that_autograd_keeps():
    """Distinct storages among what the blocks save, but for the parameters."""
    model = MaskedDiffusionLM.initialised(dataclasses.replace(CONFIG, n_kv_heads=None), 0)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in own and x.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    batch, _ = packed(CONFIG)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = model(batch)  # noqa: F841, kept alive: freed storages would share addresses
    config = dataclasses.replace(CONFIG, n_kv_heads=None)
    expected = 6 * Cost(config, 5, 9, Design(), bytes_per_number=4).activations
    # left out: embedding, head, log-sum-exp of attention
    assert sum(kept.values()) == pytest.approx(expected, rel=0.25)


def test_two_passes_cost_one_forward_pass_more_and_the_memory_of_one_sequence():
    one = Cost(LLADA, 512, 512, Design(8), two_passes=False)
    two = dataclasses.replace(one, two_passes=True)
    assert two.pair / one.pair == pytest.approx(5 / 4)  # 3 forward and backward, 1 reference
    assert one.memory(at_once=16) - two.memory(at_once=1) == pytest.approx(15 * one.activations)


def test_precomputed_scores_and_adapters_save_what_they_should():
    full = Cost(LLADA, 512, 512, Design(8))
    assert dataclasses.replace(full, reference_passes=False).pair / full.pair == pytest.approx(
        4 / 5
    )
    assert dataclasses.replace(full, trained=0.01).memory() < 0.3 * full.memory()


def test_a_proposal_of_few_masks_spares_the_head():
    few = Cost(LLADA, 10, 100, Design(8, proposal=(9.0, 1.0)))
    assert few.masked == pytest.approx(0.9 * 25.5 + 0.1 * 75.5)
    assert few.forward < Cost(LLADA, 10, 100, Design(8)).forward
