"""What each parametrization makes of the learning rates at three times the width."""

import pytest

from core.mup.parametrizations import PARAMETRIZATIONS, WRONG
from core.mup.rules import Entry

M = 3.0
MUP = {
    "input": Entry((6, 5), "input", 1, M, (6, 5)),
    "hidden": Entry((6, 6), "hidden", M, M, (6, 6)),
    "output": Entry((5, 6), "output", M, 1, (5, 6), fold=1 / M),
    "vector": Entry((6,), "vector", m_out=M),
    "finite": Entry((5,), "finite"),
}
# Adam's learning rate of input, hidden, output, vector
RATES = {
    "mup": (1, 1 / M, 1 / M, 1),
    "standard": (1, 1, 1, 1),
    "hidden lr not scaled": (1, 1, 1 / M, 1),
    "hidden lr / sqrt(m)": (1, M**-0.5, 1 / M, 1),
    "output lr not scaled": (1, 1 / M, 1, 1),
    "every lr / m": (1 / M, 1 / M, 1 / M, 1 / M),
    "lr / m^1.5": (1, M**-1.5, M**-1.5, 1),
    "hidden init not scaled": (1, 1 / M, 1 / M, 1),
    "output init by fan-in": (1, 1 / M, 1 / M, 1),
    "forward factor": (1, 1 / M, 1, 1),
    "attention / sqrt(d)": (1, 1 / M, 1 / M, 1),
}


def test_every_parametrization_is_in_the_table():
    assert set(RATES) == set(PARAMETRIZATIONS)


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_the_learning_rates_are_what_the_name_says(name):
    changed = {kind: PARAMETRIZATIONS[name](entry) for kind, entry in MUP.items()}
    found = [changed[k].multipliers("adamw").lr for k in ("input", "hidden", "output", "vector")]
    assert found == pytest.approx(RATES[name])
    assert changed["finite"].multipliers("adamw") == (1, 1, 1)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_learning_rate_leaves_initialisation_and_epsilon_alone(name):
    for entry in MUP.values():
        changed = PARAMETRIZATIONS[name](entry)
        assert changed.init == entry.init
        assert changed.multipliers("adamw").eps == entry.multipliers("adamw").eps


@pytest.mark.parametrize(
    ("name", "kind", "init"),
    [("hidden init not scaled", "hidden", 1.0), ("output init by fan-in", "output", M**-0.5)],
)
def test_a_wrong_initial_law_leaves_every_optimizer_alone(name, kind, init):
    for entry in MUP.values():
        changed = PARAMETRIZATIONS[name](entry)
        assert changed.init == pytest.approx(init if entry.kind == kind else entry.init)
        for optimizer in ("adamw", "decoupled", "adam", "sgd"):
            assert changed.multipliers(optimizer) == entry.multipliers(optimizer)


def test_the_wrong_ones_are_those_of_the_learning_rate():
    assert {name for name in RATES if " lr " in f" {name} "} == set(WRONG)


def test_the_standard_one_scales_nothing():
    for entry in MUP.values():
        changed = PARAMETRIZATIONS["standard"](entry)
        assert changed.init == 1
        assert set(changed.multipliers("adamw")) == {1}


def test_without_the_factor_of_attention_outputs_keep_theirs():
    query = Entry((6, 6), "hidden", M, M, (6, 6), fold=M**-0.5)
    change = PARAMETRIZATIONS["attention / sqrt(d)"]
    assert change(query).fold == 1
    assert change(MUP["output"]).fold == 1 / M
