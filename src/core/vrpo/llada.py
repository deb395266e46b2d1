"""LLaDA's public checkpoints, read and written without their remote code.

A checkpoint is a folder: `config.json`, and `model.safetensors` or numbered shards with
`model.safetensors.index.json`. Its tensors are those of `core.vrpo.model.MaskedDiffusionLM` with
`model.transformer.` before their names. Nothing is guessed: a value in the configuration that would
change the forward, a missing, extra or mis-shaped tensor, or a missing shard is refused by name
before any tensor is read. Keys that are absent count as what LLaDA's own configuration takes then.

Source: the checkpoints GSAI-ML/LLaDA-8B-Base, LLaDA-8B-Instruct and LLaDA-1.5.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.files import whole_folder
from core.vrpo._weights import (
    find_tensors,
    listed,
    opened,
    read_json,
    refuse_tensors,
    weight_files,
    write_weights,
)
from core.vrpo.model import Config, MaskedDiffusionLM

PREFIX = "model.transformer."
GIB = 1024**3

# what the model computes: key -> (values it may have, what LLaDA's configuration takes if absent)
SUPPORTED: dict[str, tuple[tuple[object, ...], object]] = {
    "model_type": (("llada",), "llada"),
    "block_type": (("llama",), "sequential"),
    "block_group_size": ((1,), 1),
    "activation_type": (("silu",), "swiglu"),
    "layer_norm_type": (("rms",), "default"),
    "layer_norm_with_affine": ((True,), True),
    "bias_for_layer_norm": ((False, None), None),
    "attention_layer_norm": ((False,), False),
    "input_emb_norm": ((False,), False),
    "rope": ((True,), False),
    "rope_full_precision": ((True,), True),
    "rope_scaling": ((None,), None),
    "alibi": ((False,), False),
    "include_bias": ((False,), False),
    "include_qkv_bias": ((False, None), False),
    "multi_query_attention": ((False, None), None),
    "scale_logits": ((False,), False),
    "weight_tying": ((False,), True),
    "attention_dropout": ((0,), 0.1),
    "residual_dropout": ((0,), 0.1),
    "embedding_dropout": ((0,), 0.1),
    "quantization_config": ((None,), None),
}

# those that are needed, and those that need not be there
WHOLE = ("d_model", "n_heads", "n_layers", "vocab_size", "mask_token_id")
WHOLE += ("n_kv_heads", "mlp_hidden_size", "embedding_size", "eos_token_id", "max_sequence_length")


def read_config(folder: str | Path) -> Config:
    """Return the size of the model in a checkpoint.

    Args:
        folder: the checkpoint; only its `config.json` is read.

    Returns:
        The size; `vocab_size` counts the rows of the embedding, which may exceed the tokenizer's.

    Raises:
        FileNotFoundError: there is no `config.json`.
        ValueError: it is no JSON object, a key that is needed is absent, or a value is not
            supported; each by its key.
    """
    found = read_json(Path(folder) / "config.json")
    wrong = [
        f"{key} = {json.dumps(found[key]) if key in found else f'{default!r} (absent)'}, "
        f"supported: {' or '.join(json.dumps(value) for value in values)}"
        for key, (values, default) in SUPPORTED.items()
        if found.get(key, default) not in values
    ]
    if wrong:
        raise ValueError(f"{folder}/config.json is not supported here: " + listed(wrong, "; "))
    absent = [key for key in WHOLE[:5] if found.get(key) is None]
    if absent:
        raise ValueError(f"{folder}/config.json lacks {listed(absent)}: it is no LLaDA checkpoint")
    odd = [f"{k} = {found[k]!r}" for k in WHOLE if not isinstance(found.get(k), int | None)]
    if odd:
        raise ValueError(f"{folder}/config.json: want whole numbers, got {listed(odd)}")
    rows = found.get("embedding_size") or found["vocab_size"]
    if rows < found["vocab_size"]:
        raise ValueError(
            f"{folder}/config.json: want embedding_size >= vocab_size, "
            f"got {rows} and {found['vocab_size']}"
        )
    return Config(
        vocab_size=rows,
        d_model=found["d_model"],
        n_layers=found["n_layers"],
        n_heads=found["n_heads"],
        n_kv_heads=found.get("n_kv_heads"),
        mlp_hidden=found.get("mlp_hidden_size") or found.get("mlp_ratio", 4) * found["d_model"],
        rope_theta=found.get("rope_theta", 10_000.0),
        rms_eps=found.get("rms_norm_eps", 1e-5),
        mask_id=found["mask_token_id"],
        eos_id=found.get("eos_token_id"),
        max_length=found.get("max_sequence_length", 1024),
    )


def load_llada(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> MaskedDiffusionLM:
    """Return the model in a checkpoint.

    Tensors are read one by one to where they stay; there is never a second copy of the model.

    Args:
        folder: the checkpoint.
        device: where the model shall be.
        dtype: of its parameters; None: as stored.

    Raises:
        FileNotFoundError: the configuration, the weights or a shard is not there.
        ValueError: the configuration is not supported; a file cannot be read; tensors are missing,
            extra or mis-shaped, or of a type that is no floating one; by name.
    """
    folder = Path(folder)
    config = read_config(folder)
    with torch.device("meta"):
        model = MaskedDiffusionLM(config)
    wanted = {PREFIX + name: weight.shape for name, weight in model.named_parameters()}
    files = weight_files(folder)
    places = find_tensors(folder, files, wanted, dtype)
    for file in files:
        with opened(file, device) as stored:
            for name in (name for name, place in places.items() if place == file):
                owner, _, leaf = name.removeprefix(PREFIX).rpartition(".")
                weight = stored.get_tensor(name).to(dtype=dtype, copy=True)  # not the mapped file
                setattr(model.get_submodule(owner), leaf, nn.Parameter(weight))
    return model


def save_llada(
    model: MaskedDiffusionLM,
    folder: str | Path,
    *,
    source: str | Path | None = None,
    state: Mapping[str, Tensor] | None = None,
    shard_bytes: int = 5 * GIB,
) -> None:
    """Write the model as a LLaDA checkpoint that others' code reads, all of it or nothing.

    Args:
        model: the model, with adapters merged.
        folder: a new folder; it appears under this name only once it is complete.
        source: the checkpoint the model came from: its configuration, tokenizer and code files are
            copied along. None writes a configuration alone.
        state: the tensors to write, by the model's names, where its own are sharded over devices.
        shard_bytes: a file's weights are at most so large, or one tensor.

    Raises:
        ValueError: it is no such model, `state` is of another, or `source` has another size.
        FileExistsError: there is such a folder already.
    """
    if not isinstance(model, MaskedDiffusionLM):
        raise ValueError(
            f"want a MaskedDiffusionLM, got {type(model).__name__}: of a model with adapters, "
            "save model.merge_and_unload(), or the adapters by model.save_pretrained"
        )
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists: give a new name, or remove it first")
    if source is not None and llada_config(read_config(source)) != llada_config(model.config):
        raise ValueError(f"want a source of this model's size, got {source}: {read_config(source)}")
    tensors = dict(model.state_dict() if state is None else state)
    want = {name: weight.shape for name, weight in model.named_parameters()}
    refuse_tensors("state", want, {name: weight.shape for name, weight in tensors.items()})
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as new:
        _write_rest(new, model.config, next(iter(tensors.values())).dtype, source)
        write_weights(new, {PREFIX + k: v for k, v in tensors.items()}, shard_bytes)


def _write_rest(
    folder: Path, config: Config, dtype: torch.dtype, source: str | Path | None
) -> None:
    """Write `config.json`, and copy what else the source holds but its weights."""
    values = llada_config(config)
    if source is not None:
        values = read_json(Path(source) / "config.json")
        for file in sorted(Path(source).iterdir()):
            weights = file.suffix in (".safetensors", ".bin", ".pt") or ".index." in file.name
            if file.is_file() and not weights:
                shutil.copyfile(file, folder / file.name)
    values["torch_dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def llada_config(config: Config) -> dict[str, Any]:
    """Return what LLaDA's `config.json` says of a model of this size."""
    fixed = {key: values[0] for key, (values, _) in SUPPORTED.items() if values[0] is not None}
    return {
        **fixed,
        "architectures": ["LLaDAModelLM"],
        "d_model": config.d_model,
        "n_heads": config.n_heads,
        "n_kv_heads": config.kv_heads,
        "n_layers": config.n_layers,
        "mlp_hidden_size": config.mlp_hidden,
        "vocab_size": config.vocab_size,
        "embedding_size": config.vocab_size,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_eps,
        "max_sequence_length": config.max_length,
        "mask_token_id": config.mask_id,
        "eos_token_id": config.eos_id,
        "pad_token_id": config.eos_id,
        "use_cache": False,
    }
