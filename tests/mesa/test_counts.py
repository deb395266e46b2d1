"""Lattice counts against brute force over every point, and the file they are kept in."""

import numpy as np
import pytest

from core.mesa.counts import LINEAR, QUADRATIC, _count, cache_file, lattice_counts, partitions


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_partitions_are_counted_by_bell():
    assert [len(partitions(n)) for n in range(1, 7)] == [1, 2, 5, 15, 52, 203]


def phase_average(labels, exponents):
    """Whether the product of lambda_label^exponent has mean one (else it has mean zero)."""
    return all(
        sum(e for label, e in zip(labels, exponents, strict=True) if label == block) == 0
        for block in set(labels)
    )


@pytest.mark.parametrize("T", [3, 4, 5])
def test_quadratic_counts_are_those_of_brute_force(T):
    rng = np.random.default_rng(T)
    table, labels = _count(T, QUADRATIC), partitions(6)
    for _ in range(400):
        which, s = rng.integers(203), tuple(rng.integers(0, 2, 6))
        total = 0.0
        for t in range(2, T):
            for i in range(1 + max(s[0], s[1]), t + 1):
                for i_2 in range(1 + max(s[3], s[4]), t + 1):
                    steps = (i, -i, t, -i_2, i_2, -t)
                    exponents = [n - np.sign(n) * (1 + k) for n, k in zip(steps, s, strict=True)]
                    total += phase_average(labels[which], exponents) / (t - 1) ** 2
        assert table[(which, *s)] == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("T", [3, 6])
def test_linear_counts_are_those_of_brute_force(T):
    table, labels = _count(T, LINEAR), partitions(4)
    for which, s in np.ndindex(15, 8):
        shift = tuple(int(bit) for bit in f"{s:03b}")
        total = 0.0
        for t in range(2, T):
            for i in range(1 + max(shift[:2]), t + 1):
                exponents = (-t, i - 1 - shift[0], -(i - 1 - shift[1]), t - 1 - shift[2])
                total += phase_average(labels[which], exponents) / (t - 1)
        assert table[(which, *shift)] == pytest.approx(total, abs=1e-12)


def test_counts_are_kept_and_read_back():
    fresh = lattice_counts(7)
    before = cache_file(7).read_bytes()
    again = lattice_counts(7)
    assert np.array_equal(fresh.quadratic, again.quadratic)
    assert np.array_equal(fresh.linear, again.linear)
    assert cache_file(7).read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty"])
def test_a_damaged_file_is_rebuilt(damage):
    fresh = lattice_counts(6)
    path = cache_file(6)
    whole = path.read_bytes()
    flipped = whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]
    path.write_bytes({"truncated": whole[:-9], "one bit": flipped, "empty": b""}[damage])
    assert np.array_equal(lattice_counts(6).quadratic, fresh.quadratic)
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_no_result(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert lattice_counts(4).linear.shape == (15, 2, 2, 2)


def test_sequences_too_short_to_train_on_are_refused():
    with pytest.raises(ValueError, match="want T >= 3"):
        lattice_counts(2)
