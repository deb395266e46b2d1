"""How batches come: passes, keyed noise, and the split into sources."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from core.multisource.examples import Examples, Sources, noise, order


def images(n, value=0.0, size=2):
    return torch.full((n, 1, size, size), value)


def two_sources(n=(3, 5)):
    return Sources.labelled(
        ["a", "b"],
        [(images(n[k], float(k)), images(2, 10.0 + k), images(4, 20.0 + k)) for k in (0, 1)],
    )


@pytest.mark.parametrize(("size", "first", "count"), [(5, 0, 17), (5, 7, 1), (1, 0, 4), (6, 12, 6)])
def test_a_pass_is_a_permutation(size, first, count):
    whole = order(1, 0, 0, size=size, first=0, count=size * 6)
    for p in range(6):
        rows, passes = whole[p * size : (p + 1) * size].T
        assert sorted(rows) == list(range(size))
        assert set(passes) == {p}
    assert size < 5 or len({tuple(rows) for rows in whole[:, 0].reshape(6, size)}) > 1
    # whoever asks for a part gets that part
    part = order(1, 0, 0, size=size, first=first, count=count)
    np.testing.assert_array_equal(part, whole[first : first + count])


def test_orders_differ_by_run_and_by_who_asks():
    ways = [(1, 0, 0), (1, 1, 0), (2, 0, 0), (1, 0, 1)]
    orders = [tuple(order(*way, size=30, first=0, count=30)[:, 0]) for way in ways]
    assert len(set(orders)) == len(ways)


@pytest.mark.parametrize("size", [3, 65, 5000])
def test_noise_belongs_to_an_example_and_its_turn(size):
    ids, draws = np.array([4, 9, 4, 4]), np.array([0, 70, 33, 0])
    together = noise(1, 2, ids, draws, size)
    for i in range(4):
        alone = noise(1, 2, ids[i : i + 1], draws[i : i + 1], size)
        np.testing.assert_array_equal(alone[0], together[i])
    np.testing.assert_array_equal(together[0], together[3])
    assert len({row.tobytes() for row in together}) == 3
    assert not (together == noise(1, 3, ids, draws, size)).any()
    assert not (together == noise(2, 2, ids, draws, size)).any()


def test_noise_is_standard_normal_and_uncorrelated_from_turn_to_turn():
    found = noise(0, 0, np.repeat(np.arange(50), 40), np.tile(np.arange(40), 50), 9)
    # a true normal is this far away once in a thousand
    assert kstest(found.flatten(), "norm").pvalue > 1e-3
    turns = found.reshape(50, 40, 9)
    correlation = np.corrcoef(turns[:, :-1].flatten(), turns[:, 1:].flatten())[0, 1]
    assert abs(correlation) < 4 / np.sqrt(50 * 39 * 9)


def test_sources_are_numbered_and_every_example_is_named_once():
    sources = two_sources()
    assert [set(part.labels.tolist()) for part in sources.test] == [{0}, {1}]
    assert [len(part.labels) for part in sources.train] == [3, 5]
    ids = np.concatenate([part.ids for column in sources[1:] for part in column])
    assert sorted(ids) == list(range(3 + 5 + 2 * 2 + 2 * 4))


def test_joined_examples_keep_image_label_and_name_together():
    sources = two_sources()
    joined = Examples.joined(sources.train)
    assert joined.labels.tolist() == [0] * 3 + [1] * 5
    torch.testing.assert_close(joined.images[:, 0, 0, 0], joined.labels.float())
    np.testing.assert_array_equal(joined.ids[3:], sources.train[1].ids)


def test_a_source_without_images_is_named():
    with pytest.raises(ValueError, match="training images, and 'b' has none"):
        two_sources((3, 0))


def test_held_out_sets_of_two_sizes_are_refused():
    parts = [(images(3), images(2), images(4)), (images(3), images(2), images(5))]
    with pytest.raises(ValueError, match=r"as many test images of each source, got \[4, 5\]"):
        Sources.labelled(["a", "b"], parts)


def test_images_of_two_shapes_and_names_that_do_not_match_are_refused():
    part = (images(3), images(2), images(4))
    with pytest.raises(ValueError, match="one shape"):
        Sources.labelled(["a", "b"], [part, (images(3, size=3), images(2), images(4))])
    with pytest.raises(ValueError, match="a name a source, got 1 and 2"):
        Sources.labelled(["a"], [part, part])
