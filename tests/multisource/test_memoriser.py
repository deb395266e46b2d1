"""The denoiser of a finite set, against closed forms and against what it must do."""

import numpy as np
import pytest
import torch

from core.multisource.edm import Edm, sample
from core.multisource.examples import Examples
from core.multisource.frechet import nearest
from core.multisource.memoriser import Memoriser

EDM = Edm()


def examples(images):
    n = len(images)
    return Examples(images, torch.zeros(n, dtype=torch.int64), np.arange(n))


def test_of_two_opposite_images_it_is_a_hyperbolic_tangent():
    a = torch.tensor([[0.3, -0.2, 0.5]])
    network = Memoriser(EDM, [examples(torch.cat([a, -a]))])
    x, sigma = torch.randn(1, 9, 3), torch.rand(1, 9) + 0.2
    expected = a * torch.tanh((x @ a.mT) / sigma[..., None] ** 2)
    found = EDM.denoised(network, x, sigma, torch.zeros(1, 9, dtype=torch.long))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_smaller_set_beside_a_larger_is_as_alone():
    few, many = torch.randn(3, 1, 2, 2), torch.randn(7, 1, 2, 2)
    x, c_noise, y = torch.randn(2, 5, 1, 2, 2), torch.randn(2, 5) / 2, torch.zeros(2, 5)
    both = Memoriser(EDM, [examples(few), examples(many)])(x, c_noise, y)
    for e, images in enumerate((few, many)):
        alone = Memoriser(EDM, [examples(images)])(x[e : e + 1], c_noise[e : e + 1], y[e : e + 1])
        torch.testing.assert_close(both[e : e + 1], alone, rtol=1e-4, atol=1e-5)


def test_its_samples_are_training_images():
    images = torch.randn(6, 1, 3, 3)
    start, y = torch.randn(1, 40, 1, 3, 3), torch.zeros(1, 40, dtype=torch.long)
    drawn = sample(EDM, Memoriser(EDM, [examples(images)]), start, y)[0]
    # the last step leaves a noise of 0.002, and its denoiser is the nearest image
    assert nearest(drawn, images).max() < 0.01
    assert nearest(images, drawn).max() < 0.01  # and each comes


def test_no_other_denoiser_has_a_lower_training_loss():
    images = torch.randn(5, 4)
    network = Memoriser(EDM, [examples(images)])
    x = images.repeat(2000, 1)[None]
    noise, sigma = torch.randn_like(x), torch.full(x.shape[:2], 0.7)
    y = torch.zeros(x.shape[:2], dtype=torch.long)

    def loss(F):
        return EDM.loss(F, x, noise, sigma, y).mean().item()

    least = loss(network)
    for other in (
        lambda *a: network(*a) + 0.05,
        lambda *a: 0.95 * network(*a),
        lambda x, *a: 0 * x,
    ):
        assert loss(other) > least


def test_nothing_to_know_is_refused():
    with pytest.raises(ValueError, match="at least one set"):
        Memoriser(EDM, [])
