"""What a tokenizer makes of a prompt's words."""

from typing import Any


def unseen(tokenizer: Any, prompt: str) -> list[str]:
    """Return the words of a prompt that a model does not see.

    They are unknown to the tokenizer, or in pieces of hardly more than a letter (as a small
    vocabulary leaves a word that it never saw), or cut off at the end of a prompt that is too long.

    Args:
        tokenizer: a `CLIPTokenizer`.
        prompt: words, parted by spaces.
    """
    lost, room = [], tokenizer.model_max_length - 2  # its start and end
    for word in prompt.split():
        pieces = tokenizer(word, add_special_tokens=False).input_ids
        room -= len(pieces)
        letters = sum(c.isalnum() for c in word)
        unknown = tokenizer.unk_token_id in pieces and word != tokenizer.unk_token
        if unknown or (letters > 1 and letters < 2 * len(pieces)) or room < 0:
            lost.append(word)
    return lost
