import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from worlds import TINY

from core.vrpo.cost import LLADA_8B, Cost
from core.vrpo.draws import Design, draw
from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.packing import pack

CONFIG = Config(
    vocab_size=50, d_model=32, n_layers=3, n_heads=4, n_kv_heads=2, mlp_hidden=80, mask_id=49
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
    cost = Cost(LLADA_8B, 1, 1, Design())
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


def test_the_operations_of_a_gradient_are_those_that_torch_counts():
    """Blocks and attention; the head's are of the fused kernel, which torch cannot count."""
    model = MaskedDiffusionLM.initialised(CONFIG, 0)
    batch, _ = packed(CONFIG)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.logits(batch.tokens, batch.lengths).sum().backward()
    cost = Cost(CONFIG, 5, 9, Design())
    head = 2 * CONFIG.d_model * CONFIG.vocab_size
    expected = 6 * (cost.gradient - 4 * head * cost.masked) + 3 * head * len(batch.tokens)
    assert counter.get_total_flops() == expected


# of CONFIG at 5 + 9 tokens, 5 masked on average, by hand: a block has 2 x 32 x 6 x 8 + 3 x 32 x 80
# = 10,752 numbers in matrices
MATRICES, ATTENTION, HEAD = 2 * 3 * 10_752 * 14, 4 * 3 * 14**2 * 32, 2 * 32 * 50 * 5
PARAMETERS = 3 * 10_752 + 2 * 50 * 32 + 7 * 32


def test_the_operations_of_a_pair_are_those_counted_by_hand():
    cost = Cost(CONFIG, 5, 9, Design(4, 2))
    forward = MATRICES + ATTENTION + HEAD
    assert cost.forward == pytest.approx(forward)
    full = 3 * MATRICES + 3 * ATTENTION + 4 * HEAD
    assert cost.pair == pytest.approx(16 * (full + 2 * forward))
    for changed, expected in (
        ({"two_passes": False}, full + forward),
        ({"reference_passes": False}, full + forward),
        ({"reference_copy": False}, full + 2 * forward),
        ({"checkpointing": True}, full + MATRICES + ATTENTION + 2 * forward),
        ({"trained": 0.25}, 2.25 * MATRICES + 3 * ATTENTION + 2 * HEAD + 2 * forward),
    ):
        assert dataclasses.replace(cost, **changed).pair == pytest.approx(16 * expected)


@pytest.mark.parametrize(
    ("changed", "each"),
    [
        ({}, 16 + 2),  # weight, gradient, two moments in float32; the reference in bfloat16
        ({"bytes_per_number": 4}, 16 + 4),
        ({"bytes_per_number": 8}, 32 + 8),
        ({"reference_passes": False}, 16),
        ({"reference_copy": False}, 16),
        ({"trained": 0.25}, 4 + 1.5 + 2),
        ({"trained": 0.25, "reference_copy": False}, 4 + 1.5),
    ],
)
def test_the_memory_of_a_step_is_that_counted_by_hand(changed, each):
    cost = Cost(CONFIG, 5, 9, Design(), **changed)
    activations = 3 * (8 * 32 + 4 * 80) * 14 * cost.bytes_per_number
    assert cost.memory(0) == pytest.approx(PARAMETERS * each)
    assert cost.memory(5) == pytest.approx(PARAMETERS * each + 5 * activations)


def test_the_bytes_of_adamw_are_those_that_it_holds():
    model = MaskedDiffusionLM.initialised(CONFIG, 0)
    optimizer = torch.optim.AdamW(model.parameters())
    model(packed(CONFIG)[0]).sum().backward()
    optimizer.step()
    state = [x for one in optimizer.state.values() for x in one.values() if x.ndim]
    held = [*model.parameters(), *(p.grad for p in model.parameters()), *state]
    cost = Cost(CONFIG, 5, 9, Design(), reference_passes=False, bytes_per_number=4)
    assert cost.memory(0) == sum(x.nbytes for x in held if x is not None)


def test_checkpointing_keeps_the_inputs_of_the_blocks_and_one_block():
    cost = Cost(CONFIG, 5, 9, Design(), checkpointing=True)
    assert cost.activations == 2 * 14 * (3 * 32 + 8 * 32 + 4 * 80)


def test_a_proposal_of_few_masks_spares_the_head():
    few = Cost(LLADA_8B, 10, 100, Design(8, proposal=(9.0, 1.0)))
    assert few.masked == pytest.approx(0.9 * 25.5 + 0.1 * 75.5)
    assert few.forward < Cost(LLADA_8B, 10, 100, Design(8)).forward
