"""What a tokenizer makes of a prompt's words."""

from typing import Any


def unseen(tokenizer: Any, prompt: str) -> list[str]:
    """Return the words of a prompt that a model does not see.

    They are unknown to the tokenizer, or in pieces of hardly more than a letter (as a small
    vocabulary leaves a word that it never saw), or cut off at the end of a prompt that is too long.

    Args:
        tokenizer: a `CLIPTokenizer`; it says what a word is: letters, a digit, an ending as in
            "it's", or marks in a row.
        prompt: what is asked.
    """
    found = tokenizer(prompt, add_special_tokens=False, verbose=False)
    lost, room = [], tokenizer.model_max_length - 2  # its start and end
    of_words, ids = found.word_ids(), found.input_ids
    for index in dict.fromkeys(of_words):
        word = prompt[slice(*found.word_to_chars(index))]
        pieces = [piece for piece, of in zip(ids, of_words, strict=True) if of == index]
        room -= len(pieces)
        letters = sum(c.isalnum() for c in word)
        unknown = tokenizer.unk_token_id in pieces and word != tokenizer.unk_token
        if unknown or (letters > 1 and letters < 2 * len(pieces)) or room < 0:
            lost.append(word)
    return lost
