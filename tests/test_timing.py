"""Seconds and bytes of a call: by hand, where clocks and devices are played."""

import pytest
import torch

from core import timing


def test_calls_take_turns_and_a_slow_one_is_spared(monkeypatch):
    seconds = {"slow": iter([10.0, 30.0, 20.0]), "quick": iter([3.0, 1.0, 2.0, 4.0, 5.0])}
    order = []
    monkeypatch.setattr(timing, "_on_cpu", lambda call: (order.append(call()), next(call.times))[1])

    class Named:
        def __init__(self, name):
            self.name, self.times = name, seconds[name]

        def __call__(self):
            return self.name

    found = timing.alternate({n: Named(n) for n in seconds}, "cpu", rounds=5, patience=25.0)
    assert found == {"slow": 20.0, "quick": 3.0}
    assert order == ["slow", "quick"] * 3 + ["quick"] * 2


def test_a_quick_call_is_repeated_until_caches_are_as_in_a_loop(monkeypatch):
    took = iter([0.02, *[0.01] * 4])  # the first finds what others left in the caches
    now = [0.0]
    monkeypatch.setattr(timing.time, "process_time", lambda: now[0])
    found = timing._on_cpu(lambda: now.__setitem__(0, now[0] + next(took)))
    assert found == pytest.approx(0.01)
    assert next(took, None) is None


@pytest.mark.parametrize(("seconds", "calls"), [(0.04, 3), (0.01, 10), (1e-9, 200)])
def test_a_gpu_is_kept_busy_for_a_while_whatever_a_call_takes(monkeypatch, seconds, calls):
    now, started = [0.0], []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = now[0]

        def elapsed_time(self, end):
            return 1e3 * (end.at - self.at)

    def call():
        assert (cache == 0).all()  # overwritten before the clock starts
        cache.fill_(1)
        started.append(1)
        now[0] += seconds

    cache = torch.ones(4)
    monkeypatch.setattr(torch, "empty", lambda *size, **options: cache)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert timing._on_gpu(call) == pytest.approx(seconds)
    assert len(started) - 1 in (calls, calls - 1)  # one to see how long it takes; rounding


def test_peak_memory_is_what_a_call_holds_at_once():
    size = 2**26

    def call():
        for _ in range(4):
            torch.ones(size, dtype=torch.int8)  # freed before the next

    found = timing.peak_bytes(call, "cpu")
    if found is None:
        pytest.skip("this system does not tell the peak of a process")
    # the C library may put the second beside the first, and has room for the others then
    assert size * 0.95 < found < 2.5 * size
