"""The model against a forward written from the formulas, in numpy, one sequence at a time."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.vrpo._attention import rotary_tables
from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.packing import Pack, pack

TINY = Config(vocab_size=13, d_model=16, n_layers=2, n_heads=4, mlp_hidden=24, mask_id=12)
GROUPED = Config(
    vocab_size=13, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, mlp_hidden=24, mask_id=12
)
SHAPES = [(3, 5), (0, 2), (4, 4), (7, 1), (1, 7)]


def tiny(config=TINY, seed=0):
    model = MaskedDiffusionLM.initialised(config, seed).double()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():  # norms away from one, or a missing weight would not show
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.copy_(0.5 + torch.rand(weight.shape, generator=generator))
    return model


def a_pack(shapes=SHAPES, seed=0, mask_id=12):
    generator = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(0, 12, (P,), generator=generator) for P, _ in shapes]
    responses = [torch.randint(0, 12, (L,), generator=generator) for _, L in shapes]
    masks = [torch.rand(L, generator=generator) < 0.5 for _, L in shapes]
    for mask in masks:
        mask[-1] = True
    return pack(prompts, responses, masks, mask_id=mask_id)


def gradients(model, loss):
    """The gradient of `loss`, parameter by parameter."""
    return torch.autograd.grad(loss, list(model.parameters()))


def split(found: Pack):
    """The pack's sequences, each a pack of its own."""
    ends = np.cumsum(found.lengths)
    for s, (end, length) in enumerate(zip(ends, found.lengths, strict=True)):
        mine = found.owner == s
        yield Pack(
            found.tokens[end - length : end],
            (length,),
            found.rows[mine] - int(end - length),
            found.targets[mine],
            torch.zeros(int(mine.sum()), dtype=torch.long),
        )


def norm(x, weight, eps):
    return weight * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def turned(x, theta):
    """Rotary positions as complex numbers: pair i of place t times exp(i t theta^(-2i/Dh))."""
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None] * theta ** (-np.arange(half) / half)
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)[:, None]
    return np.concatenate([z.real, z.imag], -1)


