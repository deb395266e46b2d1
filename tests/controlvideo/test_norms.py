"""Norms over a video, against the residual block written out for `[B, C, F, H, W]`."""

import accelerate
import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from torch.nn.functional import silu

from core.controlvideo.clip import Clip
from core.controlvideo.norms import check_norm, group_norms, see_the_video

F = 3


def over_a_video(norm, x):
    """`(x - mean) / sd` of each group of channels, over frames and places, by hand."""
    B, C = x.shape[:2]
    groups = x.reshape(B, norm.num_groups, -1)
    mean, var = groups.mean(2, keepdim=True), groups.var(2, keepdim=True, correction=0)
    normed = ((groups - mean) / (var + norm.eps).sqrt()).view_as(x)
    shape = (1, C, 1, 1, 1)
    return normed * norm.weight.view(shape) + norm.bias.view(shape)


def frame_by_frame(conv, x):
    return torch.stack([conv(x[:, :, f]) for f in range(x.shape[2])], dim=2)


def residual_block(block, x, temb):
    """The block of the authors' code: `[B, C, F, H, W]` and `[B, T]`."""
    h = frame_by_frame(block.conv1, silu(over_a_video(block.norm1, x)))
    h = h + block.time_emb_proj(silu(temb))[:, :, None, None, None]
    h = frame_by_frame(block.conv2, silu(over_a_video(block.norm2, h)))
    if block.conv_shortcut is not None:
        x = frame_by_frame(block.conv_shortcut, x)
    return (x + h) / block.output_scale_factor


def frames(x):
    """`[B, C, F, H, W]` as diffusers' models have it."""
    return x.transpose(1, 2).flatten(0, 1)


@pytest.fixture
def block(models):
    unet, _ = models
    found = unet.up_blocks[0].resnets[0]  # with a shortcut
    for norm in (found.norm1, found.norm2):
        nn.init.normal_(norm.weight, mean=1.0)
        nn.init.normal_(norm.bias)
    return found


def draw(block):
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(2, block.in_channels, F, 8, 8, generator=rng)
    x *= torch.tensor([0.5, 1.0, 2.0])[:, None, None]  # frames of different contrast
    return x, torch.randn(2, block.time_emb_proj.in_features, generator=rng)


@torch.no_grad()
def test_a_block_is_that_of_the_authors(models, block):
    x, temb = draw(block)
    whole = residual_block(block, x, temb)
    each = block(frames(x), temb.repeat_interleave(F, 0))
    see_the_video(models[0], Clip(frames=F))
    ours = block(frames(x), temb.repeat_interleave(F, 0))
    torch.testing.assert_close(ours, frames(whole), rtol=1e-4, atol=1e-4)
    assert (each - ours).abs().max() > 0.1  # frames of different contrast, normed each alone


@torch.no_grad()
def test_of_one_frame_both_norms_are_the_same(models, block):
    x, temb = draw(block)
    plain = block(frames(x[:, :, :1]), temb)
    see_the_video(models[0], Clip(frames=1))
    torch.testing.assert_close(block(frames(x[:, :, :1]), temb), plain)


@torch.no_grad()
def test_without_its_hooks_a_norm_is_what_it_was(models, block):
    x, temb = draw(block)
    each = block(frames(x), temb.repeat_interleave(F, 0))
    hooks = see_the_video(models[0], Clip(frames=F))
    assert len(hooks) == 2 * len(list(group_norms(models[0])))
    for hook in hooks:
        hook.remove()
    assert torch.equal(block(frames(x), temb.repeat_interleave(F, 0)), each)


@torch.no_grad()
def test_norms_of_weights_that_are_moved_about_see_the_video_too(models, block):
    """Offloading puts a forward of its own on every module; see accelerate and diffusers."""
    x, temb = draw(block)
    see_the_video(models[0], Clip(frames=F))
    there = block(frames(x), temb.repeat_interleave(F, 0))
    accelerate.cpu_offload(models[0], torch.device("cpu"))
    assert torch.equal(block(frames(x), temb.repeat_interleave(F, 0)), there)


def test_only_norms_of_residual_blocks_and_the_last_one_are_meant(models):
    unet, nets = models
    for model in (unet, nets[0]):
        every = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
        assert 0 < len(list(group_norms(model))) < len(every)  # those of transformers are per frame
    assert unet.conv_norm_out in list(group_norms(unet))


def test_another_norm_is_refused():
    with pytest.raises(ValueError, match="'frame' or 'video', got 'batch'"):
        check_norm("batch")


def test_stable_diffusion_has_45_of_them_and_its_controlnet_20():
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        net = ControlNetModel(cross_attention_dim=768)
    assert [len(list(group_norms(m))) for m in (unet, net)] == [45, 20]
