import itertools

import numpy as np
import pytest
import torch

from core.multisource.enumeration import enumerated_tv
from core.multisource.tree import Tables, joint, prefixes, tree_tv


def random_tables(rng, K, D, M):
    return [torch.tensor(rng.dirichlet(np.ones(M), size=(K, M**d))) for d in range(D)]


def brute_force(levels, D, M):
    """Sequence by sequence, by the chain rule."""
    K = levels[0].shape[0]
    out = np.ones((K, M**D))
    for s, x in enumerate(itertools.product(range(M), repeat=D)):
        number = 0
        for d, token in enumerate(x):
            out[:, s] *= levels[d][:, number, token].numpy()
            number = number * M + token
    return torch.tensor(out)


@pytest.mark.parametrize(("K", "D", "M"), [(1, 1, 2), (3, 2, 3), (2, 5, 3), (4, 8, 2)])
def test_the_tree_is_the_list_of_all_sequences(rng, K, D, M):
    p, q = random_tables(rng, K, D, M), random_tables(rng, K, D, M)
    P, Q = brute_force(p, D, M), brute_force(q, D, M)
    torch.testing.assert_close(joint(Tables(p), D=D, M=M), P, rtol=1e-13, atol=0)
    found, listed = tree_tv(Tables(p), Tables(q), D=D, M=M), enumerated_tv(P, Q)
    assert ((found.value - listed.value).abs() <= found.error + listed.error).all()
    assert found.error.max() < 1e-10


@pytest.mark.parametrize("memory", [2**12, 2**13, 2**16])
def test_blocks_change_nothing(rng, memory):
    p, q = (Tables(random_tables(rng, 2, 9, 2)) for _ in "pq")
    whole, parts = tree_tv(p, q, D=9), tree_tv(p, q, D=9, memory=memory)
    assert ((whole.value - parts.value).abs() <= whole.error).all()


def test_a_block_is_no_larger_than_the_memory(rng):
    seen = []
    tables = Tables(random_tables(rng, 2, 10, 2))

    def watched(d, start, stop):
        step = tables(d, start, stop)
        seen.append(step.nelement() * step.element_size())
        return step

    tree_tv(watched, watched, D=10, memory=2**13)
    assert max(seen) <= 2**13
    assert len(seen) > 40  # in many blocks


def test_float32_conditionals_are_divided_by_their_sums(rng):
    levels = [x.float() for x in random_tables(rng, 2, 6, 2)]
    exact = [x.double() / x.double().sum(-1, keepdim=True) for x in levels]
    other = Tables(random_tables(rng, 2, 6, 2))
    one, two = (tree_tv(Tables(x), other, D=6) for x in (levels, exact))
    assert ((one.value - two.value).abs() <= one.error + two.error).all()


@pytest.mark.parametrize(("d", "M"), [(0, 2), (1, 3), (4, 2), (3, 3)])
def test_prefixes_are_counted_with_the_first_token_highest(d, M):
    wanted = torch.tensor(list(itertools.product(range(M), repeat=d))).view(M**d, d)
    assert (prefixes(d, 0, M**d, M) == wanted).all()
    assert (prefixes(d, 1, M**d, M) == wanted[1:]).all()


def test_conditionals_that_do_not_sum_to_one_are_refused_with_their_sum(rng):
    levels = random_tables(rng, 2, 3, 2)
    levels[1] = levels[1] * 0.75
    with pytest.raises(ValueError, match=r"of level 1 that sum to one .* a sum of 0.75"):
        Tables(levels)
    fine = Tables(random_tables(rng, 2, 3, 2))
    with pytest.raises(ValueError, match=r"a sum of 2"):
        tree_tv(fine, lambda d, start, stop: 2 * fine(d, start, stop), D=3)


def test_a_depth_beyond_the_memory_is_refused_with_the_size(rng):
    coin = lambda d, start, stop: torch.full((3, stop - start, 2), 0.5)  # noqa: E731
    with pytest.raises(ValueError, match=r"D = 60, M = 2 needs 144 GiB, .* memory = 256 MiB"):
        tree_tv(coin, coin, D=60)
    with pytest.raises(ValueError, match=r"table of 2\^40 sequences of 3 source\(s\) needs 48 TiB"):
        joint(coin, D=40)


def test_a_table_may_take_the_memory_that_it_is_given(rng):
    tables, needed = Tables(random_tables(rng, 2, 6, 2)), 2 * 16 * 2**6
    assert joint(tables, D=6, memory=needed).shape == (2, 2**6)
    with pytest.raises(ValueError, match=f"give memory >= {needed}"):
        joint(tables, D=6, memory=needed - 1)


def test_a_level_of_another_shape_is_refused(rng):
    levels = random_tables(rng, 2, 3, 2)
    with pytest.raises(ValueError, match=r"want level 2 \[2, 4, 2\], got \[2, 3, 2\]"):
        Tables([*levels[:2], levels[2][:, :3]])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_tree_is_the_same(rng):
    p, q = random_tables(rng, 2, 8, 2), random_tables(rng, 2, 8, 2)
    here = tree_tv(Tables(p), Tables(q), D=8)
    there = tree_tv(Tables([x.cuda() for x in p]), Tables([x.cuda() for x in q]), D=8)
    assert there.value.is_cuda
    assert ((here.value - there.value.cpu()).abs() <= here.error).all()