def formula(model, tokens):
    """Log-probabilities `[L, V]` of one sequence, float64, from the formulas."""
    c = model.config
    w = {name: weight.detach().double().numpy() for name, weight in model.named_parameters()}
    x = w["wte.weight"][tokens.numpy()]
    for n in range(c.n_layers):
        b = {k.removeprefix(f"blocks.{n}."): v for k, v in w.items() if f"blocks.{n}." in k}
        h = norm(x, b["attn_norm.weight"], c.rms_eps)
        heads = []
        q, k, v = (
            (h @ b[f"{name}_proj.weight"].T).reshape(len(h), -1, c.head_width) for name in "qkv"
        )
        q, k = turned(q, c.rope_theta), turned(k, c.rope_theta)
        for head in range(c.n_heads):
            serves = head // (c.n_heads // c.kv_heads)
            score = np.exp(q[:, head] @ k[:, serves].T / math.sqrt(c.head_width))
            heads.append(score / score.sum(-1, keepdims=True) @ v[:, serves])
        x = x + np.concatenate(heads, -1) @ b["attn_out.weight"].T
        h = norm(x, b["ff_norm.weight"], c.rms_eps)
        gate = h @ b["ff_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ b["up_proj.weight"].T)) @ b["ff_out.weight"].T
    logits = norm(x, w["ln_f.weight"], c.rms_eps) @ w["ff_out.weight"].T
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("config", [TINY, GROUPED])
@pytest.mark.parametrize("shapes", [SHAPES, [(3, 4)] * 3, [(0, 1)]])
def test_the_model_is_the_formulas(config, shapes):
    """Float64 on both sides: 1e-12 is a thousand roundings of numbers of size one."""
    model, found = tiny(config), a_pack(shapes)
    S = model(found).detach()
    for s, one in enumerate(split(found)):
        logp = formula(model, one.tokens)
        literal = sum(logp[r, t] for r, t in zip(one.rows, one.targets, strict=True))
        assert abs(float(S[s]) - literal) < 1e-12 * (1 + abs(literal))
        logits = model.logits(one.tokens, one.lengths).detach().log_softmax(-1).numpy()
        assert np.abs(logits - logp).max() < 1e-12


def test_a_sequence_does_not_depend_on_its_pack():
    """Also a wrong order would show, for no two sequences are equal."""
    model, found = tiny(), a_pack()
    alone = torch.cat([model(one) for one in split(found)])
    assert (model(found) - alone).abs().max() < 1e-12


def test_gradients_do_not_depend_on_the_pack():
    model, found = tiny(), a_pack()
    coefficient = torch.linspace(-1, 2, len(found.lengths), dtype=torch.float64)
    packed = gradients(model, (coefficient * model(found)).sum())
    terms = [c * model(one) for c, one in zip(coefficient, split(found), strict=True)]
    alone = gradients(model, torch.cat(terms).sum())
    for a, b in zip(packed, alone, strict=True):
        assert (a - b).abs().max() < 1e-11  # sums of some hundred terms of size one


def test_attention_looks_both_ways():
    """The first place's distribution depends on the last token, and on the first."""
    model = tiny()
    tokens = torch.tensor([1, 12, 3, 4])
    base = model.logits(tokens, (4,), torch.tensor([1]))
    for place in (0, 3):
        other = tokens.clone()
        other[place] = 7
        assert (model.logits(other, (4,), torch.tensor([1])) - base).abs().max() > 1e-3


def test_logits_at_rows_are_those_of_all_places():
    model, found = tiny(), a_pack()
    every = model.logits(found.tokens, found.lengths)
    some = model.logits(found.tokens, found.lengths, found.rows)
    assert (every[found.rows] - some).abs().max() < 1e-13


def test_recomputed_blocks_give_the_same_value_and_gradient():
    model, found = tiny(), a_pack()
    kept = model(found)
    grads = gradients(model, kept.sum())
    model.checkpointing = True
    again = model(found)
    assert torch.equal(kept, again)  # the same operations in the same order
    pairs = zip(gradients(model, again.sum()), grads, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_recomputed_blocks_keep_less():
    """Counts what autograd saves: with checkpoints a block keeps its input alone."""

    def saved(checkpointing):
        model = tiny()
        model.checkpointing = checkpointing
        count = 0

        def keep(x):
            nonlocal count
            count += x.numel() if not isinstance(x, torch.nn.Parameter) else 0
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            model(a_pack())
        return count

    assert saved(True) < 0.5 * saved(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes_are_near_float64(dtype):
    """Every operation rounds to `dtype`; some thirty in a row on terms of size one, and N terms."""
    model, found = tiny(), a_pack()
    truth = model(found)
    rounded = model.to(dtype)(found)
    assert rounded.dtype == torch.float32
    many = torch.bincount(found.owner).max().item()
    assert (rounded - truth).abs().max() < 30 * torch.finfo(dtype).eps * many
    assert (rounded - truth).abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_norm_of_half_types_is_rounded_once_before_the_weight(dtype):
    """Bit by bit as LLaDA's: x / rms in float32, rounded, times the weight; 300^2 is no float16."""
    norm = tiny().to(dtype).ln_f
    x = (300 * torch.randn(50, 16, generator=torch.Generator().manual_seed(0))).to(dtype)
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps)
    assert torch.equal(norm(x), norm.weight * scaled.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_angles_are_told_in_full_precision(dtype):
    """Half types take float32 tables; the angle itself, up to 4000, never goes below float64."""
    positions = torch.tensor([0, 1, 37, 3999])
    cos, sin = rotary_tables(TINY, positions, 4000, dtype)
    allowed = 1e-12 if dtype == torch.float64 else 6e-8  # half a unit in the last place of one
    for at, t in enumerate(positions.tolist()):
        for i in range(2):
            angle = t * 10_000.0 ** (-2 * i / 4)
            assert abs(cos[at, 0, i].item() - math.cos(angle)) < allowed
            assert abs(sin[at, 0, i + 2].item() - math.sin(angle)) < allowed


@pytest.mark.parametrize("config", [TINY, GROUPED])
def test_attention_of_variable_lengths_is_handed_the_right_bounds(monkeypatch, config):
    """It runs on a GPU alone; here a literal one stands for it, and the model must not change."""

    def literal(q, k, v, starts, _, longest_q, longest_k, enable_gqa=False):
        assert starts.dtype == torch.int32
        assert longest_q == longest_k == 8
        assert enable_gqa == (config is GROUPED)
        parts = []
        for start, end in pairwise(starts.tolist()):
            one = (x[start:end].transpose(0, 1) for x in (q, k, v))
            parts.append(F.scaled_dot_product_attention(*one, enable_gqa=enable_gqa))
        return torch.cat([part.transpose(0, 1) for part in parts])

    model, found = tiny(config), a_pack()
    truth = model(found)
    monkeypatch.setattr("core.vrpo._attention._flash_takes", lambda _: True)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", literal)
    assert (model(found) - truth).abs().max() < 1e-12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shapes", [SHAPES, [(3, 5)] * 4])
def test_on_a_gpu_the_model_is_near_float64(dtype, shapes):
    """Rounding as on a CPU; float32 may be multiplied as tf32 where that is asked for."""
    config = Config(vocab_size=13, d_model=64, n_layers=2, n_heads=4, mlp_hidden=64, mask_id=12)
    model, found = tiny(config), a_pack(shapes)
    truth = model(found)
    rounded = copy.deepcopy(model).to("cuda", dtype)(found.to("cuda"))
    many = torch.bincount(found.owner).max().item()
    assert (rounded.cpu() - truth).abs().max() < 60 * torch.finfo(dtype).eps * many


def test_a_seed_makes_the_model():
    one, same, other = (MaskedDiffusionLM.initialised(TINY, seed) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.wte.weight, other.wte.weight)
    before = torch.random.get_rng_state()
    MaskedDiffusionLM.initialised(TINY, 7)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_stream_keeps_its_size_at_any_depth():
    """At the start its mean square is about doubled by 2 n_layers writes of 1 / (2 n_layers)."""
    for n_layers in (1, 12):
        config = Config(30, 64, n_layers, 4, 128, mask_id=29)
        model = MaskedDiffusionLM.initialised(config, 0)
        seen = []
        model.ln_f.register_forward_pre_hook(lambda _, x: seen.append(x[0]))  # noqa: B023
        model.logits(torch.randint(0, 30, (64,)), (32, 32))
        assert 0.8 < seen[0].square().mean() < 3


def test_a_deep_copy_is_an_independent_model():
    """Reference models are made so."""
    model, found = tiny(), a_pack()
    reference = copy.deepcopy(model)
    with torch.no_grad():
        model.wte.weight.add_(1.0)
    assert (reference(found) - model(found)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("tokens", "lengths", "message"),
    [
        ([1, 13], (2,), r"want tokens in \[0, 13\), got 13"),
        ([1, -1], (2,), r"want tokens in \[0, 13\), got -1"),
        ([1, 2, 3], (2,), "lengths >= 1 that sum to T"),
        ([1, 2], (2, 0), "lengths >= 1 that sum to T"),
        ([], (), "lengths >= 1 that sum to T"),
        ([1] * 5000, (5000,), "at most max_length = 4096 tokens, got one of 5000"),
    ],
)
def test_what_the_model_cannot_read_is_refused(tokens, lengths, message):
    with pytest.raises(ValueError, match=message):
        tiny().logits(torch.tensor(tokens, dtype=torch.long), lengths)


def test_a_target_outside_the_vocabulary_is_refused():
    found = pack([torch.tensor([1])], [torch.tensor([13])], [torch.tensor([True])], mask_id=12)
    with pytest.raises(ValueError, match=r"want tokens in \[0, 13\), got 13"):
        tiny()(found)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_layers": 0}, "want n_layers > 0"),
        ({"rms_eps": 0.0}, "want rms_eps > 0"),
        ({"n_heads": 3}, "even integer"),
        ({"n_heads": 16}, "even integer"),
        ({"n_kv_heads": 3}, "n_kv_heads to divide n_heads"),
        ({"n_kv_heads": 0}, "n_kv_heads to divide n_heads"),
        ({"mask_id": 13}, "want the mask token among the 13 rows"),
        ({"eos_id": 13}, r"want eos_id in \[0, 13\) or None"),
    ],
)
def test_a_size_that_cannot_be_is_refused(changed, message):
    sizes = {"vocab_size": 13, "d_model": 16, "n_layers": 2, "n_heads": 4, "mlp_hidden": 24}
    with pytest.raises(ValueError, match=message):
        Config(**{**sizes, "mask_id": 12, **changed})
