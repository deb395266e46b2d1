"""U-ViT: against its formula written out, against published sizes, and what its skips do."""

import math

import pytest
import torch

from core.mup.uvit import UViT, sinusoids


def small(**changes):
    torch.manual_seed(0)
    settings = {
        "num_attention_heads": 3,
        "attention_head_dim": 4,
        "num_layers": 5,
        "in_channels": 2,
        "sample_size": 6,
        "patch_size": 2,
        "num_classes": 7,
    }
    return UViT(**settings | changes).double()


def images():
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(5, 2, 6, 6, generator=generator, dtype=torch.float64)
    return x_t, torch.tensor([0, 3, 500, 998, 999]), torch.tensor([0, 1, 6, 3, 3])


def norm(w, name, x):
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w, name, x):
    bias = w.get(f"{name}.bias", torch.zeros((), dtype=x.dtype))
    return torch.einsum("oi,...i->...o", w[f"{name}.weight"], x) + bias


def attention(w, name, x, heads):
    q, k, v = (linear(w, f"{name}.to_{part}", x) for part in "qkv")
    mixed = []
    for columns in torch.arange(x.shape[-1]).chunk(heads):
        logits = q[..., columns] @ k[..., columns].mT / math.sqrt(len(columns))
        mixed.append(logits.softmax(-1) @ v[..., columns])
    return linear(w, f"{name}.to_out", torch.cat(mixed, -1))


def block(w, name, x, heads, early=None):
    if early is not None:
        x = linear(w, f"{name}.skip", torch.cat([x, early], -1))
    x = x + attention(w, f"{name}.attn", norm(w, f"{name}.norm1", x), heads)
    inner = linear(w, f"{name}.ff.0", norm(w, f"{name}.norm2", x))
    inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
    return x + linear(w, f"{name}.ff.2", inner)


def written_out(w, x_t, t, y, heads=3, half=2, P=2):
    """The network from its weights, patch by patch."""
    B, C, S, _ = x_t.shape
    cells = [(slice(i, i + P), slice(j, j + P)) for i in range(0, S, P) for j in range(0, S, P)]
    kernel = w["patch_embed.weight"].flatten(1)
    patches = [x_t[:, :, i, j].flatten(1) @ kernel.T + w["patch_embed.bias"] for i, j in cells]
    time = sinusoids(t, kernel.shape[0]).double()
    x = torch.stack([time, w["class_embed.weight"][y], *patches], 1) + w["pos_embed"]
    early = []
    for i in range(half):
        x = block(w, f"in_blocks.{i}", x, heads)
        early.insert(0, x)
    x = block(w, "mid_block", x, heads)
    for i in range(half):
        x = block(w, f"out_blocks.{i}", x, heads, early[i])
    out = linear(w, "proj_out", norm(w, "norm_out", x))
    image = torch.zeros_like(x_t)
    for token, (i, j) in enumerate(cells, start=2):
        image[:, :, i, j] = out[:, token].view(B, C, P, P)
    return image


def test_the_network_is_its_formula():
    model, (x_t, t, y) = small(), images()
    with torch.no_grad():
        expected = written_out(model.state_dict(), x_t, t, y)
        torch.testing.assert_close(model(x_t, t, y), expected, rtol=1e-12, atol=1e-12)


def test_the_token_of_time_is_diffusers_sinusoid():
    from diffusers.models.embeddings import get_timestep_embedding

    t = torch.tensor([0, 1, 17, 999])
    theirs = get_timestep_embedding(t, 24, flip_sin_to_cos=True, downscale_freq_shift=0)
    # an angle up to 999 in float32 is off by up to 6e-5
    torch.testing.assert_close(sinusoids(t, 24), theirs, rtol=0, atol=2e-4)


PIXELS64 = {"sample_size": 64, "patch_size": 4, "num_classes": 1000}
LATENTS = {"sample_size": 32, "patch_size": 2, "in_channels": 4, "num_classes": 1001}


@pytest.mark.parametrize(
    ("size", "data", "millions"),
    [
        ((8, 64, 13), {}, 44),
        ((12, 64, 17), PIXELS64, 131),
        ((16, 64, 21), PIXELS64, 287),
        ((16, 72, 29), LATENTS, 501),
    ],
    ids=["S on CIFAR10", "M on ImageNet 64", "L on ImageNet 64", "H on ImageNet 256"],
)
def test_parameter_counts_are_those_published(size, data, millions):
    """arXiv:2209.12152, the table of configurations; of classes as the released code has them."""
    with torch.device("meta"):
        model = UViT(*size, **data)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions


@pytest.mark.parametrize("partner", [0, 1])
def test_each_skip_is_used(partner):
    model, (x_t, t, y) = small(), images()
    with torch.no_grad():
        before = model(x_t, t, y)
        skip = model.get_parameter(f"out_blocks.{partner}.skip.weight")
        skip[:, 12:] = 0  # the half that takes the early block
        assert (model(x_t, t, y) - before).abs().max() > 1e-3


def test_a_gradient_reaches_every_parameter():
    model, (x_t, t, y) = small(), images()
    model(x_t, t, y).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_time_and_class_change_what_is_predicted():
    model, (x_t, t, y) = small(), images()
    with torch.no_grad():
        before = model(x_t, t, y)
        assert (model(x_t, t + 1, y) - before).abs().amax((1, 2, 3)).min() > 1e-4
        assert (model(x_t, t, 6 - y) - before)[:3].abs().amax((1, 2, 3)).min() > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 4}, "odd number of blocks.*num_layers=4"),
        ({"num_layers": -1}, "odd number of blocks"),
        ({"patch_size": 4}, "patches of 4 pixels do not fill 6"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_one_block_has_no_skip_and_works():
    model, (x_t, t, y) = small(num_layers=1), images()
    assert model(x_t, t, y).shape == x_t.shape
    assert not any("skip" in name for name, _ in model.named_parameters())
