"""Pairs of responses to a prompt, one preferred, as token ids: read, checked, and named by line.

A record has the fields `prompt`, `chosen`, `rejected`: as text; as conversations (lists of messages
with `role` and `content`), where the prompt may also be the messages that the two begin with; or as
lists of token ids, then also named `prompt_ids`, `chosen_ids`, `rejected_ids`.

    {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}
    {"chosen": [{"role": "user", ...}, {"role": "assistant", ...}], "rejected": [...]}
    {"prompt_ids": [5, 6], "chosen_ids": [7], "rejected_ids": [8, 9]}

What cannot be trained on is refused with its line and field, or left out, counted and listed.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from core.vrpo._records import Record, records
from core.vrpo._tokenizer import Message, NoTokenizer, Tokenizer, WhenNeeded, load_tokenizer

__all__ = [
    "Bad",
    "Limits",
    "Preference",
    "Preferences",
    "WhenNeeded",
    "digest",
    "load_tokenizer",
    "read_preferences",
]

Eos = int | Literal["tokenizer"] | None
FIELDS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True, eq=False)
class Preference:
    """A prompt and two responses to it."""

    prompt: Tensor
    """`[P]` int64; may be empty."""
    chosen: Tensor
    """`[L]` int64, at least one token."""
    rejected: Tensor
    """`[L']` int64, at least one token."""
    example: int
    """Its number, which names its masks: stays the same when others are left out."""
    where: str = ""
    """File and line."""


class Bad(NamedTuple):
    """A record that is left out."""

    where: str
    """File and line."""
    reason: str


class Preferences(NamedTuple):
    """What a file holds."""

    kept: list[Preference]
    bad: list[Bad]


@dataclass(frozen=True)
class Limits:
    """What the model can read."""

    vocab_size: int
    mask_id: int
    max_length: int
    """Tokens of prompt and response together."""


def read_preferences(
    path: Path,
    limits: Limits,
    *,
    tokenizer: Tokenizer | None = None,
    eos: Eos = "tokenizer",
    skip_bad: bool = False,
) -> Preferences:
    """Read and check all preferences of a file or folder.

    Args:
        path: a `.jsonl`, or (with pyarrow installed) `.parquet` or `.arrow` file, or a folder of
            such, read by name.
        limits: what the model can read.
        tokenizer: for text and conversations; token ids need none.
        eos: appended to each response in words that does not end in it: a token, what the
            tokenizer names, or None. Token ids are taken as they are.
        skip_bad: leave out what is bad, and list it, instead of refusing the first.

    Raises:
        NoTokenizer: text, and the tokenizer cannot be loaded; a ValueError too.
        ValueError: nothing to read, nothing good in it, or a bad record (without `skip_bad`): its
            file, line and field, what was found, and what to do.
    """
    kept: list[Preference] = []
    bad: list[Bad] = []
    for example, record in enumerate(records(path)):
        try:
            kept.append(_preference(record, example, limits, tokenizer, eos))
        except NoTokenizer:
            raise
        except ValueError as error:
            if not skip_bad:
                raise ValueError(
                    f"{record.where}: {error}; mend the line, or leave such lines out (--skip-bad)"
                ) from error
            bad.append(Bad(record.where, str(error)))
    if not kept:
        first = f": the first, {bad[0].where}: {bad[0].reason}" if bad else ""
        raise ValueError(f"{path}: no pair to train on, {len(bad)} bad record(s){first}")
    return Preferences(kept, bad)


def digest(data: list[Preference]) -> str:
    """Return a SHA-256 over all token ids and example numbers: what training depends on."""
    total = sha256()
    for pair in data:
        lengths = [pair.example, len(pair.prompt), len(pair.chosen), len(pair.rejected)]
        head = torch.tensor(lengths, dtype=torch.int64)
        for part in (head, pair.prompt, pair.chosen, pair.rejected):
            total.update(part.numpy().tobytes())
    return total.hexdigest()


def _preference(
    record: Record, example: int, limits: Limits, tokenizer: Tokenizer | None, eos: Eos
) -> Preference:
    if record.row is None:
        raise ValueError(record.reason)
    found, in_words = _token_ids(record.row, tokenizer)
    if eos == "tokenizer":
        eos = tokenizer.eos if tokenizer is not None and in_words else None
    for field in FIELDS[1:]:
        if not found[field]:
            raise ValueError(f"field {field!r}: want a response, got an empty one")
        if in_words and eos is not None and found[field][-1] != eos:
            found[field] = [*found[field], eos]
    for field, ids in found.items():
        _check(field, ids, limits)
    if found["chosen"] == found["rejected"]:
        raise ValueError("want two responses that differ, got the same tokens twice: remove it")
    longest = max(len(found["chosen"]), len(found["rejected"]))
    if len(found["prompt"]) + longest > limits.max_length:
        raise ValueError(
            f"too long: want at most {limits.max_length} tokens of prompt and response, got "
            f"{len(found['prompt'])} + {longest}"
        )
    tensors = (torch.tensor(ids, dtype=torch.int64) for ids in found.values())
    return Preference(*tensors, example=example, where=record.where)


def _check(field: str, ids: list[int], limits: Limits) -> None:
    for i in ids:
        if not 0 <= i < limits.vocab_size:
            raise ValueError(
                f"field {field!r}: want token ids in [0, {limits.vocab_size}), got {i}: is this "
                "the model's tokenizer?"
            )
    if limits.mask_id in ids:
        raise ValueError(
            f"field {field!r}: want no mask token ({limits.mask_id}), got it as token "
            f"{ids.index(limits.mask_id)}: the model would read it as masked; remove it"
        )


def _token_ids(
    row: dict[str, Any], tokenizer: Tokenizer | None
) -> tuple[dict[str, list[int]], bool]:
    """Return prompt, chosen and rejected as token ids, and whether they were in words."""
    named = any(f"{field}_ids" in row for field in FIELDS)
    keys = {field: f"{field}_ids" if named else field for field in FIELDS}
    for field in FIELDS[1:]:
        _want(row, keys[field])
    values = {field: row.get(key) for field, key in keys.items()}
    kinds = {field: _kind(values[field], keys[field]) for field in FIELDS if keys[field] in row}
    if kinds["chosen"] != kinds["rejected"]:
        raise ValueError(
            f"want {keys['chosen']!r} and {keys['rejected']!r} of one kind, got "
            f"{kinds['chosen']} and {kinds['rejected']}"
        )
    if kinds["chosen"] != "messages":
        _want(row, keys["prompt"])
    if kinds["chosen"] == "token ids":
        if kinds["prompt"] != "token ids":
            raise ValueError(
                f"field {keys['prompt']!r}: want token ids, as the responses are, got "
                f"{kinds['prompt']}"
            )
        return {field: list(values[field] or ()) for field in FIELDS}, False
    if named:
        raise ValueError(f"field {keys['chosen']!r}: want token ids, got {kinds['chosen']}")
    if tokenizer is None:
        raise ValueError(
            f"field 'chosen': got {kinds['chosen']}, which wants a tokenizer: name one "
            "(--tokenizer), or give token ids"
        )
    return dict(zip(FIELDS, _encoded(values, kinds, tokenizer), strict=True)), True


def _want(row: dict[str, Any], key: str) -> None:
    if key not in row:
        raise ValueError(f"field {key!r} is missing: the record has {', '.join(row) or 'none'}")


def _kind(value: Any, key: str) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        if all(isinstance(x, int) and not isinstance(x, bool) for x in value):
            return "token ids"
        if all(_is_message(x) for x in value):
            return "messages"
    found = repr(value)
    raise ValueError(
        f"field {key!r}: want text, messages with role and content, or token ids, got "
        f"{found[:60] + '...' if len(found) > 60 else found}"
    )


def _is_message(x: Any) -> bool:
    return isinstance(x, dict) and all(isinstance(x.get(k), str) for k in ("role", "content"))


def _encoded(
    values: dict[str, Any], kinds: dict[str, str], tokenizer: Tokenizer
) -> list[list[int]]:
    """Return texts and conversations as token ids."""
    prompt, kind = values["prompt"], kinds.get("prompt")
    if kind == "token ids" and prompt:
        raise ValueError(f"field 'prompt': want text or messages, as {kinds['chosen']} follow it")
    if kinds["chosen"] == "text" and kind == "text":
        return [tokenizer.text(values[field]) for field in FIELDS]
    if kinds["chosen"] == "text":  # a conversation, answered by a text
        answers = [[{"role": "assistant", "content": values[field]}] for field in FIELDS[1:]]
    else:
        answers = [values[field] for field in FIELDS[1:]]
    prompt = [{"role": "user", "content": prompt}] if kind == "text" else prompt
    prompt = prompt or _common(*answers)
    if not prompt:
        raise ValueError(
            "want a prompt: it is missing, and the responses begin with no message in common"
        )
    if all(answer[: len(prompt)] == prompt for answer in answers):  # conversations in full
        answers = [answer[len(prompt) :] for answer in answers]
    for field, answer in zip(FIELDS[1:], answers, strict=True):
        if not any(message["content"].strip() for message in answer):
            raise ValueError(f"field {field!r}: want a response, got an empty one")
    head = tokenizer.chat(prompt, answer=True)
    pairs = zip(FIELDS[1:], answers, strict=True)
    tails = [_tail(field, head, prompt + answer, tokenizer) for field, answer in pairs]
    return [tokenizer.text(text) for text in (head, *tails)]


def _tail(field: str, head: str, messages: list[Message], tokenizer: Tokenizer) -> str:
    whole = tokenizer.chat(messages, answer=False)
    if not whole.startswith(head):
        raise ValueError(
            f"field {field!r}: want a chat template that writes the prompt the same with and "
            "without an answer, got one that does not"
        )
    return whole[len(head) :]


def _common(first: list[Message], second: list[Message]) -> list[Message]:
    """Return the messages that both begin with; each keeps one, its answer."""
    count, most = 0, min(len(first), len(second)) - 1
    while count < most and first[count] == second[count]:
        count += 1
    return first[:count]
