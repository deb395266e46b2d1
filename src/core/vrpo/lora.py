"""Low-rank adapters on a masked diffusion model, by peft: the policy is the reference plus little.

Every matrix W of the blocks becomes W + (alpha / rank) B A, with A and B alone trained; embedding,
norms and head stay as they are. B starts at zero, so the policy starts at the reference, and the
reference stays at hand in the same memory:

    with policy.disable_adapter():
        reference = policy(pack)
"""

from typing import TYPE_CHECKING

import torch

from core.vrpo.model import MaskedDiffusionLM

if TYPE_CHECKING:
    from peft import PeftModel

MATRICES = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")


def with_lora(
    model: MaskedDiffusionLM,
    *,
    rank: int = 16,
    alpha: float | None = None,
    dropout: float = 0.0,
    matrices: tuple[str, ...] = MATRICES,
    seed: int = 0,
) -> "PeftModel":
    """Return the model with adapters on its blocks; only they are trained.

    The model is changed in place and its own weights frozen. What is called is the result, on a
    pack as before; `result.get_base_model()` is the model inside, to set `checkpointing` or take
    `logits`; `result.save_pretrained(folder)` writes the adapters alone, and
    `peft.PeftModel.from_pretrained(model, folder)` puts them on again. Adapters of half-type models
    are float32.

    Args:
        model: the reference.
        rank: of the adapters.
        alpha: their scale is alpha / rank; None: 2 rank.
        dropout: share of their input that is dropped while `training`; above zero the policy of
            the start is still the reference, but no two passes agree.
        matrices: which of each block's matrices; the head, of the same name as a block's last, is
            never among them.
        seed: of A.

    Raises:
        ValueError: rank is below one, or a matrix is not one of `MATRICES`.
        ImportError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("adapters need peft: pip install peft") from error
    unknown = [name for name in matrices if name not in MATRICES]
    if rank < 1 or unknown or not matrices:
        raise ValueError(
            f"want rank >= 1 and matrices among {', '.join(MATRICES)}, "
            f"got rank = {rank} and {', '.join(matrices) or 'none'}"
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=rf".*blocks\.\d+\.({'|'.join(matrices)})",
        bias="none",
    )
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return get_peft_model(model, config)  # type: ignore[arg-type, return-value]
