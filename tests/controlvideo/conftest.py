"""A small UNet with a ControlNet, at random: no convolution of it is zero."""

import resource
import shlex
from contextlib import contextmanager
from fractions import Fraction
from itertools import accumulate
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from core.controlvideo.__main__ import main
from core.controlvideo.video import Video, write


@pytest.fixture
def models():
    """Return the UNet, two ControlNets."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    nets = [
        ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
        for _ in range(2)
    ]
    for net in nets:
        for p in net.parameters():
            if not p.any():
                torch.nn.init.normal_(p, std=0.1)
    return unet.eval(), [net.eval() for net in nets]


@pytest.fixture
def noised():
    """Return a function: what a model of 2 videos (or more frames) gets."""

    def draw(frames: int, videos: int = 2, seed: int = 1):
        rng = torch.Generator().manual_seed(seed)
        n = videos * frames
        x = torch.randn(n, 3, 8, 8, generator=rng)
        x *= torch.linspace(0.5, 2, n)[:, None, None, None]  # frames of different contrast
        text = torch.randn(videos, 5, 8, generator=rng).repeat_interleave(frames, 0)
        return x, 300, text, torch.rand(n, 3, 16, 16, generator=rng)

    return draw


@pytest.fixture
def run():
    """Return a function: the output of a UNet with the residuals of its ControlNets."""

    @torch.no_grad()
    def forward(unet, nets, x, t, text, control):
        down, mid = None, None
        for net in nets:
            d, m = net(x, t, text, control, return_dict=False)
            down = d if down is None else [a + b for a, b in zip(down, d, strict=True)]
            mid = m if mid is None else mid + m
        return unet(
            x,
            t,
            text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample

    return forward


@pytest.fixture
def parts(models):
    """Return a Stable Diffusion checkpoint's parts, tiny and random."""
    unet, nets = models
    words = ["a", "red", "blue", "disc"]
    vocab, merges = {"<|startoftext|>": 0, "<|endoftext|>": 1}, []
    for word in words:  # each is one token, by pieces that grow letter by letter
        *letters, last = *word[:-1], word[-1] + "</w>"
        grown = list(accumulate([*letters, last]))
        for piece in (*word, last, *grown):
            vocab.setdefault(piece, len(vocab))
        merges += zip(grown, [*letters, last][1:], strict=False)
    torch.manual_seed(1)
    text = CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    tiny: dict[str, Any] = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 3,
        "norm_num_groups": 4,
    }
    return {
        "vae": AutoencoderKL(**tiny).eval(),
        "text_encoder": CLIPTextModel(text).eval(),
        "tokenizer": CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=8),
        "unet": unet,
        "controlnet": nets[0],
        "scheduler": DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
    }


@pytest.fixture(scope="session")
def _kept(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture
def checkpoints(_kept, request):
    """Return a folder with a `base` as Stable Diffusion is kept, and ControlNets `net0`, `net1`."""
    if not (_kept / "base").exists():
        parts, models = map(request.getfixturevalue, ("parts", "models"))
        base = {name: part for name, part in parts.items() if name != "controlnet"}
        none: dict[str, Any] = dict.fromkeys(("safety_checker", "feature_extractor"))
        made: Any = StableDiffusionPipeline(**base, **none, requires_safety_checker=False)
        for i, net in enumerate(models[1]):
            net.save_pretrained(_kept / f"net{i}")
        made.save_pretrained(_kept / "base")
    return _kept


@pytest.fixture
def full():
    """Have files of this process end at 4,096 bytes: what a quota or a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextmanager
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def here(checkpoints, tmp_path, monkeypatch):
    """A folder to be in: models, and a film of 12 frames of 20 x 32, 24 a second."""
    pytest.importorskip("av")
    for path in checkpoints.iterdir():
        (tmp_path / path.name).symlink_to(path)
    blocks = torch.rand(1, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    still = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)
    moving = torch.cat([still.roll(2 * i, 3) for i in range(12)])
    write(tmp_path / "in.mp4", Video(moving, Fraction(24)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(capsys):
    """Run a command line; return its exit code, and what it told on standard error."""

    def runs(line):
        capsys.readouterr()
        code = main(shlex.split(line))
        told = capsys.readouterr().err
        assert "Traceback" not in told
        return code, told

    return runs
