"""Adapters: the reference inside the policy, what is trained, what is saved."""

import copy

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from core.vrpo.lora import MATRICES, with_lora
from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.packing import pack

SIZE = Config(vocab_size=13, d_model=16, n_layers=2, n_heads=4, mlp_hidden=24, mask_id=12)


def a_pack():
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(0, 12, (P,), generator=generator) for P in (3, 0, 4)]
    responses = [torch.randint(0, 12, (L,), generator=generator) for L in (5, 2, 4)]
    masks = [torch.arange(len(r)) % 2 == 0 for r in responses]
    return pack(prompts, responses, masks, mask_id=12)


def adapted(dtype=torch.float64, **options):
    model = MaskedDiffusionLM.initialised(SIZE, 0).to(dtype)
    return model, with_lora(model, rank=2, **options)


def trained(policy, steps=3):
    """Some steps of plain descent, so that policy and reference differ."""
    parameters = [weight for weight in policy.parameters() if weight.requires_grad]
    for _ in range(steps):
        grads = torch.autograd.grad(-policy(a_pack()).sum(), parameters)
        with torch.no_grad():
            for weight, grad in zip(parameters, grads, strict=True):
                weight.sub_(0.02 * grad)
    return policy


@torch.no_grad()
def score(model):
    return model(a_pack())


def test_the_policy_starts_at_the_reference():
    reference = score(MaskedDiffusionLM.initialised(SIZE, 0).double())
    assert torch.equal(score(adapted()[1]), reference)


def test_with_adapters_off_the_policy_is_the_reference_bit_by_bit():
    reference = score(MaskedDiffusionLM.initialised(SIZE, 0).double())
    policy = trained(adapted()[1])
    assert (score(policy) - reference).abs().max() > 1e-2
    with policy.disable_adapter():
        assert torch.equal(score(policy), reference)


def test_the_policy_is_the_model_with_the_products_added():
    """W + (alpha / rank) B A by hand, read off the parameters by their names."""
    policy = trained(adapted(alpha=5)[1])
    plain = MaskedDiffusionLM.initialised(SIZE, 0).double()
    found = dict(policy.named_parameters())
    with torch.no_grad():
        for n in range(2):
            for name in MATRICES:
                at = f"base_model.model.blocks.{n}.{name}.lora_"
                product = found[f"{at}B.default.weight"] @ found[f"{at}A.default.weight"]
                plain.get_parameter(f"blocks.{n}.{name}.weight").add_(5 / 2 * product)
    assert (score(policy) - score(plain)).abs().max() < 1e-12


def test_only_adapters_of_the_blocks_are_trained():
    model, policy = adapted()
    wanted = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert all(".blocks." in name and ".lora_" in name for name in wanted)
    assert len(wanted) == 2 * 2 * len(MATRICES)
    assert not model.ff_out.weight.requires_grad
    before = copy.deepcopy(model.ff_out.weight), copy.deepcopy(model.wte.weight)
    trained(policy)
    assert torch.equal(model.ff_out.weight, before[0])
    assert torch.equal(model.wte.weight, before[1])


def test_fewer_matrices_may_be_chosen():
    _, policy = adapted(matrices=("q_proj", "v_proj"))
    wanted = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert len(wanted) == 2 * 2 * 2
    assert all("q_proj" in name or "v_proj" in name for name in wanted)


def test_recomputed_blocks_give_the_adapters_the_same_gradient():
    """The frozen embedding hands the first block an input without gradient."""
    model, policy = adapted()
    trained(policy, steps=1)
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    kept = torch.autograd.grad(policy(a_pack()).sum(), weights)
    model.checkpointing = True
    again = torch.autograd.grad(policy(a_pack()).sum(), weights)
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
    assert max(grad.abs().max() for grad in kept) > 1e-2


def test_adapters_are_saved_alone_and_put_on_again(tmp_path):
    policy = trained(adapted()[1])
    policy.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert len(stored) == 2 * 2 * len(MATRICES)
    base = MaskedDiffusionLM.initialised(SIZE, 0).double()
    again = PeftModel.from_pretrained(base, tmp_path)  # type: ignore[arg-type]
    assert torch.equal(score(again), score(policy))


def test_merged_adapters_leave_a_plain_model():
    policy = trained(adapted()[1])
    truth = score(policy)
    merged = policy.merge_and_unload()
    assert isinstance(merged, MaskedDiffusionLM)
    assert {name for name, _ in merged.named_parameters()} == {
        name for name, _ in MaskedDiffusionLM.initialised(SIZE, 0).named_parameters()
    }
    assert (score(merged) - truth).abs().max() < 1e-12


def test_adapters_of_a_half_model_are_float32_and_seeded():
    before = torch.random.get_rng_state()
    one, two = (adapted(torch.bfloat16, seed=4)[1] for _ in range(2))
    other = adapted(torch.bfloat16, seed=5)[1]
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [[w for w in policy.parameters() if w.requires_grad] for policy in (one, two, other)]
    assert {weight.dtype for weight in weights[0]} == {torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not torch.equal(weights[0][0], weights[2][0])
    assert score(one).dtype == torch.float32


@pytest.mark.parametrize("options", [{"rank": 0}, {"matrices": ("lm_head",)}, {"matrices": ()}])
def test_adapters_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match="want rank >= 1 and matrices among q_proj"):
        with_lora(MaskedDiffusionLM.initialised(SIZE, 0), **options)
