"""SharedDiT: its published size, outputs equal to diffusers' class, embedders that stay shared."""

import json
from copy import deepcopy

import pytest
import torch
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

from core.mup import plan
from core.mup.dit import SharedDiT
from core.mup.uvit import sinusoids

SMALL: dict = {
    "num_attention_heads": 3,
    "attention_head_dim": 4,
    "in_channels": 2,
    "num_layers": 3,
    "sample_size": 4,
    "num_embeds_ada_norm": 7,
}
FIRST = "transformer_blocks.0.norm1.emb."


def small(**changes):
    torch.manual_seed(0)
    return SharedDiT(**SMALL | changes).eval()


def ask(model, batch=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 2, 4, 4, generator=generator)
    t = torch.randint(1000, (batch,), generator=generator)
    y = torch.randint(7, (batch,), generator=generator)
    return model(x, t, y).sample


def embedders(model):
    return {id(block.get_submodule("norm1.emb")) for block in model.transformer_blocks}


def gradient(parameter):
    assert parameter.grad is not None
    return parameter.grad


def millions(model_class, **config):
    with torch.device("meta"):
        model = model_class(**config)
    return sum(p.numel() for p in model.parameters()) / 1e6


def test_xl_2_has_the_published_size_and_diffusers_class_has_not():
    """675M: arXiv:2212.09748v2, Table 1."""
    assert millions(SharedDiT, out_channels=8) == pytest.approx(674.8, abs=0.05)
    assert millions(DiTTransformer2DModel, out_channels=8) == pytest.approx(749.8, abs=0.05)


@pytest.mark.parametrize(
    ("heads", "blocks", "published"), [(6, 12, 33), (12, 12, 130), (16, 24, 458)], ids="SBL"
)
def test_smaller_models_have_the_published_sizes(heads, blocks, published):
    count = millions(
        SharedDiT,
        num_attention_heads=heads,
        attention_head_dim=64,
        num_layers=blocks,
        out_channels=8,
    )
    assert round(count) == published


def test_each_shared_tensor_has_one_name_the_first_blocks():
    named = dict(small().named_parameters())
    found = [name for name in named if ".emb." in name]
    assert len(found) == 5
    assert all(name.startswith(FIRST) for name in found)


def test_diffusers_reads_what_it_saves_with_equal_outputs(tmp_path):
    model = small()
    model.save_pretrained(tmp_path)
    plain = DiTTransformer2DModel.from_pretrained(tmp_path)
    assert type(plain) is DiTTransformer2DModel
    assert torch.equal(ask(plain), ask(model))
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == type(plain).__name__
    assert len(embedders(plain)) == 3


def test_it_reads_its_own_checkpoint_and_shares(tmp_path):
    model = small()
    model.save_pretrained(tmp_path)
    again = SharedDiT.from_pretrained(tmp_path)
    assert len(embedders(again)) == 1
    assert not again.training
    assert torch.equal(ask(again), ask(model))
    assert dict(again.config) == dict(model.config)


def test_what_only_it_knows_is_saved_too(tmp_path):
    model = small(freq_shift=0, class_dropout_prob=0.25, norm_eps=1e-6)
    model.save_pretrained(tmp_path)
    again = SharedDiT.from_pretrained(tmp_path)
    assert again.config["freq_shift"] == 0
    assert again.config["class_dropout_prob"] == 0.25
    assert again.config["norm_eps"] == 1e-6
    assert torch.equal(ask(again), ask(model))


def test_embedders_that_differ_are_refused_by_name(tmp_path):
    torch.manual_seed(0)
    plain = DiTTransformer2DModel(**SMALL)
    plain.save_pretrained(tmp_path)
    message = r"transformer_blocks\.1\.norm1\.emb\.\S+ differs from the first block's"
    with pytest.raises(ValueError, match=message):
        SharedDiT.from_pretrained(tmp_path)


def test_one_label_of_one_block_that_differs_is_refused():
    plain = small().plain()
    with torch.no_grad():
        plain.get_parameter("transformer_blocks.2.norm1.emb.class_embedder.embedding_table.weight")[
            3, 1
        ] += 1e-6
    with pytest.raises(ValueError, match=r"transformer_blocks\.2\.\S*embedding_table"):
        SharedDiT.share(plain)


