"""LLaDA checkpoints: written in the public format by hand, against transformers' Llama blocks."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.vrpo.llada import llada_config, load_llada, read_config, save_llada
from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.packing import pack

# as the public config.json of LLaDA-8B has it, sizes apart
PUBLIC = json.loads("""{
"activation_type": "silu", "alibi": false, "alibi_bias_max": 8.0, "architectures":
["LLaDAModelLM"], "attention_dropout": 0.0, "attention_layer_norm": false,
"attention_layer_norm_with_affine": true, "auto_map": {"AutoModel":
"modeling_llada.LLaDAModelLM"}, "bias_for_layer_norm": false, "block_group_size": 1,
"block_type": "llama", "d_model": 16, "embedding_dropout": 0.0, "embedding_size": 24,
"eos_token_id": 18, "flash_attention": false, "include_bias": false, "include_qkv_bias": false,
"init_cutoff_factor": null, "init_device": "meta", "init_fn": "mitchell", "init_std": 0.02,
"input_emb_norm": false, "layer_norm_type": "rms", "layer_norm_with_affine": true,
"mask_token_id": 19, "max_sequence_length": 64, "mlp_hidden_size": 40, "mlp_ratio": 4,
"model_type": "llada", "multi_query_attention": null, "n_heads": 4, "n_kv_heads": 2, "n_layers":
3, "pad_token_id": 18, "precision": "amp_bf16", "residual_dropout": 0.0, "rms_norm_eps": 1e-05,
"rope": true, "rope_full_precision": true, "rope_theta": 500000.0, "scale_logits": false,
"torch_dtype": "bfloat16", "transformers_version": "4.46.3", "use_cache": false, "vocab_size":
20, "weight_tying": false
}""")
SIZE = Config(
    vocab_size=24,
    d_model=16,
    n_layers=3,
    n_heads=4,
    n_kv_heads=2,
    mlp_hidden=40,
    mask_id=19,
    eos_id=18,
    rope_theta=500_000.0,
    max_length=64,
)


def public_tensors(dtype=torch.float32):
    """Tensors under the public names, each different from the others, norms away from one."""
    shapes = {"wte": (24, 16), "ln_f": (16,), "ff_out": (24, 16)}
    for n in range(3):
        block = {"q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "attn_out": (16, 16)}
        block |= {"ff_proj": (40, 16), "up_proj": (40, 16), "ff_out": (16, 40)}
        block |= {"attn_norm": (16,), "ff_norm": (16,)}
        shapes |= {f"blocks.{n}.{name}": shape for name, shape in block.items()}
    generator = torch.Generator().manual_seed(0)
    return {
        f"model.transformer.{name}.weight": (
            torch.randn(shape, generator=generator) / 3
            if len(shape) == 2
            else 0.5 + torch.rand(shape, generator=generator)
        ).to(dtype)
        for name, shape in shapes.items()
    }


def write(folder, tensors=None, *, shards=1, config=None):
    """A checkpoint in the public layout; the index by hand."""
    tensors = public_tensors() if tensors is None else tensors
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(PUBLIC if config is None else config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    index = {}
    for s in range(shards):
        name = f"model-{s + 1:05}-of-{shards:05}.safetensors"
        part = {key: tensors[key] for key in list(tensors)[s::shards]}
        save_file(part, folder / name)
        index |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def llama_of(tensors, eps=1e-5):
    """The same blocks in transformers: LLaDA's are Llama's, its attention mask apart."""
    from transformers import LlamaConfig, LlamaForCausalLM

    names = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
    inside = {
        "q_proj": "self_attn.q_proj",
        "k_proj": "self_attn.k_proj",
        "v_proj": "self_attn.v_proj",
        "attn_out": "self_attn.o_proj",
        "ff_proj": "mlp.gate_proj",
        "up_proj": "mlp.up_proj",
        "ff_out": "mlp.down_proj",
        "attn_norm": "input_layernorm",
        "ff_norm": "post_attention_layernorm",
    }
    for n in range(3):
        names |= {f"blocks.{n}.{ours}": f"model.layers.{n}.{at}" for ours, at in inside.items()}
    config = LlamaConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=eps,
        rope_parameters={"rope_theta": 500_000.0, "rope_type": "default"},
        tie_word_embeddings=False,
        attn_implementation="eager",  # type: ignore[call-arg]
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    state = {f"{at}.weight": tensors[f"model.transformer.{k}.weight"] for k, at in names.items()}
    missing = model.load_state_dict(state, strict=True)
    assert not missing.missing_keys
    return model


@pytest.mark.parametrize(("lengths", "eps"), [((7,), 1e-5), ((5, 9, 5), 1e-5), ((7,), 0.3)])
def test_the_forward_is_that_of_transformers_llama(tmp_path, lengths, eps):
    """Float32 on both sides, logits of size ten after three blocks: 1e-4 is some hundred units.

    The mask is given as numbers to add, zero everywhere; a causal one differs by more than one.
    """
    folder = write(tmp_path / "hub", config=PUBLIC | {"rms_norm_eps": eps})
    ours, theirs = load_llada(folder), llama_of(public_tensors(), eps)
    tokens = torch.randint(0, 20, (sum(lengths),), generator=torch.Generator().manual_seed(1))
    found = ours.logits(tokens, lengths)
    for part, sequence in zip(found.split(lengths), tokens.split(lengths), strict=True):
        L = len(sequence)
        with torch.no_grad():
            seen = theirs(sequence[None], attention_mask=torch.zeros(1, 1, L, L)).logits[0]
            causal = theirs(sequence[None]).logits[0]
        assert (part - seen).abs().max() < 1e-4
        assert (part - causal).abs().max() > 0.1


def test_the_score_is_that_of_transformers_llama(tmp_path):
    """S, through the packed rows, against log-softmax of the full logits; bounds as above."""
    ours, theirs = load_llada(write(tmp_path / "hub")), llama_of(public_tensors())
    prompt, response = torch.tensor([1, 2, 3]), torch.tensor([4, 5, 18, 18])
    mask = torch.tensor([True, False, True, True])
    S = ours(pack([prompt], [response], [mask], mask_id=19)).detach()
    tokens = torch.cat([prompt, torch.where(mask, 19, response)])
    with torch.no_grad():
        logits = theirs(tokens[None], attention_mask=torch.zeros(1, 1, 7, 7)).logits[0]
    logp = logits.log_softmax(-1)[torch.arange(3, 7), response]
    assert abs(S.item() - logp[mask].sum().item()) < 3e-4


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_is_read_tensor_for_tensor(tmp_path, shards, dtype):
    tensors = public_tensors(dtype)
    model = load_llada(write(tmp_path / "hub", tensors, shards=shards))
    assert model.config == SIZE
    loaded = model.state_dict()
    assert len(loaded) == len(tensors)
    for name, tensor in tensors.items():
        found = loaded[name.removeprefix("model.transformer.")]
        assert found.dtype == dtype
        assert torch.equal(found, tensor)
    assert all(weight.requires_grad for weight in model.parameters())


def test_a_checkpoint_is_read_in_the_wanted_dtype(tmp_path):
    model = load_llada(write(tmp_path / "hub"), dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    truth = public_tensors()["model.transformer.wte.weight"].bfloat16()
    assert torch.equal(model.wte.weight, truth)


def test_training_a_loaded_model_leaves_its_files_alone(tmp_path):
    folder = write(tmp_path / "hub")
    before = (folder / "model.safetensors").read_bytes()
    model = load_llada(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    assert (folder / "model.safetensors").read_bytes() == before


def without(name):
    return {k: v for k, v in public_tensors().items() if k != f"model.transformer.{name}.weight"}


def with_tensor(name, tensor):
    return public_tensors() | {f"model.transformer.{name}.weight": tensor}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without("blocks.1.up_proj"), r"1 missing: model.transformer.blocks.1.up_proj.weight"),
        (with_tensor("blocks.3.q_proj", torch.ones(16, 16)), "1 extra: .*blocks.3.q_proj.weight"),
        (
            with_tensor("blocks.0.ff_out", torch.ones(40, 16)),
            r"1 mis-shaped: .*blocks.0.ff_out.weight \[40, 16\] where \[16, 40\] is wanted",
        ),
        (with_tensor("wte", torch.ones(24, 16, dtype=torch.int8)), "floating.*wte.weight: I8"),
        (with_tensor("wte", torch.ones(24, 16).half()), "holds F16, F32: give a dtype"),
        ({"other": torch.ones(1)}, "30 missing: .* and 25 more; 1 extra: other"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path, tensors, message, shards):
    with pytest.raises(ValueError, match=message):
        load_llada(write(tmp_path / "hub", tensors, shards=shards))


def test_a_missing_shard_is_named(tmp_path):
    folder = write(tmp_path / "hub", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 shards .*model-00002-of-00003"):
        load_llada(folder)


def test_a_tensor_that_two_shards_hold_is_refused(tmp_path):
    folder = write(tmp_path / "hub", shards=2)
    one, two = sorted(folder.glob("model-*.safetensors"))
    save_file(load_file(one) | load_file(two), two)
    with pytest.raises(ValueError, match=r"is in model-00001-of-00002\.safetensors and in"):
        load_llada(folder)


@pytest.mark.parametrize("kept", [4, 400])
def test_a_cut_file_is_refused_by_name(tmp_path, kept):
    folder = write(tmp_path / "hub")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"cannot read .*model.safetensors.*download it again"):
        load_llada(folder)


@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.json", "config.json, found none"), ("model.safetensors", "found neither")],
)
def test_a_folder_without_a_checkpoint_is_refused(tmp_path, missing, message):
    folder = write(tmp_path / "hub")
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        load_llada(folder)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is no JSON"), ("[1]", "want a JSON object .*got list")]
)
def test_a_broken_configuration_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("model_type", "llada_moe", 'model_type = "llada_moe", supported: "llada"'),
        ("block_type", "sequential", "block_type"),
        ("block_group_size", 4, "block_group_size = 4, supported: 1"),
        ("activation_type", "swiglu", "activation_type"),
        ("layer_norm_type", "default", "layer_norm_type"),
        ("rope", False, "rope = false, supported: true"),
        ("alibi", True, "alibi"),
        ("include_bias", True, "include_bias"),
        ("include_qkv_bias", True, "include_qkv_bias"),
        ("multi_query_attention", True, "multi_query_attention"),
        ("weight_tying", True, "weight_tying"),
        ("residual_dropout", 0.1, "residual_dropout = 0.1, supported: 0"),
        ("attention_layer_norm", True, "attention_layer_norm"),
        ("rope_scaling", {"factor": 2}, "rope_scaling"),
        ("quantization_config", {"bits": 4}, "quantization_config"),
    ],
)
def test_a_value_that_would_change_the_forward_is_refused_by_its_key(tmp_path, key, value, told):
    with pytest.raises(ValueError, match=told):
        read_config(write(tmp_path / "hub", config=PUBLIC | {key: value}))


def test_an_absent_key_counts_as_what_llada_takes_then(tmp_path):
    """Its own defaults are those of another model: dropout, tied weights, no rotation."""
    bare = {key: value for key, value in PUBLIC.items() if key not in ("rope", "weight_tying")}
    message = r"rope = False \(absent\), supported: true; weight_tying = True \(absent\)"
    with pytest.raises(ValueError, match=message):
        read_config(write(tmp_path / "hub", config=bare))


@pytest.mark.parametrize("key", ["d_model", "n_layers", "mask_token_id"])
def test_a_size_that_is_absent_is_named(tmp_path, key):
    config = {name: value for name, value in PUBLIC.items() if name != key}
    with pytest.raises(ValueError, match=f"lacks {key}"):
        read_config(write(tmp_path / "hub", config=config))


@pytest.mark.parametrize(("key", "value"), [("d_model", "16"), ("eos_token_id", [18, 17])])
def test_a_size_that_is_no_whole_number_is_named(tmp_path, key, value):
    with pytest.raises(ValueError, match=f"want whole numbers, got {key} = "):
        read_config(write(tmp_path / "hub", config=PUBLIC | {key: value}))


def test_the_embedding_may_have_more_rows_than_the_tokenizer_but_not_fewer(tmp_path):
    assert read_config(write(tmp_path / "more")).vocab_size == 24
    equal = write(tmp_path / "equal", config=PUBLIC | {"embedding_size": None})
    assert read_config(equal).vocab_size == 20
    fewer = write(tmp_path / "fewer", config=PUBLIC | {"embedding_size": 12})
    with pytest.raises(ValueError, match="embedding_size >= vocab_size, got 12 and 20"):
        read_config(fewer)


def test_the_width_of_the_mlp_may_be_a_ratio(tmp_path):
    folder = write(tmp_path / "hub", config=PUBLIC | {"mlp_hidden_size": None})
    assert read_config(folder).mlp_hidden == 64


@pytest.mark.parametrize(("shard_bytes", "files"), [(10**9, 1), (8000, 6), (1, 30)])
def test_what_is_saved_is_in_the_public_layout(tmp_path, shard_bytes, files):
    model = load_llada(write(tmp_path / "hub"))
    save_llada(model, tmp_path / "new", shard_bytes=shard_bytes)
    stored = [load_file(file) for file in sorted((tmp_path / "new").glob("*.safetensors"))]
    assert len(stored) == files
    largest = max(shard_bytes, 24 * 16 * 4, 40 * 16 * 4)  # one tensor is never cut
    assert all(sum(x.nbytes for x in part.values()) <= largest for part in stored)
    merged = {name: tensor for part in stored for name, tensor in part.items()}
    truth = public_tensors()
    assert merged.keys() == truth.keys()
    assert sum(len(part) for part in stored) == len(truth)
    assert all(torch.equal(merged[name], truth[name]) for name in truth)
    if files > 1:
        index = json.loads((tmp_path / "new" / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == truth.keys()
        assert index["metadata"]["total_size"] == sum(x.nbytes for x in truth.values())
    again = load_llada(tmp_path / "new")
    assert again.config == model.config


def test_what_comes_along_with_a_checkpoint_goes_along_with_its_child(tmp_path):
    source = write(tmp_path / "hub", shards=2)
    (source / "tokenizer.json").write_text("{}")
    (source / "modeling_llada.py").write_text("# theirs")
    save_llada(load_llada(source).bfloat16(), tmp_path / "new", source=source)
    there = {file.name for file in (tmp_path / "new").iterdir()}
    assert there == {"config.json", "tokenizer.json", "modeling_llada.py", "model.safetensors"}
    assert json.loads((tmp_path / "new" / "config.json").read_text()) == PUBLIC


def test_a_model_made_here_can_be_saved_and_read(tmp_path):
    config = Config(vocab_size=11, d_model=8, n_layers=1, n_heads=2, mlp_hidden=8, mask_id=10)
    model = MaskedDiffusionLM.initialised(config, 0)
    save_llada(model, tmp_path / "small")
    again = load_llada(tmp_path / "small")
    assert again.config.kv_heads == 2
    pairs = zip(again.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    save_llada(model, tmp_path / "child", source=tmp_path / "small")
    assert json.loads((tmp_path / "small" / "config.json").read_text()).items() >= (
        llada_config(config).items()
    )


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError("disk full")

    model = load_llada(write(tmp_path / "hub"))
    monkeypatch.setattr("safetensors.torch.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        save_llada(model, tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"hub"}


def test_a_checkpoint_is_never_written_over(tmp_path):
    model = load_llada(write(tmp_path / "hub"))
    with pytest.raises(FileExistsError, match="give a new name"):
        save_llada(model, tmp_path / "hub")
    (tmp_path / "empty").mkdir()
    save_llada(model, tmp_path / "empty")
    assert load_llada(tmp_path / "empty").config == SIZE


def test_saving_refuses_what_would_not_load(tmp_path):
    model = load_llada(write(tmp_path / "hub"))
    with pytest.raises(ValueError, match="want a MaskedDiffusionLM, got Linear"):
        save_llada(torch.nn.Linear(2, 2), tmp_path / "new")  # type: ignore[arg-type]
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "wte.weight"}
    with pytest.raises(ValueError, match=r"state: .*1 missing: wte.weight"):
        save_llada(model, tmp_path / "new", state=state)
    other = write(tmp_path / "other", config=PUBLIC | {"n_layers": 2})
    with pytest.raises(ValueError, match="want a source of this model's size"):
        save_llada(model, tmp_path / "new", source=other)
    assert not (tmp_path / "new").exists()


def test_a_state_may_come_from_elsewhere(tmp_path):
    """As gathered from the devices that share a model."""
    model = load_llada(write(tmp_path / "hub"))
    state = {name: 2 * tensor for name, tensor in model.state_dict().items()}
    save_llada(model, tmp_path / "new", state=state)
    assert torch.equal(load_llada(tmp_path / "new").wte.weight, 2 * model.wte.weight)
