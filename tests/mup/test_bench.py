"""The bench's parts; its numbers are printed, not tested."""

import pytest

from core.mup import bench
from core.mup.coordinates import Bands
from core.mup.source import source_of


def test_the_package_looks_at_what_our_check_looks_at():
    pytest.importorskip("mup", reason="needs PYTHONPATH=_build/mup-1.0.0, which make test unpacks")
    records = bench._package()()
    seen = {(r.width, r.t) for r in records.itertuples()}
    assert seen == {(16 * h, t) for h in bench.HEADS for t in range(1, bench.STEPS + 2)}
    # and at more: at whole blocks with what they hand on unchanged, and at what does not move
    modules = {r.module for r in records.itertuples()}
    assert len(modules) > 35


def test_the_sizes_are_published_ones():
    from core.mup.plan import plan

    source, config, base = bench.PUBLISHED["FLUX.1"]
    entries = plan(source_of(source), config, base=base).entries
    assert round(sum(_size(e.shape) for e in entries.values()) / 1e9, 1) == 11.9  # "12B"


def _size(shape):
    product = 1
    for n in shape:
        product *= n
    return product


@pytest.mark.slow
def test_the_bands_are_twice_what_a_check_deviates_at_most():
    """Two of the twelve seeds: no more than all of them, and no band is far from what is there."""
    found = bench.deviations(seeds=2)
    bands = Bands()
    for name, largest in found.items():
        assert getattr(bands, name) / 6 < largest <= getattr(bands, name) / 1.9
