"""What goes together is loaded as diffusers loads it; what does not is refused in a line."""

import json
import shutil
from typing import Any

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from diffusers.schedulers.scheduling_ddim_inverse import DDIMInverseScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from huggingface_hub import constants

from core.controlvideo.adapter import ControlVideoAdapter
from core.controlvideo.checkpoint import find, load
from core.controlvideo.pipeline import ControlVideoPipeline


def same(a, b):
    theirs = b.state_dict()
    return all(torch.equal(x, theirs[name]) for name, x in a.state_dict().items())


def test_parts_come_from_where_they_lie(checkpoints, parts, models):
    pipe = load(checkpoints / "base", [checkpoints / "net0", checkpoints / "net1"])
    for name in ("unet", "vae", "text_encoder"):
        assert same(parts[name], getattr(pipe, name))
    for net, found in zip(models[1], pipe.controlnet.nets, strict=True):
        assert same(net, found)
    assert torch.equal(pipe.scheduler.alphas_cumprod, parts["scheduler"].alphas_cumprod)
    for key in ("clip_sample", "set_alpha_to_one", "steps_offset"):
        assert pipe.scheduler.config[key] == parts["scheduler"].config[key]
    found = find(checkpoints / "base", [checkpoints / "net0"])
    # the VAE halves once, the UNet once; trained at 8 x 8 latents
    assert (found.count, found.factor, found.size, found.pixels) == (1, 4, (16, 16), False)
    assert found.factor == pipe.factor


def test_an_adapter_and_a_saved_pipeline_are_loaded(checkpoints, tmp_path):
    nets = [checkpoints / "net0", checkpoints / "net1"]
    pipe = load(checkpoints / "base", nets)
    for p in pipe.adapter.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(0))
    pipe.adapter.save_pretrained(tmp_path / "adapter")
    pipe.save_pretrained(tmp_path / "saved")
    for again in (
        load(checkpoints / "base", nets, tmp_path / "adapter"),
        load(tmp_path / "saved"),
        load(tmp_path / "saved", adapter=tmp_path / "adapter"),
    ):
        assert isinstance(again, ControlVideoPipeline)
        assert same(pipe.adapter, again.adapter)
        assert len(again.controlnet.nets) == 2
    half = load(checkpoints / "base", nets, tmp_path / "adapter", dtype=torch.bfloat16)
    assert {p.dtype for p in (*half.unet.parameters(), *half.adapter.parameters())} == {
        torch.bfloat16
    }
    with pytest.raises(ValueError, match=r"does not go with these models: .* 8 self-attentions"):
        load(checkpoints / "base", nets[:1], tmp_path / "adapter")
    with pytest.raises(FileNotFoundError, match=r"no adapter in .*net0"):
        load(checkpoints / "base", nets, checkpoints / "net0")
    with pytest.raises(ValueError, match="has ControlNets of its own"):
        find(tmp_path / "saved", nets)


def test_another_scheduler_says_its_noise(checkpoints, tmp_path):
    """What PNDM has no word for is as in Stable Diffusion, and not DDIM's default."""
    shutil.copytree(checkpoints / "base", tmp_path / "base")
    PNDMScheduler(beta_schedule="linear", prediction_type="v_prediction").save_pretrained(
        tmp_path / "base" / "scheduler"
    )
    config = load(tmp_path / "base", [checkpoints / "net0"]).scheduler.config
    assert (config["beta_schedule"], config["prediction_type"]) == ("linear", "v_prediction")
    assert not config["clip_sample"]


def test_several_controlnets_of_one_are_one(checkpoints, tmp_path):
    pipe = load(checkpoints / "base", [checkpoints / "net0"])
    one = pipe.controlnet
    pipe.register_modules(controlnet=MultiControlNetModel([one]))
    pipe.save_pretrained(tmp_path / "saved")
    for again in (
        load(tmp_path / "saved"),
        load(checkpoints / "base", [tmp_path / "saved" / "controlnet"]),
    ):
        assert isinstance(again.controlnet, ControlNetModel)
        assert same(one, again.controlnet)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("offset", [0, 1])
def test_the_most_steps_are_those_whose_times_the_scheduler_has(
    checkpoints, tmp_path, spacing, offset
):
    shutil.copytree(checkpoints / "base", tmp_path / "base")
    change(
        tmp_path / "base" / "scheduler" / "scheduler_config.json",
        num_train_timesteps=20,
        timestep_spacing=spacing,
        steps_offset=offset,
    )
    found = find(tmp_path / "base", [checkpoints / "net0"])
    scheduler = found.load().scheduler
    inverse: Any = DDIMInverseScheduler.from_config(scheduler.config)
    for steps in range(1, found.steps + 1):
        scheduler.set_timesteps(steps)
        inverse.set_timesteps(steps)  # which knows no linspace
        assert scheduler.timesteps.max() < 20
    if found.steps < 20:
        scheduler.set_timesteps(found.steps + 1)
        assert scheduler.timesteps.max() == 20


