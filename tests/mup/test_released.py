"""Released checkpoints: against the authors' forward written out, and what is refused."""

import math
from argparse import Namespace

import numpy as np
import pytest
import torch
from torch.nn import LayerNorm
from torch.nn.functional import gelu, layer_norm, silu

from core.mup.dit import SharedDiT
from core.mup.released import convert, load_released

# width 12 over a base of 4: the factor of the readout is 1/3
D, HEADS, DEPTH, SIDE, P, C, OUT, LABELS = 12, 3, 2, 6, 2, 3, 6, 5
SIZES: dict = {"head_dim": 4, "base_width": 4}


def positions(width, side):
    """Fixed positions `[1, side^2, width]`: the column's sines and cosines, then the row's."""
    omega = 10_000.0 ** -(np.arange(width // 4) / (width / 4))
    rows = []
    for i in range(side):
        for j in range(side):
            parts = [f(at * omega) for at in (j, i) for f in (np.sin, np.cos)]
            rows.append(np.concatenate(parts))
    return torch.tensor(np.stack(rows), dtype=torch.float32)[None]


def checkpoint(seed=0):
    """What the authors' code saves of a small network, every tensor random but the positions."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}

    def put(name, *shape, bias=True):
        tensors[f"{name}.weight"] = torch.randn(shape, generator=generator, dtype=torch.float64)
        tensors[f"{name}.weight"] /= math.sqrt(np.prod(shape[1:]))
        if bias:
            tensors[f"{name}.bias"] = torch.randn(
                shape[0], generator=generator, dtype=torch.float64
            )

    put("x_embedder.proj", D, C, P, P)
    put("t_embedder.mlp.0", D, 256)
    put("t_embedder.mlp.2", D, D)
    put("y_embedder.embedding_table", LABELS + 1, D, bias=False)
    for n in range(DEPTH):
        put(f"blocks.{n}.attn.qkv", 3 * D, D)
        put(f"blocks.{n}.attn.proj", D, D)
        put(f"blocks.{n}.mlp.fc1", 4 * D, D)
        put(f"blocks.{n}.mlp.fc2", D, 4 * D)
        put(f"blocks.{n}.adaLN_modulation.1", 6 * D, D)
    put("final_layer.linear", P * P * OUT, D)
    put("final_layer.adaLN_modulation.1", 2 * D, D)
    tensors["pos_embed"] = positions(D, SIDE // P).double()
    return tensors


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(x, shift, scale):
    return layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


def attention(w, name, x):
    B, T, _ = x.shape
    q, k, v = linear(w, f"{name}.qkv", x).view(B, T, 3, HEADS, D // HEADS).unbind(2)
    weights = torch.einsum("bthd,bshd->bhts", q, k).div(math.sqrt(D // HEADS)).softmax(-1)
    mixed = torch.einsum("bhts,bshd->bthd", weights, v).reshape(B, T, D)
    return linear(w, f"{name}.proj", mixed)


def embedded(w, t, y):
    """Time and label `[B, D]`; angles in float32, as released."""
    frequency = torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float32) / 128)
    angle = t[:, None].float() * frequency
    time = torch.cat([angle.cos(), angle.sin()], -1).double()
    time = linear(w, "t_embedder.mlp.2", silu(linear(w, "t_embedder.mlp.0", time)))
    return time + w["y_embedder.embedding_table.weight"][y]


def forward(w, x_t, t, y, factor=1 / 3):
    """The released network, `factor` on what comes into the readout."""
    cells = [
        (slice(i, i + P), slice(j, j + P)) for i in range(0, SIDE, P) for j in range(0, SIDE, P)
    ]
    kernel = w["x_embedder.proj.weight"].flatten(1)
    x = torch.stack([x_t[:, :, i, j].flatten(1) @ kernel.T for i, j in cells], 1)
    x = x + w["x_embedder.proj.bias"] + w["pos_embed"]
    c = silu(embedded(w, t, y))
    for n in range(DEPTH):
        name = f"blocks.{n}"
        modulation = linear(w, f"{name}.adaLN_modulation.1", c).split(D, -1)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        x = x + gate1[:, None] * attention(w, f"{name}.attn", norm(x, shift1, scale1))
        inner = gelu(linear(w, f"{name}.mlp.fc1", norm(x, shift2, scale2)), approximate="tanh")
        x = x + gate2[:, None] * linear(w, f"{name}.mlp.fc2", inner)
    shift, scale = linear(w, "final_layer.adaLN_modulation.1", c).split(D, -1)
    tokens = linear(w, "final_layer.linear", factor * norm(x, shift, scale))
    image = torch.zeros(len(x_t), OUT, SIDE, SIDE, dtype=x.dtype)
    for token, (i, j) in enumerate(cells):
        image[:, :, i, j] = tokens[:, token].view(-1, P, P, OUT).permute(0, 3, 1, 2)
    return image


def asked():
    generator = torch.Generator().manual_seed(9)
    x_t = torch.randn(4, C, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return x_t, torch.tensor([0, 1, 300, 999]), torch.tensor([0, 4, 5, 2])


def as_saved(tmp_path, **changes):
    """A file as the authors' training script writes it."""
    settings = {"dim_heads": 4, "num_heads": HEADS, "logstd": 0, "mup": True, "depth": DEPTH}
    content = {
        "model": checkpoint(seed=1),
        "ema": checkpoint(),
        "opt": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 2**-10}]},
        "args": Namespace(**settings),
    }
    path = tmp_path / "0000003.pt"
    torch.save(content | changes, path)
    return path


