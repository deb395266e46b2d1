"""Norms over a video, against the residual block written out for `[B, C, F, H, W]`."""

from typing import Any, cast

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from torch.nn.functional import silu

from core.controlvideo.clip import Clip
from core.controlvideo.norms import VideoGroupNorm, group_norms, set_norms

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
    set_norms(models[0], "video", Clip(frames=F))
    ours = block(frames(x), temb.repeat_interleave(F, 0))
    torch.testing.assert_close(ours, frames(whole), rtol=1e-4, atol=1e-4)
    assert (each - ours).abs().max() > 0.1  # frames of different contrast, normed each alone


@torch.no_grad()
def test_of_one_frame_both_norms_are_the_same(models, block):
    x, temb = draw(block)
    plain = block(frames(x[:, :, :1]), temb)
    set_norms(models[0], "video", Clip(frames=1))
    torch.testing.assert_close(block(frames(x[:, :, :1]), temb), plain)


def test_norms_change_their_class_and_back(models):
    unet, nets = models
    clip, parameters = Clip(frames=F), list(unet.parameters())
    for model in (unet, nets[0]):
        set_norms(model, "video", clip)
        assert all(isinstance(m, VideoGroupNorm) and m.clip is clip for m in group_norms(model))
        assert len(list(group_norms(model))) < sum(
            isinstance(m, nn.GroupNorm) for m in model.modules()
        )  # those of the transformers stay per frame
    assert unet.conv_norm_out in list(group_norms(unet))
    set_norms(unet, "video", clip)  # twice is once
    set_norms(unet, "frame", clip)
    assert all(type(m) is nn.GroupNorm for m in group_norms(unet))
    assert all(a is b for a, b in zip(parameters, unet.parameters(), strict=True))


def test_another_norm_is_refused(models):
    with pytest.raises(ValueError, match="'frame' or 'video', got 'batch'"):
        set_norms(models[0], cast("Any", "batch"), Clip())


def test_stable_diffusion_has_45_of_them_and_its_controlnet_20():
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        net = ControlNetModel(cross_attention_dim=768)
    assert [len(list(group_norms(m))) for m in (unet, net)] == [45, 20]
