"""Sources of digits: whose images they are, who shares which, and how similar they are."""

from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from core.multisource.digits import MEAN, SD, closest, digits, distances, farthest


def originals(images):
    """The images in scikit-learn's numbers, 0 .. 16."""
    return [tuple((x.flatten() * 2 * SD + MEAN).round().int().tolist()) for x in images]


def known():
    pixels, target = (np.asarray(part).astype(int) for part in load_digits(return_X_y=True))
    return {tuple(x): y for x, y in zip(pixels.tolist(), target.tolist(), strict=True)}


def test_pixels_have_mean_zero_and_deviation_one_half():
    pixels = np.asarray(load_digits(return_X_y=True)[0])
    assert pytest.approx(pixels.mean(), abs=5e-4) == MEAN
    assert pytest.approx(pixels.std(), abs=5e-4) == SD


def test_a_source_has_its_own_digit_and_its_parts_share_no_image():
    split, labels = digits((3, 8), (20, 7), seed=1), known()
    assert [len(part.labels) for part in split.train] == [20, 7]
    for k, digit in enumerate((3, 8)):
        parts = [originals(column[k].images) for column in split[1:]]
        assert {labels[image] for part in parts for image in part} == {digit}
        assert sum(map(len, parts)) == len({image for part in parts for image in part})


def test_a_digit_named_twice_is_dealt():
    split = digits((5, 5, 2), 30, seed=4)
    one, other = (set(originals(split.train[k].images)) for k in (0, 1))
    assert len(one) == len(other) == 30
    assert not one & other
    assert not (one | other) & set(originals(split.test[0].images))
    # the held-out images are the same, their noise is not
    torch.testing.assert_close(split.test[0].images, split.test[1].images)
    assert not set(split.test[0].ids) & set(split.test[1].ids)


def test_a_run_names_its_split_and_more_images_begin_with_the_same():
    one, again, other = (digits((0, 1), 10, seed=1, run=run).train[0].images for run in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(digits((0, 1), 30, seed=1).train[0].images[:10], one)


def test_distances_are_a_table_of_classes():
    found = distances()
    np.testing.assert_allclose(found, found.T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.diag(found), 0, atol=1e-9)
    assert (found[~np.eye(10, dtype=bool)] > 1).all()


@pytest.mark.parametrize("K", [2, 3])
def test_closest_and_farthest_are_the_ends_of_all_choices(K):
    def spread(chosen):
        return sum(distances()[a][b] for a, b in combinations(chosen, 2))

    everything = sorted(spread(chosen) for chosen in combinations(range(10), K))
    assert spread(closest(K)) == pytest.approx(everything[0])
    assert spread(farthest(K)) == pytest.approx(everything[-1])


def test_more_images_than_there_are_is_refused_with_their_number():
    with pytest.raises(ValueError, match=r"want n of 1 to 94 .* digit 0.* 178, of which 84"):
        digits((0, 1), 95, seed=1)
    with pytest.raises(ValueError, match="of which 84 are held out and 60 train other sources"):
        digits((0, 0), 60, seed=1)


@pytest.mark.parametrize(
    ("sources", "n", "message"),
    [((3, 10), 5, "digits of 0 to 9, got 10"), ((3, 4), (5,), "one n or 2"), ((3, 4), 0, "got 0")],
)
def test_what_does_not_occur_is_refused(sources, n, message):
    with pytest.raises(ValueError, match=message):
        digits(sources, n, seed=1)


@pytest.mark.parametrize("K", [1, 11])
def test_one_digit_has_no_distance(K):
    with pytest.raises(ValueError, match="2 to 10 digits"):
        closest(K)
