import itertools

import numpy as np
import pytest
import torch

from core.multisource.arm import Arm
from core.multisource.ensemble import fit, start
from core.multisource.fisher import fisher_law, shared_design
from core.multisource.log_linear_families import draw_counts
from core.multisource.tree import joint, tree_tv
from core.train.seeds import generator


def by_hand(arm, parameters, e, y, prefix):
    """Definition 4.2 for one prefix, entry by entry."""
    p = {name: value[e].numpy() for name, value in parameters.items()}
    rows = [p["V_Y"][y], *[p["V_X"][token] for token in prefix]]
    v = np.zeros(arm.D)
    for j, row in enumerate(rows):
        v[j] = 1 / (1 + np.exp(-(p["code_A"][j] @ row + p["code_b"][j])))
    for l in range(arm.L):
        v = v @ p[f"A{l}"] + p[f"b{l}"][0]
        v = np.maximum(v, 0) if l < arm.L - 1 else v
    return v - np.log(np.exp(v).sum())


@pytest.mark.parametrize(("D", "M", "L"), [(1, 2, 1), (4, 2, 3), (3, 3, 2)])
def test_the_model_is_definition_4_2(D, M, L):
    arm = Arm(D, M, d_e=3, L=L, W=6, gain=2.0)
    parameters = start(arm, 2, 3, seed=0, dtype=torch.float64)
    found = arm.log_probs(parameters)
    C = sum(M**d for d in range(D))
    assert found.shape == (2, 3, C, M)
    row = 0
    for d in range(D):
        for prefix in itertools.product(range(M), repeat=d):
            for e, y in itertools.product(range(2), range(3)):
                wanted = by_hand(arm, parameters, e, y, prefix)
                assert np.abs(found[e, y, row].numpy() - wanted).max() < 1e-12
            row += 1


def test_counts_of_prefixes_are_those_of_sequences(rng):
    arm = Arm(3, 3, d_e=2, L=1, W=1)
    sequences = rng.integers(3, size=(200, 3))
    table = np.zeros(27, dtype=int)
    np.add.at(table, sequences @ [9, 3, 1], 1)
    found = arm.counts(torch.from_numpy(table))
    row = 0
    for d in range(3):
        for prefix in itertools.product(range(3), repeat=d):
            begins = (sequences[:, :d] == prefix).all(1)
            wanted = np.bincount(sequences[begins, d], minlength=3)
            assert (found[row].numpy() == wanted).all()
            row += 1


def test_the_joint_is_that_of_the_tree():
    arm = Arm(6, d_e=4, L=2, W=8, gain=2.0)
    parameters = start(arm, 2, 3, seed=1, dtype=torch.float64)
    p = arm.joint(arm.log_probs(parameters)).flatten(0, 1)
    torch.testing.assert_close(p, joint(arm.conditionals(parameters), D=6), rtol=1e-12, atol=0)
    other = start(arm, 2, 3, seed=2, dtype=torch.float64)
    q = arm.joint(arm.log_probs(other)).flatten(0, 1)
    found = tree_tv(arm.conditionals(parameters), arm.conditionals(other), D=6, memory=2**14)
    assert ((found.value - (p - q).abs().sum(1) / 2).abs() <= found.error + 1e-12).all()


def test_a_source_is_told_by_one_number():
    """The theory counts d_e parameters of a source; the information about them has rank one."""
    arm, K = Arm(3, d_e=5, L=3, W=6, gain=2.0), 2
    parameters = start(arm, 1, K, seed=3, dtype=torch.float64)

    def log_joint(V_Y):
        return arm.joint(arm.log_probs(parameters | {"V_Y": V_Y})).log()[0]

    jacobian = torch.autograd.functional.jacobian(log_joint, parameters["V_Y"])
    assert isinstance(jacobian, torch.Tensor)
    scores = torch.stack([jacobian[k, :, 0, k] for k in range(K)])  # [K, N, d_e]
    p = arm.joint(arm.log_probs(parameters))[0]
    design = shared_design(K, torch.zeros(5, dtype=torch.bool))
    assert fisher_law(p, scores, design).dim == K


def test_pooling_helps_where_the_model_holds():
    """Truth of the same class: what is shared is worth sharing."""
    arm = Arm(5, d_e=8, L=3, W=16)
    wide = Arm(5, d_e=8, L=3, W=16, gain=2.0)
    truth = wide.joint(wide.log_probs(start(wide, 1, 4, seed=11, dtype=torch.float64)))[0]
    counts = arm.counts(draw_counts(truth, 2000, 3, generator(12)))
    R = []
    for multi in (True, False):
        hat = arm.joint(fit(arm, counts, multi=multi, steps=300, lr=1e-2).log_probs)
        R.append((hat - truth).abs().sum(2).mean(1) / 2)
    assert (R[0] < R[1]).all()


def test_the_class_has_the_constants_of_its_members():
    arm = Arm(10, d_e=64, L=5, W=64)
    family = arm.family(start(arm, 1, 3, seed=0))
    assert (family.S, family.L, family.W, family.d_e) == (13_314, 5, 64, 64)
    assert 0 < family.B < 10


@pytest.mark.parametrize(("change", "message"), [({"D": 0}, "D >= 1"), ({"M": 1}, "M >= 2")])
def test_what_is_no_model_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Arm(**({"D": 3} | change))
