"""Drawing with replacement, against every outcome there is, and against draws."""

from itertools import product

import numpy as np
import pytest
import torch

from core.multisource.replacement import drawn_with_replacement


@pytest.mark.parametrize(("n", "N"), [(1, 1), (5, 1), (1, 2), (4, 2), (3, 3), (4, 5), (6, 4)])
def test_every_outcome_is_counted(n, N):
    outcomes = [set(draw) for draw in product(range(N), repeat=n)]
    counts = [len(outcome) for outcome in outcomes]
    found = drawn_with_replacement(n, N)
    assert found.mean == pytest.approx(np.mean(counts), rel=1e-12)
    assert found.sd == pytest.approx(np.std(counts), rel=1e-9, abs=1e-12)
    assert found.fraction == pytest.approx(np.mean(counts) / n, rel=1e-12)
    # of two independent draws, an image is in both with the square of its chance
    chance = np.mean([[i in outcome for i in range(N)] for outcome in outcomes], axis=0)
    assert found.in_both == pytest.approx(np.square(chance).sum(), rel=1e-12)


def test_the_published_draw_gives_as_many_images():
    # torch.randint excludes its upper end: of 1300 images one less can come
    draws = [torch.unique(torch.randint(0, 1300 - 1, size=[500])).numel() for _ in range(400)]
    found = drawn_with_replacement(500, 1299)
    assert np.mean(draws) == pytest.approx(found.mean, abs=4 * found.sd / 20)
    # a sd of 400 draws has a relative sd of 1/sqrt(800) = 3.5 %: allow four
    assert np.std(draws, ddof=1) == pytest.approx(found.sd, rel=0.14)


@pytest.mark.parametrize(("n", "N"), [(0, 5), (5, 0), (-1, 5)])
def test_no_draw_and_no_image_are_refused(n, N):
    with pytest.raises(ValueError, match="n >= 1 draws from N >= 1"):
        drawn_with_replacement(n, N)