def test_a_part_that_dit_has_not_is_refused():
    settings: dict = SMALL | {"num_layers": 1, "attention_bias": False}
    with pytest.raises(ValueError, match="attention_bias=False is not DiT"):
        SharedDiT.share(DiTTransformer2DModel(**settings))


def test_the_plain_model_is_a_copy():
    model = small()
    plain, before = model.plain(), ask(model)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    assert torch.equal(ask(model), before)


def test_the_gradient_is_the_sum_of_what_the_blocks_would_have():
    model = small().double()
    plain = model.plain()
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(5, 2, 4, 4, generator=generator, dtype=torch.float64)
    t, y = torch.arange(5) * 200, torch.arange(5)
    for one in (model, plain):
        one(x, t, y).sample.square().sum().backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        alike = [name.replace(".0.", f".{n}.", 1) for n in range(3)] if ".emb." in name else [name]
        expected = torch.stack([gradient(theirs[other]) for other in alike]).sum(0)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-12, atol=1e-12)


def test_a_copy_and_a_step_of_training_keep_sharing():
    model = deepcopy(small()).train()
    assert len(embedders(model)) == 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ask(model, batch=32).square().mean().backward()
    optimizer.step()
    assert len(embedders(model)) == 1
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_label_is_dropped_for_the_whole_network_or_not_at_all():
    model = small(class_dropout_prob=0.3)
    torch.manual_seed(3)
    x, t = torch.randn(400, 2, 4, 4), torch.randint(1000, (400,))
    y = torch.randint(7, (400,))
    with torch.no_grad():
        kept, dropped = model(x, t, y).sample, model(x, t, torch.full_like(y, 7)).sample
        trained = model.train()(x, t, y).sample
    is_kept = (trained - kept).abs().amax((1, 2, 3)) < 1e-5
    is_dropped = (trained - dropped).abs().amax((1, 2, 3)) < 1e-5
    assert torch.equal(is_kept, ~is_dropped)
    # 400 coins of 0.3: a standard error of 0.023
    assert abs(is_dropped.double().mean().item() - 0.3) < 4 * 0.023


def test_in_diffusers_class_each_block_drops_labels_alone():
    """Three blocks and the final layer, a tenth each: one in 10,000 is dropped by all."""
    plain = small().plain()
    torch.manual_seed(4)
    x, t, y = torch.randn(400, 2, 4, 4), torch.randint(1000, (400,)), torch.randint(7, (400,))
    with torch.no_grad():
        kept, dropped = plain(x, t, y).sample, plain(x, t, torch.full_like(y, 7)).sample
        trained = plain.train()(x, t, y).sample
    is_kept = (trained - kept).abs().amax((1, 2, 3)) < 1e-5
    assert not ((trained - dropped).abs().amax((1, 2, 3)) < 1e-5).any()
    # 400 coins of 0.9^4: a standard error of 0.024
    assert abs(is_kept.double().mean().item() - 0.9**4) < 4 * 0.024


@pytest.mark.parametrize("freq_shift", [0, 1])
def test_frequencies_are_those_asked_for(freq_shift):
    projected = small(freq_shift=freq_shift).get_submodule(FIRST + "time_proj")
    t = torch.tensor([0, 1, 999])
    exponent = torch.arange(128) / (128 - freq_shift)
    angle = t[:, None] * 10_000.0**-exponent
    expected = torch.cat([angle.cos(), angle.sin()], -1)
    torch.testing.assert_close(projected(t), expected, rtol=0, atol=2e-4)
    if freq_shift == 0:  # as the paper's U-ViT has them
        torch.testing.assert_close(projected(t), sinusoids(t, 256), rtol=0, atol=2e-4)


def test_a_plan_takes_the_shared_embedder_once():
    found = plan(SharedDiT, SMALL | {"num_attention_heads": 9}, base={"num_attention_heads": 3})
    assert set(found.entries) == {name for name, _ in small().named_parameters()}
    kinds = {name.removeprefix(FIRST): e.kind for name, e in found.entries.items() if FIRST in name}
    assert kinds == {
        "timestep_embedder.linear_1.weight": "input",
        "timestep_embedder.linear_1.bias": "vector",
        "timestep_embedder.linear_2.weight": "hidden",
        "timestep_embedder.linear_2.bias": "vector",
        "class_embedder.embedding_table.weight": "vector",
    }
    assert len(embedders(found.build())) == 1
