import numpy as np
import pytest
import torch

from core.lab import quote


@pytest.fixture
def glued(monkeypatch):
    """What reaches the page, instead of a kernel's display."""
    found = {}
    monkeypatch.setattr("myst_nb.glue", lambda name, value, display: found.update({name: value}))
    return found


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.float64(0.5), 0.5),
        (np.int64(20_000), 20_000),
        (torch.tensor(0.25), 0.25),
        (3, 3),
        ("3.2 ± 0.1", "3.2 ± 0.1"),
    ],
    ids=str,
)
def test_the_page_gets_a_value_that_takes_a_format(glued, value, wanted):
    quote("mesa-slope", value)
    assert glued == {"mesa-slope": wanted}
    assert type(glued["mesa-slope"]) is type(wanted)


def test_a_reader_in_jupyter_sees_it_too(glued, capsys):
    quote("mesa-slope", 2 / 3)
    quote("mesa-runs", 20_000)
    assert capsys.readouterr().out == "mesa-slope = 0.666667\nmesa-runs = 20000\n"


@pytest.mark.parametrize("value", [np.nan, float("inf"), -torch.inf], ids=str)
def test_what_is_not_finite_is_not_quoted(glued, value):
    with pytest.raises(ValueError, match="mesa-slope: want a finite number"):
        quote("mesa-slope", value)
    assert not glued


@pytest.mark.parametrize("name", ["", "a b", "a::b", "A", "a`b", "a-"])
def test_a_name_that_a_role_cannot_hold_is_refused(glued, name):
    with pytest.raises(ValueError, match="want a name"):
        quote(name, 1.0)
