"""The bench's parts; its numbers are printed, not tested."""

import json

import pytest

from core.mesa import bench


@pytest.mark.parametrize("way", ["loop", "passes", "sums"])
def test_each_way_reports_what_it_cost(way, capsys):
    bench.report(way, 8)
    cost = bench.Cost(**json.loads(capsys.readouterr().out))
    assert cost.step > 0
    assert cost.once >= 0
    assert cost.peak > 50e6  # an interpreter with torch is larger than that


def test_what_is_spent_once_is_spread_over_the_steps():
    assert bench.Cost(once=100.0, step=0.5, peak=0.0).per_step(200) == 1.0


def test_a_loop_too_large_for_the_machine_is_scaled(monkeypatch):
    asked = []

    def measure(way, N):
        asked.append((way, N))
        return bench.Cost(once=0.0, step=N / 100, peak=N * 1e6)

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "_free_memory", lambda: 100e6)
    results = bench.sampled_training(400)
    assert results["loop"] == "scaled from N = 100"
    assert results["loop (s a step)"] == 4.0
    assert ("loop", 400) not in asked
    monkeypatch.setattr(bench, "_free_memory", lambda: 1e12)
    assert bench.sampled_training(400)["loop"] == "measured"
    assert ("loop", 400) in asked
