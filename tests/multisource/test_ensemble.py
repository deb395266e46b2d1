import math

import numpy as np
import pytest
import torch
from torch import nn

from core.multisource.arm import Arm
from core.multisource.ebm import Ebm
from core.multisource.ensemble import fit, loss, relu_layers, relu_network, size, start, train
from core.train.seeds import generator

NETWORKS = [Arm(4, d_e=3, L=3, W=5), Ebm(2, 6, d_e=2, L=2, W=5)]


def a_sample(network, R, K, n=300):
    """Counts of all contexts, `[R, K, C, O]`, of laws drawn at random."""
    rng = generator(9)
    N = 16 if isinstance(network, Arm) else 36
    counts = torch.from_numpy(rng.multinomial(n, rng.dirichlet(np.ones(N)), size=(R, K))).double()
    return network.counts(counts) if isinstance(network, Arm) else counts[:, :, None]


def test_a_stack_of_networks_is_each_of_them():
    stacked = [relu_layers([3, 7, 7, 2], generator(e)) for e in range(4)]
    parameters = {name: torch.stack([s[name] for s in stacked]) for name in stacked[0]}
    x = torch.from_numpy(generator(5).standard_normal((4, 6, 3)))
    found = relu_network(parameters, x)
    for e, drawn in enumerate(stacked):
        layers = []
        for l, (n_in, n_out) in enumerate([(3, 7), (7, 7), (7, 2)]):
            linear = nn.Linear(n_in, n_out, dtype=torch.float64)
            linear.weight.data, linear.bias.data = drawn[f"A{l}"].T, drawn[f"b{l}"][0]
            layers += [linear, nn.ReLU()]
        alone = nn.Sequential(*layers[:-1])(x[e])
        torch.testing.assert_close(found[e], alone, rtol=0, atol=1e-12)
    assert size(parameters)[0] == 3 * 7 + 7 + 7 * 7 + 7 + 7 * 2 + 2


@pytest.mark.parametrize("network", NETWORKS, ids=["arm", "ebm"])
def test_networks_trained_side_by_side_are_those_trained_alone(network):
    counts = a_sample(network, 3, 2)
    together = start(network, 3, 2, seed=1, dtype=torch.float64)
    apart = [{k: p[e : e + 1].clone() for k, p in together.items()} for e in range(3)]
    losses = train(network, together, counts, steps=30, lr=1e-2)
    for e, one in enumerate(apart):
        alone = train(network, one, counts[e : e + 1], steps=30, lr=1e-2)
        torch.testing.assert_close(losses[:, e], alone[:, 0], rtol=0, atol=1e-10)
        for name in one:
            torch.testing.assert_close(together[name][e], one[name][0], rtol=0, atol=1e-8)


@pytest.mark.parametrize("network", NETWORKS, ids=["arm", "ebm"])
def test_the_loss_is_the_mean_over_samples(network):
    counts = a_sample(network, 1, 2, n=7)
    parameters = start(network, 1, 2, seed=1, dtype=torch.float64)
    log_p = network.log_probs(parameters)
    total = 0.0
    for k in range(2):
        for context, outcome in (counts[0, k] > 0).nonzero().tolist():
            times = counts[0, k, context, outcome].item()
            total -= times * log_p[0, k, context, outcome].item()
    assert loss(network, parameters, counts).item() == pytest.approx(total / 14, rel=1e-12)


@pytest.mark.parametrize("network", NETWORKS, ids=["arm", "ebm"])
@pytest.mark.parametrize("multi", [True, False])
def test_a_fit_has_the_networks_that_were_asked_for(network, multi):
    counts = a_sample(network, 2, 3)
    found = fit(network, counts, multi=multi, steps=40, dtype=torch.float64)
    members = 2 if multi else 6
    assert found.losses.shape == (40, members)
    assert found.log_probs.shape == counts.shape
    assert (found.losses[-1] < found.losses[0]).all()
    torch.testing.assert_close(
        found.log_probs.exp().sum(-1), torch.ones(counts.shape[:3]).double(), rtol=0, atol=1e-12
    )
    embeddings = found.parameters["V" if isinstance(network, Ebm) else "V_Y"]
    assert embeddings.min() >= 0
    assert embeddings.max() <= 1
    assert not any(p.requires_grad for p in found.parameters.values())


def test_the_entropy_of_the_sample_is_below_every_loss():
    """The likelihood of relative frequencies is the largest there is."""
    network = NETWORKS[0]
    counts = a_sample(network, 1, 1)
    found = fit(network, counts, multi=True, steps=400, lr=1e-2, dtype=torch.float64)
    share = counts / counts.sum(-1, keepdim=True)
    entropy = -torch.xlogy(counts, share).sum() / 300
    assert entropy <= found.losses[-1, 0] < found.losses[0, 0]
    assert found.losses[-1, 0] - entropy < 0.5 * (found.losses[0, 0] - entropy)


def test_an_outcome_of_probability_zero_that_never_occurs_costs_nothing():
    class Certain:
        def draw(self, K, rng):
            return {"A0": torch.zeros(1)}

        def log_probs(self, parameters):
            return torch.tensor([[[[0.0, -math.inf]]]]) + 0 * parameters["A0"].sum()

        def project(self, parameters):
            pass

    found = loss(Certain(), {"A0": torch.zeros(1, 1)}, torch.tensor([[[[5.0, 0.0]]]]))
    assert found.item() == 0


def test_starts_belong_to_seed_and_member():
    network = NETWORKS[0]
    few, many = (start(network, members, 2, seed=3) for members in (2, 5))
    other = start(network, 2, 2, seed=4)
    for name in few:
        assert (few[name] == many[name][:2]).all()
    assert (few["A0"] != other["A0"]).all()
    assert (few["A0"][0] != few["A0"][1]).all()


def test_a_source_without_data_is_refused():
    counts = a_sample(NETWORKS[0], 2, 3)
    counts[1, 2] = 0
    with pytest.raises(ValueError, match="without data: 2;"):
        fit(NETWORKS[0], counts, multi=True)