def same(model, w, **kwargs):
    x_t, t, y = asked()
    with torch.no_grad():
        expected = forward(w, x_t, t, y, **kwargs)
        torch.testing.assert_close(model(x_t, t, y).sample, expected, rtol=0, atol=1e-6)
    return True


def test_the_converted_model_is_the_released_one():
    model = convert(checkpoint(), **SIZES)
    assert not model.training
    assert model.dtype == torch.float64
    assert same(model, checkpoint())


def test_every_norm_has_the_released_epsilon():
    """By outputs it could hardly be told: the positions alone have a variance of a half."""
    norms = [m for m in convert(checkpoint(), **SIZES).modules() if isinstance(m, LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    assert len(norms) == 2 * DEPTH + 1


def test_the_factor_is_in_the_weight_of_the_readout_and_not_in_its_bias():
    w = checkpoint()
    model = convert(w, **SIZES)
    torch.testing.assert_close(model.proj_out_2.weight, w["final_layer.linear.weight"] / 3)
    assert torch.equal(model.proj_out_2.bias, w["final_layer.linear.bias"])
    assert not torch.allclose(forward(w, *asked()), forward(w, *asked(), factor=1.0), atol=0.1)


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"head_dim": 4, "base_width": 4, "output_mult": 4.0}, 4 / 3),
        ({"head_dim": 4, "base_width": 12}, 1.0),
        ({"head_dim": 4, "base_width": 24}, 2.0),
    ],
)
def test_other_factors(settings, factor):
    assert same(convert(checkpoint(), **settings), checkpoint(), factor=factor)


def test_the_released_xl_is_read_with_its_quarter():
    """Sizes of `DiT-XL-2-muP`: 1152 over 288, 16 heads of 72."""
    width = 1152
    with torch.device("meta"):
        pattern = SharedDiT(num_layers=1, out_channels=8)
    small = {
        "final_layer.linear": (32, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
        "x_embedder.proj": (width, 4, 2, 2),
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "blocks.0.attn.qkv": (3 * width, width),
        "blocks.0.attn.proj": (width, width),
        "blocks.0.mlp.fc1": (4 * width, width),
        "blocks.0.mlp.fc2": (width, 4 * width),
        "blocks.0.adaLN_modulation.1": (6 * width, width),
    }
    w = {f"{name}.weight": torch.ones(shape) for name, shape in small.items()}
    w |= {f"{name}.bias": torch.ones(shape[0]) for name, shape in small.items()}
    w["y_embedder.embedding_table.weight"] = torch.ones(1001, width)
    w["pos_embed"] = positions(width, 16)
    model = convert(w)
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in pattern.named_parameters()
    }
    assert (model.proj_out_2.weight == 0.25).all()
    assert (model.proj_out_2.bias == 1).all()


def test_a_file_of_the_training_script_gives_the_average(tmp_path):
    path = as_saved(tmp_path)
    assert same(load_released(path, **SIZES), checkpoint())
    assert same(load_released(path, weights="model", **SIZES), checkpoint(seed=1))


def test_a_file_that_is_a_state_dict_is_read(tmp_path):
    torch.save(checkpoint(), tmp_path / "ema.pt")
    assert same(load_released(tmp_path / "ema.pt", **SIZES), checkpoint())


