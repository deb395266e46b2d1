"""A folder of digits as pictures, and of their latents, that several tests read."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Scikit-learn's digits as grey pictures of 8 x 8, a folder for each digit; read only."""
    from sklearn.datasets import load_digits

    root, (images, labels) = tmp_path_factory.mktemp("digits"), load_digits(return_X_y=True)
    for i, (image, digit) in enumerate(zip(images.reshape(-1, 8, 8), labels, strict=True)):
        folder = root / str(digit)
        folder.mkdir(exist_ok=True)
        pixels = (image * 255 / 16).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}.png")
    return root


@pytest.fixture(scope="session")
def latents(digits, tmp_path_factory):
    """Their latents, which are pixels in [-1, 1]; read only."""
    from core.mup.encode import main

    out = tmp_path_factory.mktemp("latents") / "digits"
    asked = f"--images {digits} --out {out} --vae none --size 8 --grey --shard 700 --device cpu"
    assert main(asked.split()) == 0
    return out
