"""An epoch is every example once, and any step of it can be had at once."""

import pytest

from core.train.order import batches, rows_at


@pytest.mark.parametrize(("count", "size"), [(7, 3), (6, 3), (1, 4), (5, 1)])
def test_an_epoch_is_every_example_once_in_an_order_of_its_own(count, size):
    each = batches(count, size)
    steps = [rows_at(count, step, size=size, seed=4) for step in range(2 * each)]
    assert [epoch for epoch, _ in steps] == [0] * each + [1] * each
    orders = [[row for e, rows in steps if e == epoch for row in rows] for epoch in (0, 1)]
    assert [sorted(order) for order in orders] == [list(range(count))] * 2
    assert count < 5 or orders[0] != orders[1]
    assert all(len(rows) <= size for _, rows in steps)


def test_another_seed_is_another_order_and_no_step_asks_for_those_before():
    assert rows_at(100, 13, size=5, seed=0) == rows_at(100, 13, size=5, seed=0)
    assert rows_at(100, 13, size=5, seed=0) != rows_at(100, 13, size=5, seed=1)