def test_it_goes_through_diffusers_checkpoint(tmp_path):
    convert(checkpoint(), **SIZES).save_pretrained(tmp_path)
    again = SharedDiT.from_pretrained(tmp_path, torch_dtype=torch.float64)
    assert same(again, checkpoint())


def test_the_plain_class_has_other_frequencies_of_time():
    """At t = 0 all frequencies agree; at t = 999 the plain class answers another question."""
    model = convert(checkpoint(), **SIZES)
    x_t, t, y = asked()
    with torch.no_grad():
        off = (model.plain()(x_t, t, y).sample - model(x_t, t, y).sample).abs().amax((1, 2, 3))
    assert off[0] < 1e-6
    assert off[3] > 0.01
    exponent = np.arange(128)
    angles = 999 * (10_000.0 ** (-exponent / 128) - 10_000.0 ** (-exponent / 127))
    assert angles.max() == pytest.approx(2.9, abs=0.05)  # as the module says


@pytest.mark.parametrize(
    "name",
    [
        "x_embedder.proj.weight",
        "t_embedder.mlp.0.bias",
        "blocks.1.attn.qkv.weight",
        "final_layer.linear.weight",
        "y_embedder.embedding_table.weight",
        "pos_embed",
    ],
)
def test_a_missing_tensor_is_named(name):
    w = checkpoint()
    del w[name]
    with pytest.raises(ValueError, match=f"lacks {name}"):
        convert(w, **SIZES)


@pytest.mark.parametrize("name", ["blocks.0.attn.q_norm.weight", "y_embedder.embedding_table.bias"])
def test_an_extra_tensor_is_named(name):
    with pytest.raises(ValueError, match=f"has {name}, which DiT has not"):
        convert(checkpoint() | {name: torch.zeros(D)}, **SIZES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.1.attn.qkv.weight", r"is \[36\], and of a DiT .* \[36, 12\]"),
        ("blocks.0.mlp.fc1.bias", r"is \[\], and of a DiT .* \[48\]"),
        ("x_embedder.proj.weight", "want 4 dimensions"),
    ],
)
def test_a_tensor_of_another_shape_is_named(name, message):
    w = checkpoint()
    w[name] = w[name].select(-1, 0)
    with pytest.raises(ValueError, match=f"{name} .*{message}"):
        convert(w, **SIZES)


def test_a_block_that_is_left_out_is_named():
    w = {name: t for name, t in checkpoint().items() if not name.startswith("blocks.0.")}
    with pytest.raises(ValueError, match=r"lacks blocks\.0\.adaLN_modulation\.1\.bias"):
        convert(w, **SIZES)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="12 is no multiple of head_dim=72"):
        convert(checkpoint())


def test_positions_of_another_layout_are_refused():
    w = checkpoint()
    w["pos_embed"] = w["pos_embed"].roll(1, dims=1)
    with pytest.raises(ValueError, match="pos_embed is off by up to"):
        convert(w, **SIZES)


def test_positions_of_no_square_are_refused():
    w = checkpoint()
    w["pos_embed"] = w["pos_embed"][:, :-1]
    with pytest.raises(ValueError, match="8 positions: want those of a square"):
        convert(w, **SIZES)


def test_half_precision_is_read():
    w = {name: tensor.bfloat16() for name, tensor in checkpoint().items()}
    assert convert(w, **SIZES).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim_heads": 2}, "head_dim=2, got 4"),
        ({"logstd": 2}, r"output_mult=4\.0, got 1\.0"),
        ({"mup": False, "num_heads": 3, "dim_heads": 4}, "base_width=12, got 4"),
    ],
)
def test_arguments_in_the_file_that_say_otherwise_are_not_overruled(tmp_path, settings, message):
    path = as_saved(tmp_path, args=Namespace(**settings))
    with pytest.raises(ValueError, match=message):
        load_released(path, **SIZES)


def test_weights_that_are_not_there_are_named(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"model": checkpoint()}, path)
    with pytest.raises(ValueError, match=r"holds model; want 'ema' among them"):
        load_released(path, **SIZES)


class Trap:
    """What would run code when read."""

    def __reduce__(self):
        return (exec, ("raise SystemExit",))


@pytest.mark.parametrize("content", [Trap(), [1, 2], {}], ids=["code", "list", "nothing"])
def test_another_file_is_refused_and_not_executed(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt (is no file of tensors|holds a)"):
        load_released(tmp_path / "x.pt")


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="is no file of tensors"):
        load_released(tmp_path / "x.pt")
