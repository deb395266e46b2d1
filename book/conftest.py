"""What nbval leaves out when it executes a chapter again: the numbers behind its figures.

It ignores pictures and metadata. They are compared here, cell by cell, with the tolerance of
`core.batch.figures`; a figure that was committed without numbers is not.
"""

import pytest

from core.batch.figures import differences
from core.batch.notebook import panels_of


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fail a cell whose figures have moved."""
    result = yield
    committed, fresh = panels_of(item.cell.outputs), panels_of(item.test_outputs)
    if committed and len(committed) != len(fresh):
        item.raise_cell_error(
            f"{len(committed)} figures were committed, here are {len(fresh)}"
        )
    moved = [
        line
        for pair in zip(committed, fresh, strict=False)
        for line in differences(*pair)
    ]
    if moved:
        item.raise_cell_error(
            "The numbers behind a figure differ", "\n".join(map(str, moved))
        )
    return result
