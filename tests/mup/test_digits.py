"""Digits: the forward process against diffusers' own, keyed draws, and images that are held out."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from core.mup.digits import HELD_OUT, STEPS, alpha_bar, draw, held_out


def known():
    """scikit-learn's images, as sixty-four numbers of 0 .. 16, and their labels."""
    pixels, target = (np.asarray(part).astype(int) for part in load_digits(return_X_y=True))
    return {tuple(x): y for x, y in zip(pixels.tolist(), target.tolist(), strict=True)}


def clean(batch):
    """The images, from what was made of them."""
    kept = alpha_bar()[batch.t].view(-1, 1, 1, 1)
    return (batch.x_t - (1 - kept).sqrt() * batch.noise) / kept.sqrt()


def originals(batch):
    """The images in scikit-learn's numbers, 0 .. 16, which float32 keeps apart at all times."""
    return [tuple(x.flatten().tolist()) for x in ((clean(batch) + 1) * 8).round().int()]


def test_the_forward_process_is_ddpm_as_diffusers_has_it():
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    theirs = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    assert len(theirs.alphas_cumprod) == STEPS
    # theirs is a product of 1000 float32 factors
    torch.testing.assert_close(alpha_bar().float(), theirs.alphas_cumprod, rtol=1e-4, atol=0)
    batch = draw(0, 0, 64)
    noised = theirs.add_noise(clean(batch).float(), batch.noise, batch.t)  # type: ignore[arg-type]
    torch.testing.assert_close(batch.x_t, noised, rtol=1e-4, atol=1e-4)


def test_images_are_scikit_learns_between_minus_one_and_one():
    assert set(originals(draw(1, 2, 256))) | set(originals(held_out())) <= set(known())
    x = clean(draw(1, 2, 256))
    assert x.min() == pytest.approx(-1, abs=1e-3)
    assert x.max() == pytest.approx(1, abs=1e-3)


def test_labels_belong_to_their_images():
    labels, batch = known(), draw(3, 0, 256)
    assert [labels[image] for image in originals(batch)] == batch.y.tolist()


def test_noise_is_standard_normal_and_times_are_uniform():
    batch = draw(5, 0, 4000)
    n = batch.noise.numel()
    assert abs(batch.noise.mean().item()) < 4 / n**0.5
    assert batch.noise.var().item() == pytest.approx(1, abs=4 * (2 / n) ** 0.5)
    t = batch.t.double()
    assert t.mean().item() == pytest.approx(499.5, abs=4 * STEPS / (12 * 4000) ** 0.5)
    assert batch.t.min() >= 0
    assert batch.t.max() < STEPS


def test_from_an_image_to_noise():
    batch = draw(7, 0, 20_000)
    early, late = batch.t < 20, batch.t > 950
    # diffusers: 1 - alpha_bar is 0.006 at t = 19, alpha_bar is 0.0001 at t = 950
    assert (batch.x_t - clean(batch))[early].square().mean() < 0.006
    correlation = torch.corrcoef(torch.stack([batch.x_t[late], batch.noise[late]]).flatten(1))
    assert correlation[0, 1] > 0.9999


def test_a_name_gives_the_same_batch_and_another_another():
    for one, again in zip(draw(0, 3, 8), draw(0, 3, 8), strict=True):
        assert torch.equal(one, again)
    for other in (draw(0, 4, 8), draw(1, 3, 8)):
        assert not torch.equal(draw(0, 3, 8).noise, other.noise)
        assert not torch.equal(draw(0, 3, 8).t, other.t)


def test_what_is_held_out_is_never_drawn():
    drawn = {image for step in range(40) for image in originals(draw(0, step, 256))}
    assert len(drawn) > 1280  # of 1285, each missed with probability e^-8
    assert not drawn & set(originals(held_out()))


def test_held_out_images_are_distinct_and_fixed():
    batch = held_out()
    assert len(batch.y) == HELD_OUT
    assert len(set(originals(batch))) == HELD_OUT
    assert all(torch.equal(a, b) for a, b in zip(batch, held_out(), strict=True))


@pytest.mark.parametrize("size", [1, 7, 100, 512])
def test_held_out_times_are_one_in_each_equal_part(size):
    t = held_out(size).t
    edges = torch.arange(size + 1) * STEPS / size
    # a time is an integer: it may lie up to one below its part
    assert ((t > edges[:-1] - 1) & (t < edges[1:])).all()


def test_every_digit_is_on_both_sides_of_the_split():
    assert set(held_out().y.tolist()) == set(draw(0, 0, 512).y.tolist()) == set(range(10))


def test_a_batch_goes_to_another_precision():
    batch = draw(0, 0, 4)
    double = batch.to("cpu", torch.float64)
    assert (double.x_t.dtype, double.noise.dtype) == (torch.float64, torch.float64)
    assert (double.t.dtype, double.y.dtype) == (torch.int64, torch.int64)
    assert torch.equal(double.x_t.float(), batch.x_t)


@pytest.mark.parametrize("size", [0, -1])
def test_an_empty_batch_is_refused(size):
    with pytest.raises(ValueError, match="at least one image"):
        draw(0, 0, size)


@pytest.mark.parametrize("size", [0, HELD_OUT + 1])
def test_more_than_was_held_out_is_refused(size):
    with pytest.raises(ValueError, match="want 1 to 512 images"):
        held_out(size)
