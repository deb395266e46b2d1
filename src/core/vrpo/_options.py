"""What the training command is asked, and what can be refused before a model is loaded."""

from dataclasses import dataclass
from pathlib import Path

import torch

from core.train.distributed import Kind
from core.vrpo.llada import read_config
from core.vrpo.model import Config
from core.vrpo.preferences import Eos, Limits, Preference, Preferences, WhenNeeded, read_preferences


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
    """Return the pairs, checked against the configurations of model and reference.

    Raises:
        ValueError, FileNotFoundError: see `read_preferences`, `read_config`, `check_reference`.
    """
    config = read_config(options.model)
    _check_eos(options.eos, config)
    longest = min(options.max_length or config.max_length, config.max_length)
    limits = Limits(config.vocab_size, config.mask_id, longest)
    tokenizer = WhenNeeded(options.tokenizer or options.model, eos=config.eos_id)
    data = read_preferences(
        options.data, limits, tokenizer=tokenizer, eos=options.eos, skip_bad=options.skip_bad
    )
    if options.reference is not None:
        check_reference(config, read_config(options.reference), data.kept)
    return data


def _check_eos(eos: Eos, config: Config) -> None:
    if isinstance(eos, int) and (not 0 <= eos < config.vocab_size or eos == config.mask_id):
        raise ValueError(
            f"want --eos among the model's {config.vocab_size} tokens and not the mask token "
            f"({config.mask_id}), got {eos}"
        )


def check_reference(model: Config, reference: Config, data: list[Preference]) -> None:
    """Refuse a reference that does not read what the model reads.

    Raises:
        ValueError: mask tokens or vocabularies differ, or a pair is too long for the reference.
    """
    for name in ("mask_id", "vocab_size"):
        ours, theirs = getattr(model, name), getattr(reference, name)
        if ours != theirs:
            raise ValueError(
                f"want a reference of the model's {name}, {ours}, got {theirs}: masked log-"
                "likelihoods of the two cannot be compared"
            )
    longest = max(len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in data)
    if longest > reference.max_length:
        raise ValueError(
            f"want a reference that reads the longest pair, {longest} tokens, got one that reads "
            f"{reference.max_length} (the model reads {model.max_length}): leave such pairs out, "
            f"--max-length {reference.max_length} --skip-bad"
        )
