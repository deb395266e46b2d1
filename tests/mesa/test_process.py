"""The sampled process, against its own recursion and the law of the phases."""

import math

import pytest
import torch

from core.mesa.moments import gaussian, sparse
from core.mesa.process import sample_phases, sample_sequences, sequences, tokens


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("N", "T", "d"), [(1, 3, 1), (4, 7, 3), (2, 100, 5)])
def test_sequences_satisfy_the_recursion(N, T, d):
    theta = sample_phases(N, d, generator())
    x_1 = gaussian(d).draw(N, generator(1))
    x = sequences(x_1, theta, T)
    W = torch.diag_embed(torch.exp(1j * theta))
    stepped = [x_1 + 0j]
    for _ in range(T - 1):
        stepped.append((W @ stepped[-1][..., None])[..., 0])
    # T products of modulus one round by about T eps each
    torch.testing.assert_close(x, torch.stack(stepped, 1), rtol=0, atol=20 * T * 2.3e-16)


def test_phases_are_uniform_on_the_torus():
    theta = sample_phases(20_000, 2, generator())
    assert theta.min() >= 0
    assert theta.max() < 2 * math.pi
    # every non-trivial character has mean zero, and each mean the standard error sqrt(1/20,000)
    for k in [(1, 0), (0, 1), (1, 1), (1, -1), (2, -3)]:
        mean = torch.exp(1j * (theta @ torch.tensor(k, dtype=torch.float64))).mean().abs()
        assert mean < 4 * math.sqrt(1 / 20_000)


def test_tokens_are_the_present_beside_the_past():
    x = sample_sequences(gaussian(3), 6, 2, generator())
    e = tokens(x)
    assert torch.equal(e[:, 0, 3:], torch.zeros(2, 3, dtype=x.dtype))
    for t in range(1, 6):
        assert torch.equal(e[:, t], torch.cat([x[:, t], x[:, t - 1]], dim=1))


def test_a_sparse_start_stays_on_its_coordinate():
    x = sample_sequences(sparse(4, 2.0), 9, 50, generator())
    modulus = x.abs()
    torch.testing.assert_close(modulus.sum(-1), torch.full((50, 9), 2.0, dtype=torch.float64))
    assert ((modulus > 0).sum(-1) == 1).all()


def test_equal_seeds_give_equal_sequences():
    first, second = (sample_sequences(gaussian(2), 5, 3, generator(7)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_sequences(gaussian(2), 2, 3, generator()), "want T >= 3, .* T = 2"),
        (lambda: sample_sequences(gaussian(2), 5, 0, generator()), "N = 0"),
        (lambda: sequences(torch.ones(2, 3), torch.ones(2, 3), 2), "want T >= 3"),
        (lambda: sequences(torch.ones(2, 3), torch.ones(3, 2), 5), r"\[2, 3\] and \[3, 2\]"),
        (lambda: sample_phases(3, 0, generator()), "d = 0"),
        (lambda: tokens(torch.ones(3, 4)), r"want sequences \[N, T, d\]"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
