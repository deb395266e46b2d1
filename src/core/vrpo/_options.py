"""What the training command is asked, and what can be refused before a model is loaded."""

from dataclasses import dataclass
from pathlib import Path

import torch

from core.train.checkpoint import checkpoints
from core.train.distributed import Kind
from core.vrpo.llada import read_config
from core.vrpo.preferences import Eos, Limits, Preferences, WhenNeeded, read_preferences


@dataclass(frozen=True)
class Options:
    """What the command was asked, but for the recipe."""

    model: Path
    data: Path
    out: Path | None = None
    tokenizer: Path | None = None
    eos: Eos = "tokenizer"
    max_length: int | None = None
    skip_bad: bool = False
    reference: Path | None = None
    reference_scores: Path | None = None
    lora: int | None = None
    lora_alpha: float | None = None
    dtype: torch.dtype = torch.float32
    shard: Kind = "none"
    checkpointing: bool = False
    save_every: int = 50
    keep: int = 2
    resume: bool = False

    @property
    def weights(self) -> torch.dtype:
        """The dtype that the policy is loaded in: of what is trained, or of what carries adapters.

        A learning rate of 5e-7 would be lost in weights of half precision.
        """
        half = self.dtype == torch.bfloat16
        return torch.float32 if half and self.lora is None else self.dtype


def check_out(options: Options) -> None:
    """Refuse a folder that holds another run.

    Raises:
        ValueError: there is a run, and it is not to be resumed.
    """
    out = options.out
    if out is None:
        raise ValueError("want --out, a folder for the result")
    if out.exists() and not out.is_dir():
        raise ValueError(f"want --out to be a folder, {out} is a file")
    held = [name for name in ("run.json", "model", "adapters") if (out / name).exists()]
    if (held or checkpoints(out / "checkpoints")) and not options.resume:
        raise ValueError(
            f"{out} holds a run already: go on with it (--resume), or name another folder"
        )


def check_scores(path: Path) -> None:
    """Refuse to write scores over something.

    Raises:
        ValueError: there is such a file, or no folder to put it.
    """
    if path.exists():
        raise ValueError(f"{path} exists: remove it, or name another file")
    if not path.parent.is_dir():
        raise ValueError(f"want a file in a folder that exists, got {path}")


def read_data(options: Options) -> Preferences:
    """Return the pairs, checked against the model's configuration.

    Raises:
        ValueError, FileNotFoundError: see `read_preferences`, `read_config`.
    """
    config = read_config(options.model)
    longest = min(options.max_length or config.max_length, config.max_length)
    limits = Limits(config.vocab_size, config.mask_id, longest)
    tokenizer = WhenNeeded(options.tokenizer or options.model, eos=config.eos_id)
    return read_preferences(
        options.data, limits, tokenizer=tokenizer, eos=options.eos, skip_bad=options.skip_bad
    )
