import logging

import pytest
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from core.controlvideo.prompts import unseen
from core.controlvideo.scenes import COLOURS, SHAPES, TEXTURES
from core.controlvideo.small import TOKENS, make_tokenizer, small


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_words_of_the_vocabulary_are_seen(tokenizer):
    for word in ("a", "on", *COLOURS, *SHAPES, *TEXTURES):
        assert unseen(tokenizer, word) == []
    assert unseen(tokenizer, "") == []


@pytest.mark.parametrize(
    ("prompt", "lost"),
    [
        ("a purple circle", ["purple"]),
        ("a red zebra on jam", ["zebra", "jam"]),
        ("a red circle ü", ["ü"]),
    ],
)
def test_words_in_pieces_are_not(tokenizer, prompt, lost):
    assert unseen(tokenizer, prompt) == lost


def test_nor_is_what_no_longer_fits(tokenizer):
    room = TOKENS - 2
    words = ["red"] * room
    assert unseen(tokenizer, " ".join(words)) == []
    assert unseen(tokenizer, " ".join([*words, "blue", "white"])) == ["blue", "white"]


@pytest.fixture(scope="module")
def clip():
    """Return a tokenizer that knows each byte, as CLIP's does, and a few words."""
    vocab, merges = {"<|startoftext|>": 0, "<|endoftext|>": 1}, []
    for byte in ByteLevel.alphabet():
        vocab |= {byte: len(vocab), f"{byte}</w>": len(vocab) + 1}
    for word in ("red", "car", "cat", "dog", "it", "'s"):
        grown = word[0]
        for letter in (*word[1:-1], f"{word[-1]}</w>"):
            merges.append((grown, letter))
            grown += letter
            vocab.setdefault(grown, len(vocab))
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=20)


@pytest.mark.parametrize(
    ("prompt", "lost"),
    [
        ("a cat.", []),
        ("a red car, a cat", []),
        ("it's a dog, 4k", []),
        ("A Red-Cat (1:2) ... a  dog!?", []),
        ("a zebra, a cat.", ["zebra"]),
        ("it's zebra's", ["zebra"]),
    ],
)
def test_marks_at_a_word_do_not_hide_it(clip, prompt, lost):
    assert unseen(clip, prompt) == lost


def test_marks_that_a_vocabulary_lacks_are_named(tokenizer):
    assert unseen(tokenizer, "a red circle, a square.") == [",", "."]


def test_the_token_of_the_end_is_seen(tokenizer):
    assert unseen(tokenizer, "a <|endoftext|>") == []


def test_the_pipeline_tells(caplog):
    pipe = small()
    with caplog.at_level(logging.WARNING):
        pipe.encode_prompt("a red circle")
        assert not caplog.records
        pipe.encode_prompt("a purple circle")
    assert "does not see purple" in caplog.text
