import base64
import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.lab import clip


@pytest.fixture
def shown(monkeypatch):
    """Return a function: the HTML that a clip shows."""

    def show(*args, **options):
        out = []
        monkeypatch.setattr("IPython.display.display", lambda page, metadata: out.append(page))
        clip(*args, **options)
        return out[0].data

    return show


def images(page):
    found = re.findall(r"data:image/(webp|png);base64,([A-Za-z0-9+/=]+)", page)
    files: dict[str, Any] = {
        kind: Image.open(io.BytesIO(base64.b64decode(data))) for kind, data in found
    }
    return files


def frame(image, i):
    image.seek(i)
    return np.asarray(image.convert("RGB"))


WORDS = {"alt": "a disc <moves>", "caption": "Look at the disc."}


def test_frames_are_there_to_the_bit_and_side_by_side(shown, rng):
    bytes_ = rng.integers(256, size=(2, 5, 6, 4, 3))
    panels = {"source": bytes_[0] / 255, "edit": (bytes_[1] / 255).transpose(0, 3, 1, 2)}
    found = images(shown(panels, **WORDS))
    moving = found["webp"]
    assert (moving.n_frames, moving.size) == (5, (9, 6))
    for i in range(5):
        assert (frame(moving, i)[:, :4] == bytes_[0, i]).all()
        assert (frame(moving, i)[:, 5:] == bytes_[1, i]).all()
    assert moving.info["loop"] == 0
    strip = np.asarray(found["png"])
    assert strip.shape == (5 * 6 + 4, 9, 3)
    assert (strip[7:13, 5:] == bytes_[1, 1]).all()


def test_the_page_has_words_and_a_strip_for_who_wants_no_motion(shown):
    page = shown({"a & b": np.zeros((2, 4, 4, 3))}, **WORDS)
    assert 'alt="a disc &lt;moves&gt;"' in page
    assert "a &amp; b" in page
    assert "(prefers-reduced-motion: reduce), print" in page
    assert page == shown({"a & b": np.zeros((2, 4, 4, 3))}, **WORDS)


@pytest.mark.parametrize(
    ("panels", "words", "message"),
    [
        ({}, WORDS, "want videos of one shape"),
        ({"a": np.zeros((2, 4, 4, 3)), "b": np.zeros((3, 4, 4, 3))}, WORDS, "one shape"),
        ({"a": np.zeros((2, 4, 4))}, WORDS, "a: want a video"),
        ({"a": np.full((2, 4, 4, 3), 1.5)}, WORDS, r"pixels in \[0, 1\], got 1.5"),
        ({"a": np.full((2, 4, 4, 3), np.nan)}, WORDS, r"pixels in \[0, 1\]"),
        ({"a": np.zeros((2, 4, 4, 3))}, {**WORDS, "alt": " "}, "want an alt text"),
        ({"a": np.zeros((2, 4, 4, 3))}, {**WORDS, "seconds": 0.0}, "0.001 seconds, got 0.0"),
        ({"a": np.zeros((2, 4, 4, 3))}, {**WORDS, "seconds": -1.0}, "0.001 seconds, got -1.0"),
    ],
)
def test_what_cannot_be_shown_is_refused(shown, panels, words, message):
    with pytest.raises(ValueError, match=message):
        shown(panels, **words)
