import logging

import pytest

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


def test_the_pipeline_tells(caplog):
    pipe = small()
    with caplog.at_level(logging.WARNING):
        pipe.encode_prompt("a red circle")
        assert not caplog.records
        pipe.encode_prompt("a purple circle")
    assert "does not see purple" in caplog.text
