"""The public checkpoints and somebody's preferences, ready to be measured: inference alone.

Both ends of the paper's training are public, LLaDA-8B-Instruct and LLaDA-1.5. So the variances of
its Table 2 can be measured anew by anybody who has the two folders, a file of preferences and one
GPU: the two models take 16 GB each in bfloat16.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from core.vrpo.llada import load_llada
from core.vrpo.preferences import Limits, Preference, load_tokenizer, read_preferences
from core.vrpo.scoring import Chunks, Model


class Subject(NamedTuple):
    """Two models and pairs, for `core.vrpo.budget.run_pilot`."""

    policy: Model
    reference: Model
    pairs: Sequence[Preference]
    chunks: Chunks


def public_subjects(
    policy: str, reference: str, preferences: str, *, count: int, device: str
) -> dict[str, Subject]:
    """Load what is named, or nothing where nothing is.

    Args:
        policy: folder of LLaDA-1.5, or another checkpoint in LLaDA's format; "" for none.
        reference: folder of LLaDA-8B-Instruct, or of another start.
        preferences: JSON Lines with prompt, chosen, rejected.
        count: pairs to measure, the first of the file; too long ones are left out.
        device: where the models compute.

    Returns:
        The policy's folder name -> the subject; empty where no policy is named.

    Raises:
        FileNotFoundError: something is not there: all that is needed, and where to get it.
    """
    if not policy:
        return {}
    where = "huggingface.co/GSAI-ML/LLaDA-1.5", "huggingface.co/GSAI-ML/LLaDA-8B-Instruct"
    missing = [
        f"needs a checkpoint in {path or '(no folder named)'}: download {what}"
        for path, what in zip((policy, reference), where, strict=True)
        if not (Path(path) / "config.json").is_file()
    ]
    if not Path(preferences).is_file():
        missing.append(
            f"needs preferences in {preferences or '(no file named)'}: JSON Lines with prompt, "
            "chosen, rejected, such as HuggingFaceH4/ultrafeedback_binarized"
        )
    if missing:
        raise FileNotFoundError("; ".join(missing))
    theta, start = (load_llada(folder, device=device).eval() for folder in (policy, reference))
    config = theta.config
    limits = Limits(config.vocab_size, config.mask_id, config.max_length)
    tokenizer = load_tokenizer(Path(reference), eos=config.eos_id)
    found = read_preferences(Path(preferences), limits, tokenizer=tokenizer, skip_bad=True)
    chunks = Chunks(config.mask_id, 8, torch.device(device))
    return {Path(policy).name: Subject(theta, start, found.kept[:count], chunks)}
