r"""A small text-to-image model with ControlNets, in the layout of a Stable Diffusion checkpoint.

It paints the procedural scenes of `scenes`, on pixels, without an autoencoder, and is small enough
to tune and to edit with on a laptop. `pretrain` made the weights that come with the package.

What differs from Stable Diffusion 1.5 besides size: the model predicts v and not the noise (it
learns faster), its betas are linear, and it has no autoencoder. It learns up to noise alone, and
samples from where Stable Diffusion does: there a fifteenth of the picture is left in the noise, and
an inversion can keep what the picture looks like.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from core.controlvideo.pipeline import ControlVideoPipeline
from core.controlvideo.scenes import COLOURS, SHAPES, SIZE, TEXTURES

WEIGHTS = Path(__file__).parent / "weights"
"""The checkpoint that comes with the package."""
WIDTH = 48
"""Channels of the prompt's states."""
TOKENS = 10
"""Of a prompt, with its start and end."""
START, END = "<|startoftext|>", "<|endoftext|>"


def small(controls: Sequence[str] = ("edges",), folder: Path = WEIGHTS) -> ControlVideoPipeline:
    """Return the small model as a pipeline, with an adapter that changes nothing yet.

    Args:
        controls: of `scenes.CONTROLS`; one ControlNet each.
        folder: what `pretrain` wrote.

    Raises:
        ValueError: no control, or one that it has no ControlNet for.
    """
    if not controls:
        raise ValueError("want at least one control, got none: there is a ControlNet for each")
    for kind in controls:
        if not (folder / f"controlnet_{kind}").is_dir():
            known = sorted(p.name.removeprefix("controlnet_") for p in folder.glob("controlnet_*"))
            raise ValueError(f"want controls of {', '.join(known)}, got {kind!r}")
    nets = [
        ControlNetModel.from_pretrained(folder / f"controlnet_{kind}").eval() for kind in controls
    ]
    scheduler: Any = DDIMScheduler.from_pretrained(folder / "scheduler")
    pipe = ControlVideoPipeline(
        vae=None,
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder").float().eval(),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet").eval(),
        controlnet=nets if len(nets) > 1 else nets[0],
        scheduler=scheduler,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_tokenizer() -> CLIPTokenizer:
    """Return a tokenizer in which each word of a caption is one token."""
    words = ["a", "on", *COLOURS, *SHAPES, *TEXTURES]
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    trainer: Any = BpeTrainer(
        vocab_size=1000,
        min_frequency=1,
        special_tokens=[START, END],
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz"),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(words * 2, trainer)
    found = json.loads(tokenizer.to_str())["model"]
    vocab = dict(found["vocab"])
    for letter in "abcdefghijklmnopqrstuvwxyz":  # any word can be spelled
        vocab.setdefault(f"{letter}</w>", len(vocab))
    merges: Any = [tuple(pair) for pair in found["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS)


def make_text_encoder(vocabulary: int) -> CLIPTextModel:
    """Return a text encoder at random."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def make_unet() -> UNet2DConditionModel:
    """Return a UNet at random: three levels, attention in the two below."""
    return UNet2DConditionModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=3,
        block_out_channels=(24, 48, 48),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # heads, in diffusers' configurations of Stable Diffusion 1.5
        norm_num_groups=8,
    )


def make_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """Return a ControlNet that starts as a copy of the UNet's encoder, and adds nothing."""
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16,))


LEARNT, SAMPLED = 1000, 730
"""Steps of noise that the model learns, and from which it samples: sqrt(alpha_bar) is 0.067 there,
and 0.068 at the last step of Stable Diffusion."""


def make_scheduler(steps: int = SAMPLED) -> DDIMScheduler:
    """Return the first steps of the noise: linear betas, and v to predict."""
    beta_start, beta_end = 1e-4, 0.02
    last = beta_start + (beta_end - beta_start) * (steps - 1) / (LEARNT - 1)
    return DDIMScheduler(
        num_train_timesteps=steps,
        beta_start=beta_start,
        beta_end=last,
        beta_schedule="linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
