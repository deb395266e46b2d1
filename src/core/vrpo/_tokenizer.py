"""Text and conversations as token ids, by a tokenizer that lies in a folder or a file.

No token is added to a text: a chat template writes its own markers, and the end of a response is
appended where preferences are read.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

Message = dict[str, str]


class NoTokenizer(ValueError):
    """There is no tokenizer, which is no fault of the text."""


class Tokenizer(Protocol):
    """What reading preferences needs of a tokenizer."""

    @property
    def eos(self) -> int | None:
        """Return the token that ends a response, None if the tokenizer names none."""
        ...

    def text(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ...

    def chat(self, messages: list[Message], *, answer: bool) -> str:
        """Return a conversation as its template writes it.

        Args:
            messages: with `role` and `content` each.
            answer: whether an answer of the assistant is to follow.

        Raises:
            ValueError: there is no template, or it refuses the messages.
        """
        ...


def load_tokenizer(path: Path, *, eos: int | None = None) -> Tokenizer:
    """Return the tokenizer of a folder (by `transformers`) or of a `tokenizer.json`.

    Args:
        path: the folder or file.
        eos: the token that ends a response, where the tokenizer names none.

    Raises:
        NoTokenizer: there is none, it cannot be read, or the package that reads it is missing.
    """
    if not path.exists():
        raise NoTokenizer(
            f"want a tokenizer, a folder or a tokenizer.json, found nothing at {path}"
        )
    if path.is_dir() and not any(path.glob("tokenizer*")):
        raise NoTokenizer(
            f"{path} holds no tokenizer: name a folder that does, or a tokenizer.json"
        )
    try:
        return _Folder(path, eos) if path.is_dir() else _File(path, eos)
    except ImportError as missing:
        raise NoTokenizer(f"{path}: to read this tokenizer, install {missing.name}") from missing
    except Exception as error:  # the libraries raise whatever they like, bare Exception too
        said = " ".join(str(error).split())
        raise NoTokenizer(f"{path}: not a tokenizer that can be read: {said}") from error


class WhenNeeded:
    """A tokenizer that is loaded at its first use: token ids need none, and loading takes time."""

    def __init__(self, path: Path, *, eos: int | None = None) -> None:
        """Stand for `load_tokenizer(path, eos=eos)`."""
        self.path, self.end = path, eos

    @cached_property
    def inner(self) -> Tokenizer:
        """Return the tokenizer itself."""
        return load_tokenizer(self.path, eos=self.end)

    @property
    def eos(self) -> int | None:
        """Return the token that ends a response."""
        return self.inner.eos

    def text(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return self.inner.text(text)

    def chat(self, messages: list[Message], *, answer: bool) -> str:
        """Return a conversation as its template writes it."""
        return self.inner.chat(messages, answer=answer)


class _Folder:
    def __init__(self, path: Path, eos: int | None) -> None:
        from transformers import AutoTokenizer

        self.inner: Any = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
        named = self.inner.eos_token_id
        self.eos = eos if named is None else named

    def text(self, text: str) -> list[int]:
        return self.inner(text, add_special_tokens=False)["input_ids"]

    def chat(self, messages: list[Message], *, answer: bool) -> str:
        if not self.inner.chat_template:
            raise ValueError("messages want a tokenizer with a chat template, this one has none")
        try:
            return self.inner.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=answer
            )
        except Exception as error:  # a template raises its own
            raise ValueError(f"the chat template refuses the messages: {error}") from error


class _File:
    def __init__(self, path: Path, eos: int | None) -> None:
        from tokenizers import Tokenizer as Inner

        self.inner, self.eos = Inner.from_file(str(path)), eos

    def text(self, text: str) -> list[int]:
        return self.inner.encode(text, add_special_tokens=False).ids

    def chat(self, messages: list[Message], *, answer: bool) -> str:
        raise ValueError(
            "messages want a chat template, which a tokenizer.json has not: "
            "give the tokenizer's folder"
        )
