import numpy as np
import pytest
import torch

from core.multisource.ebm import Ebm
from core.multisource.ensemble import fit, start
from core.multisource.grid import grid_tv
from core.train.seeds import generator


def test_the_model_is_the_normalised_exponential_of_a_network():
    ebm = Ebm(2, 4, d_e=3, L=3, W=5, gain=1.5)
    parameters = start(ebm, 2, 2, seed=0, dtype=torch.float64)
    found = ebm.log_probs(parameters)
    assert found.shape == (2, 2, 1, 16)
    x = [((i + 0.5) / 4, (j + 0.5) / 4) for i in range(4) for j in range(4)]
    for e in range(2):
        p = {name: value[e].numpy() for name, value in parameters.items()}
        for y in range(2):
            u = np.array([_output(p, np.concatenate([point, p["V"][y]])) for point in x])
            wanted = -u - np.log(np.exp(-u).sum())
            assert np.abs(found[e, y, 0].numpy() - wanted).max() < 1e-12


def _output(p, v):
    for l in range(3):
        v = v @ p[f"A{l}"] + p[f"b{l}"][0]
        v = np.maximum(v, 0) if l < 2 else v
    return v[0]


def test_the_slope_is_at_least_that_of_any_two_points():
    ebm = Ebm(3, 2, d_e=2, L=3, W=8, gain=1.5)
    energy = ebm.energy(start(ebm, 2, 3, seed=1, dtype=torch.float64))
    rng = generator(2)
    x = torch.from_numpy(rng.random((4000, 3)))
    y = (x + 0.1 * torch.from_numpy(rng.uniform(-1, 1, (4000, 3)))).clamp(0, 1)
    slope = (energy.of(x) - energy.of(y)).abs() / (x - y).abs().amax(1)
    lipschitz = torch.as_tensor(energy.lipschitz)
    assert lipschitz.shape == (6,)
    assert (slope.amax(1) <= lipschitz).all()
    assert (slope.amax(1) > 0.02 * lipschitz).all()  # and no wild guess


def test_cells_and_the_continuous_law_agree_within_what_is_certain():
    ebm = Ebm(2, 40, d_e=2, L=2, W=6)
    one, two = (start(ebm, 1, 2, seed=s, dtype=torch.float64) for s in (1, 2))
    of_cells = (ebm.log_probs(one).exp() - ebm.log_probs(two).exp()).abs().sum((2, 3))[0] / 2
    for points in (40, 200):
        found = grid_tv(ebm.energy(one), ebm.energy(two), D=2, points=points)
        assert ((found.value - of_cells).abs() <= found.error).all()


@pytest.mark.parametrize("multi", [True, False])
def test_with_all_data_there_could_be_the_truth_is_found(multi):
    """The loss cannot be below the entropy, and its excess bounds TV (Pinsker)."""
    wide, ebm = (Ebm(2, 8, d_e=4, L=3, W=16, gain=gain) for gain in (2.0, 1.0))
    truth = wide.log_probs(start(wide, 1, 3, seed=5, dtype=torch.float64))[0, :, 0].exp()
    found = fit(ebm, 1e4 * truth[None, :, None], multi=multi, steps=500, lr=2e-2)
    R = ((found.log_probs[0, :, 0].exp() - truth).abs().sum(1) / 2).mean()
    entropy = -torch.xlogy(truth, truth).sum(1).mean()
    excess = found.losses[-1].mean() - entropy
    assert excess > -1e-6  # rounding of float32
    assert 0.5 * excess >= R**2 - 1e-6
    first = found.losses[0].mean() - entropy
    assert excess < 0.02 * first


def test_the_class_has_the_constants_of_its_members():
    ebm = Ebm(2, 4, d_e=3, L=3, W=5)
    family = ebm.family(start(ebm, 1, 3, seed=0))
    assert family.S == 5 * 5 + 5 + 5 * 5 + 5 + 5 + 1
    assert family.beta_sim == family.S / (family.S + 3)


def test_a_grid_beyond_the_memory_is_refused_with_the_size():
    with pytest.raises(ValueError, match=r"grid of 50\^5 cells needs 37.3 GiB"):
        Ebm(5, 50)
