"""The runs of the figures against the flow they discretise, and their scaling with T."""

import numpy as np
import pytest

from core.mesa.published import INITS, published_runs


@pytest.mark.parametrize("run", published_runs(), ids=lambda run: run.start.name)
def test_a_hundred_times_smaller_steps_follow_the_flow(run):
    fine = type(run)(run.start, run.T, run.lr / 100, run.epochs)
    # Euler's error is first order: from the same start, a hundredth of the step
    assert np.abs(fine.train() - fine.solve()).max() < 0.02


def test_curves_start_at_the_products_of_the_initialisations():
    run = published_runs()[0]
    expected = [a * b for a, b in INITS]
    assert run.train()[0] == pytest.approx(expected)
    assert run.solve()[0] == pytest.approx(expected)
    assert run.train().shape == (run.epochs + 1, len(INITS))


def test_other_lengths_keep_the_sum_of_the_steps():
    long, short = published_runs(5, 100)[1], published_runs(5, 20)[1]
    assert short.lr * 18 == pytest.approx(long.lr * 98)
