"""Networks: one at a time against all together, and what they may know."""

import pytest
import torch
from torch import nn

from core.multisource.denoiser import Denoiser, Together, UNet

SHAPE = (1, 8, 8)


def inputs(E, B, K, shape=SHAPE):
    return torch.randn(E, B, *shape), torch.randn(E, B), torch.randint(K, (E, B))


def stirred(network):
    """A network away from its start, where its output is zero."""
    for p in network.parameters():
        nn.init.normal_(p, std=0.1)
    return network


@pytest.mark.parametrize(
    "build",
    [lambda: Denoiser(SHAPE, 3, width=16), lambda: UNet(SHAPE, 3, channels=(32, 32))],
    ids=["Denoiser", "UNet"],
)
def test_together_is_one_by_one_forward_and_backward(build):
    networks = [stirred(build()) for _ in range(3)]
    x, c_noise, y = inputs(3, 4, 3)
    together = Together(networks)
    found = together(x, c_noise, y)
    apart = torch.stack([net(*part) for net, *part in zip(networks, x, c_noise, y, strict=True)])
    torch.testing.assert_close(found, apart, rtol=1e-4, atol=1e-4)
    found.square().sum().backward()
    apart.square().sum().backward()
    for e, network in enumerate(networks):
        for name, p in network.named_parameters():
            ours = together.parameters[name].grad
            assert ours is not None
            assert p.grad is not None
            # single precision: against the largest gradient of this parameter
            assert (ours[e] - p.grad).abs().max() <= 1e-3 * p.grad.abs().max() + 1e-4


@pytest.mark.parametrize(
    "network", [Denoiser(SHAPE, 2), UNet(SHAPE, 2, channels=(32,))], ids=["D", "U"]
)
def test_a_network_starts_at_zero(network):
    x, c_noise, y = inputs(1, 5, 2)
    assert not network(x[0], c_noise[0], y[0]).any()


def test_the_source_and_the_level_are_seen():
    network = stirred(Denoiser(SHAPE, 3, width=16))
    x, zero = torch.randn(1, *SHAPE), torch.zeros(1)
    sources = [network(x, zero, torch.tensor([k])) for k in range(3)]
    assert not torch.allclose(sources[0], sources[1])
    assert not torch.allclose(sources[1], sources[2])
    assert not torch.allclose(sources[0], network(x, zero + 0.3, torch.tensor([0])))


def test_a_label_that_no_source_has_is_refused():
    with pytest.raises(RuntimeError, match="smaller than num_classes"):
        Denoiser(SHAPE, 3)(torch.randn(1, *SHAPE), torch.zeros(1), torch.tensor([3]))


def test_a_copy_has_weights_of_its_own():
    together = Together([Denoiser(SHAPE, 2, width=8)])
    twin = together.copy()
    x, c_noise, y = inputs(1, 2, 2)
    together.parameters["last.bias"].data += 1
    torch.testing.assert_close(together(x, c_noise, y), torch.ones(x.shape))
    assert not twin(x, c_noise, y).any()
    assert not any(p.requires_grad for p in twin.parameters.values())
    assert len(twin) == 1


def test_no_network_is_refused():
    with pytest.raises(ValueError, match="at least one network"):
        Together([])


@pytest.mark.parametrize(
    ("shape", "channels"), [((1, 8, 6), (32,)), ((1, 6, 6), (32, 32, 32)), (SHAPE, (24,))]
)
def test_a_unet_that_does_not_fit_is_refused(shape, channels):
    with pytest.raises(ValueError, match="channels that 32 divides"):
        UNet(shape, 2, channels=channels)
