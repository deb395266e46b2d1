"""The patched models against diffusers' own: outputs, all gradients, and what is refused."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import nn

from core.mup.dit import SharedDiT
from core.mup.patch import patch, unpatch

HEADS = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8}
DIT = HEADS | {"in_channels": 2, "num_embeds_ada_norm": 7, "norm_eps": 1e-5}
JOINT = HEADS | {
    "in_channels": 2,
    "out_channels": 2,
    "joint_attention_dim": 12,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 10,
    "pos_embed_max_size": 8,
}
PIXART = HEADS | {
    "in_channels": 2,
    "out_channels": 4,
    "cross_attention_dim": 16,
    "caption_channels": 12,
    "use_additional_conditions": False,
}
MODELS: dict[str, tuple[type, dict[str, Any]]] = {
    "dit": (DiTTransformer2DModel, DIT),
    "shared dit": (SharedDiT, DIT | {"class_dropout_prob": 0.5}),
    "pixart": (PixArtTransformer2DModel, PIXART),
    "sd3": (SD3Transformer2DModel, JOINT),
    "sd3.5": (
        SD3Transformer2DModel,
        JOINT | {"dual_attention_layers": (0,), "qk_norm": "rms_norm"},
    ),
}
any_model = pytest.mark.parametrize("name", MODELS)


def build(name, dtype=torch.float64, **settings):
    """A model none of whose parameters is zero, or a mistake in it would not show."""
    made, config = MODELS[name]
    torch.manual_seed(0)
    model = made(**config | settings).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model


def ask(model, dtype=torch.float64, seed=3):
    """The output for three images, an odd number of them."""
    g = torch.Generator().manual_seed(2)
    shapes = (3, 2, 8, 8), (3, 5, 12), (3, 10)
    x, text, pooled = (
        torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes
    )
    t = torch.tensor([1, 400, 999])
    torch.manual_seed(seed)  # of what it drops
    if isinstance(model, DiTTransformer2DModel):
        return model(x, t, torch.tensor([0, 3, 6])).sample
    if isinstance(model, SD3Transformer2DModel):
        return model(x, text, pooled, t).sample
    options = {"resolution": None, "aspect_ratio": None}
    return model(
        x,
        encoder_hidden_states=text,
        encoder_attention_mask=torch.tensor([[1, 1, 1, 1, 0], [1] * 5, [1, 1, 0, 0, 0]]),
        timestep=t,
        added_cond_kwargs=options,
    ).sample


def gradients(model, dtype=torch.float64):
    """Output, and the gradient of every parameter that has one."""
    out = ask(model, dtype)
    model.zero_grad()
    weights = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)
    (out.square() * weights).sum().backward()
    return out.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def check(found, wanted, tolerance):
    """Relative to the largest number of each tensor."""
    (out, here), (wanted_out, there) = found, wanted
    assert here.keys() == there.keys()
    for x, y in ((out, wanted_out), *((here[n], there[n]) for n in there)):
        assert (x - y).abs().max() <= tolerance * max(1, y.abs().max())


@any_model
@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_all_gradients_are_those_of_the_original(name, training):
    model = build(name, dropout=0.2) if "dit" in name else build(name)
    model.train(training)
    wanted = gradients(model)
    patched = patch(deepcopy(model))
    # 64 bits, some hundred operations deep; the bias of keys has gradients of 0, rounded to 1e-12
    check(gradients(patched), wanted, 1e-11)
    assert len(wanted[1]) > 20
    still = [n for n, g in wanted[1].items() if not g.any()]
    assert all("add_q" in n or "added_q" in n for n in still)  # of the last text, which is dropped


def flat(found):
    out, here = found
    return torch.cat([out.flatten(), *(here[n].flatten() for n in sorted(here))]).double()


@any_model
def test_in_float32_the_error_is_of_the_size_of_the_originals(name):
    model = build(name, torch.float32).eval()
    truth = flat(gradients(deepcopy(model).double()))
    lost = (flat(gradients(deepcopy(model), torch.float32)) - truth).norm()
    assert (flat(gradients(patch(model), torch.float32)) - truth).norm() <= 3 * lost


@any_model
def test_with_gradient_checkpointing(name):
    model = build(name).train()
    wanted = gradients(model)
    patch(model)
    model.enable_gradient_checkpointing()
    check(gradients(model), wanted, 1e-11)


@any_model
def test_the_kernel_is_what_runs(name, monkeypatch):
    """Twice a block of an image's tokens, and of a text's."""
    import core.mup.patch as module

    calls, adaln = [], module.adaln

    def counted(*args, **options):
        calls.append("branch" in options)
        return adaln(*args, **options)

    monkeypatch.setattr(module, "adaln", counted)
    ask(patch(build(name).eval()))
    # SD3: the last block's text has a first norm only, as the whole model has a last one
    alone = {"sd3": 2 + 2 + 1, "sd3.5": 2 + 2 + 1 + 1}.get(name, 2)
    fused = 3 if "sd3" in name else 2
    assert (calls.count(False), calls.count(True)) == (alone, fused)


@any_model
def test_the_norms_of_the_blocks_are_not_computed_twice(name):
    model = patch(build(name).eval())
    heard = []
    for part, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) and "transformer_blocks" in part:
            module.register_forward_hook(lambda m, i, o, part=part: heard.append(part))
    ask(model)
    assert not heard


@any_model
def test_a_state_dict_fits_both_ways_and_a_patch_can_be_taken_back(name, tmp_path):
    model = build(name).eval()
    before, names = ask(model), list(model.state_dict())
    classes = [type(module) for module in model.modules()]
    patch(model)
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, torch_dtype=torch.float64)
    torch.testing.assert_close(ask(again), before, rtol=0, atol=1e-11)
    assert [type(module) for module in unpatch(model).modules()] == classes
    torch.testing.assert_close(ask(model), before, rtol=0, atol=1e-11)
    assert [type(module) for module in unpatch(model).modules()] == classes


def test_a_copy_of_a_patched_model_has_weights_of_its_own():
    model = patch(build("dit").eval())
    copy, before = deepcopy(model), ask(model)
    with torch.no_grad():
        for p in copy.parameters():
            p.zero_()
    assert torch.equal(ask(model), before)
    assert not ask(copy).any()


def test_a_feed_forward_layer_in_chunks():
    model = build("dit").eval()
    wanted = gradients(model)
    for block in patch(model).transformer_blocks:
        block.set_chunk_feed_forward(4, dim=1)
    check(gradients(model), wanted, 1e-11)


# --- what is refused --------------------------------------------------------------------------


def block(**settings):
    made: dict[str, Any] = {"norm_type": "ada_norm_zero", "num_embeds_ada_norm": 7}
    made |= {"norm_elementwise_affine": False}
    return BasicTransformerBlock(16, 2, 8, **made | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm_type": "layer_norm"}, "want norm_type among ada_norm_zero, .* got 'layer_norm'"),
        ({"norm_elementwise_affine": True}, "want norm3 as a LayerNorm without weight and bias"),
        ({"cross_attention_dim": 5}, "ada_norm_zero without cross-attention, got attn2"),
        (
            {"positional_embeddings": "sinusoidal", "num_positional_embeddings": 4},
            "without pos_embed",
        ),
        ({"attention_type": "gated", "cross_attention_dim": 5}, "want a block without fuser"),
        (
            {"norm_type": "ada_norm_single", "only_cross_attention": True},
            "got only_cross_attention",
        ),
    ],
    ids=str,
)
def test_a_block_that_is_not_known_is_refused_by_name_and_nothing_is_changed(settings, message):
    model = nn.Sequential(block(), block(**settings))
    with pytest.raises(ValueError, match=rf"^1, BasicTransformerBlock: .*{message}"):
        patch(model)
    assert type(model[0]) is BasicTransformerBlock


def test_a_model_without_such_blocks_is_refused_and_so_is_a_patched_one():
    with pytest.raises(
        ValueError, match="blocks of DiT, PixArt or SD3, got Linear, which has none"
    ):
        patch(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="or is patched already"):
        patch(patch(nn.Sequential(block())))