def test_a_base_without_a_vae_works_on_pixels(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "base", tmp_path / "base")
    change(tmp_path / "base" / "model_index.json", vae=[None, None])
    change(tmp_path / "net" / "config.json", checkpoints / "net0" / "config.json", halved=False)
    found = find(tmp_path / "base", [tmp_path / "net"])
    assert (found.pixels, found.factor, found.size) == (True, 2, (8, 8))


def change(path, source=None, *, halved=True, **values):
    """Write a JSON file with other values."""
    content: dict[str, Any] = json.loads((source or path).read_text()) | values
    if not halved:
        content["conditioning_embedding_out_channels"] = [4]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


FLUX = {
    "_class_name": "FluxPipeline",
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        (
            "base/model_index.json",
            {"unet": None, **FLUX},
            "got a FluxPipeline with .*: it has no unet",
        ),
        (
            "base/model_index.json",
            {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]},
            "two text encoders, as SDXL",
        ),
        (
            "base/model_index.json",
            {"unet": ["diffusers", "UNet3DConditionModel"]},
            "its unet is a UNet3DConditionModel",
        ),
        ("base/unet/config.json", {"addition_embed_type": "text_time"}, "text_time.*SDXL"),
        (
            "base/unet/config.json",
            {"time_cond_proj_dim": 256},
            r"want a UNet of .* got a latent consistency model, .*time_cond_proj_dim 256",
        ),
        ("base/unet/config.json", {"in_channels": 9}, "9 channels in and 3 out: .* inpainting"),
        ("base/unet/config.json", {"cross_attention_dim": 12}, "of width 12 .* encoder of 8"),
        (
            "net/config.json",
            {"cross_attention_dim": 12},
            "a ControlNet for text of width 8, as the UNet's, got 12 in .*net: it is of another",
        ),
        ("net/config.json", {"block_out_channels": [16, 64]}, r"of channels \(16, 32\), .* 64"),
        ("net/config.json", {"_class_name": "FluxControlNetModel"}, "got a FluxControlNetModel"),
        (
            "net/config.json",
            {"conditioning_embedding_out_channels": [4, 8, 8]},
            "2 times as large as latents, as the VAE's, got 4 times",
        ),
    ],
)
def test_another_family_is_refused(checkpoints, tmp_path, file, values, message):
    shutil.copytree(checkpoints / "base", tmp_path / "base")
    shutil.copytree(checkpoints / "net0", tmp_path / "net")
    change(tmp_path / file, **values)
    with pytest.raises(ValueError, match=message) as refused:
        find(tmp_path / "base", [tmp_path / "net"])
    assert "\n" not in str(refused.value)


def test_what_is_not_there_is_named(checkpoints, tmp_path, monkeypatch):
    base, net = checkpoints / "base", checkpoints / "net0"
    with pytest.raises(FileNotFoundError, match="no folder none"):
        find("none", [net])
    with pytest.raises(ValueError, match=r"at least one ControlNet for .*, which has none"):
        find(base)
    with pytest.raises(ValueError, match=r"want model_index.json in .*; it holds base, net0, net1"):
        find(checkpoints, [net])
    with pytest.raises(ValueError, match=r"want config.json in .*base"):
        find(base, [base])
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"from_single_file\(FILE\)"):
        find(tmp_path / "model.safetensors", [net])
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"base cannot be read: .*diffusion_pytorch_model"):
        load(tmp_path / "base", [net])
    (tmp_path / "base" / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="base cannot be read"):
        load(tmp_path / "base", [net])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"no folder here, .*hf download somebody/nothing"):
        find("somebody/nothing", [net])


def test_an_adapter_is_taken_out_again(checkpoints, tmp_path):
    pipe = load(checkpoints / "base", [checkpoints / "net0"])
    before = dict(pipe.unet.attn_processors)
    ControlVideoAdapter.for_models(pipe.unet, pipe.controlnet).save_pretrained(tmp_path / "new")
    again = load(checkpoints / "base", [checkpoints / "net0"], tmp_path / "new")
    assert {type(p) for p in again.unet.attn_processors.values()} == set(map(type, before.values()))
