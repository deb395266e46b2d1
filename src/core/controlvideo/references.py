r"""A base that knows what reference images look like, by layers of low rank (arXiv:2305.17098v2).

The paper merges such layers into the base before a video is tuned, so that its edit looks like the
images. Here they are peft's, in the attention of the UNet; an edit is installed above them, and
`pipe.unet.disable_adapters()`, `fuse_lora()` or `delete_adapters("reference")` do what they do in
diffusers.
"""

from typing import Any

import torch
from torch.nn.utils import get_total_norm

from core.controlvideo.pipeline import ControlVideoPipeline
from core.controlvideo.tuning import to_predict
from core.train.folder import Diverged
from core.train.seeds import generator

NAME = "reference"


def learn_references(
    pipe: ControlVideoPipeline,
    images: Any,
    prompt: str,
    *,
    rank: int = 4,
    steps: int = 60,
    learning_rate: float = 5e-3,
    seed: int = 0,
) -> list[float]:
    """Give the UNet layers of low rank, fitted to images; return the losses.

    Args:
        pipe: whose UNet is given them; it has none of this name yet.
        images: `[N, 3, H, W]` in [0, 1], or PIL images.
        prompt: what they show.
        rank: of the layers.
        steps: of AdamW, each on all images, with a time and noise for each.
        learning_rate: its own.
        seed: of the first weights, and of times and noise.

    Raises:
        ValueError: the UNet has such layers already, is not in float32, or no steps or rank.
        Diverged: the loss is no number; the layers are taken away again.
        ImportError: peft is not installed.
    """
    from peft import LoraConfig

    if steps < 1 or rank < 1:
        raise ValueError(f"want steps >= 1 and rank >= 1, got {steps} and {rank}")
    unet, scheduler = pipe.unet, pipe.scheduler
    if NAME in getattr(unet, "peft_config", {}):
        raise ValueError(f"the UNet has layers named {NAME!r} already: delete_adapters first")
    if unet.dtype != torch.float32:
        raise ValueError(f"want the UNet in float32 to learn, got {unet.dtype}")
    x, text = pipe.encode(images), pipe.encode_prompt(prompt).detach()
    required = [p.requires_grad for p in unet.parameters()]
    known = list(unet.parameters())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), NAME)
    layers = [p for p in unet.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.AdamW(layers, lr=learning_rate), []
    try:
        for step in range(steps):
            rng = generator(seed, step)
            t = torch.from_numpy(rng.integers(scheduler.config["num_train_timesteps"], size=len(x)))
            t = t.to(x.device)
            noise = torch.from_numpy(rng.standard_normal(x.shape)).to(x)
            found = unet(scheduler.add_noise(x, noise, t), t, text.expand(len(x), -1, -1)).sample
            loss = (found - to_predict(scheduler, x, noise, t)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.item())
            if not torch.isfinite(get_total_norm([p.grad for p in layers if p.grad is not None])):
                raise Diverged(
                    f"the loss of step {step + 1} is {losses[-1]}, its gradient no number, at a "
                    f"learning rate of {learning_rate:.3g}: lower it"
                )
            optimizer.step()
    except BaseException:
        unet.delete_adapters(NAME)
        raise
    finally:
        for p in layers:
            p.requires_grad_(False)
            p.grad = None
        for p, wanted in zip(known, required, strict=True):
            p.requires_grad_(wanted)
    return losses
