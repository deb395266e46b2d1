"""Seconds and bytes of a call.

On a CPU the seconds are those of the processor: what else the machine does stays out of them. So
does what the system takes to clear new pages: freed memory is kept, as torch does on a GPU;
otherwise it would depend on what ran before whether a call pays for its pages. On a GPU the seconds
lie between two events, after the cache was overwritten.
"""

import ctypes
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

Call = Callable[[], Any]

FEWEST = 3
"""Times that anything is measured, however slow."""
MMAP_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -4, -3, -1  # of glibc's malloc.h
CACHE = 2**28
"""Bytes to overwrite, several times the last cache of a GPU."""


def alternate(
    calls: Mapping[str, Call], device: str, *, rounds: int = 9, patience: float = 8.0
) -> dict[str, float]:
    """Return the median seconds of each call; they take turns, so that all see the same machine.

    Args:
        calls: by name.
        device: "cpu" or "cuda".
        rounds: turns; in each, a quick call is repeated, and the median taken.
        patience: seconds after which a slow call is measured no more, but for three times.
    """
    measured = _on_gpu if device == "cuda" else _on_cpu
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with kept_memory():
        for call in calls.values():
            call()  # warm
        for _ in range(rounds):
            for name, call in calls.items():
                if len(seconds[name]) < FEWEST or sum(seconds[name]) < patience:
                    seconds[name].append(measured(call))
    return {name: median(found) for name, found in seconds.items()}


def seconds_of(call: Call) -> float:
    """Return the seconds of the processor that one call takes."""
    start = time.process_time()
    call()
    return time.process_time() - start


@contextmanager
def kept_memory() -> Iterator[None]:
    """Have the C library keep all memory that is freed, for the next call; where it is glibc.

    By default it gives arrays of more than 32 MB back at once, and smaller ones now and then.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    mallopt(MMAP_MAX, 0)
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(MMAP_MAX, 65_536)
        mallopt(MMAP_THRESHOLD, 2**17)
        mallopt(TRIM_THRESHOLD, 2**17)


def peak_bytes(call: Call, device: str) -> int | None:
    """Return how far memory rises while a call runs: scratch and results, not its inputs.

    Returns:
        Bytes; on a CPU those of the whole process, good to some MB, None where the system does not
        tell.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    before = _restart_peak()
    call()
    return None if before is None else max(0, _status("VmHWM") - before)


def free_bytes(device: str) -> float:
    """Return the bytes that can be had; infinity where the system does not tell."""
    if device == "cuda":
        torch.cuda.empty_cache()
        return float(torch.cuda.mem_get_info()[0])
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024.0 if found else float("inf")


def _on_cpu(call: Call, seconds: float = 0.1) -> float:
    """Return the median over as many calls as take so many seconds: caches are as in a loop."""
    one = seconds_of(call)
    return median([one, *(seconds_of(call) for _ in range(_times(seconds, one) - 1))])


def _on_gpu(call: Call, seconds: float = 0.1) -> float:
    """Return the median over as many calls as take so many seconds.

    They are queued, for the GPU not to wait for Python where it need not.
    """
    cache = torch.empty(CACHE, dtype=torch.int8, device="cuda")
    one = _queued(call, cache, 1)[0]
    return median(_queued(call, cache, max(FEWEST, _times(seconds, one))))


def _times(seconds: float, one: float, most: int = 200) -> int:
    return min(most, int(seconds / max(one, 1e-6)))


def _queued(call: Call, cache: torch.Tensor, times: int) -> list[float]:
    events = []
    for _ in range(times):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cache.zero_()
        begin.record()
        call()
        end.record()
        events.append((begin, end))
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1e3 for begin, end in events]


def _restart_peak() -> int | None:
    """Make the peak of this process what it holds now, and return that; None where it cannot be."""
    if sys.platform != "linux":
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # or what an earlier call freed would be used again, unseen
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    peak = _status("VmHWM")
    return peak if peak <= 1.05 * _status("VmRSS") else None


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0
