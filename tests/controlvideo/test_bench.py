from functools import partial

import pytest
import torch

from core import bench as every
from core.controlvideo import bench
from core.controlvideo.predictor import Stream


def test_folded_and_replicated_attention_are_one():
    ((title, found),) = bench.attention(F=3, N=16, C=16, rounds=1).items()
    assert title == "key-frame attention, F = 3, N = 16, C = 16, forward"
    assert 0 < float(found.pop("largest difference")) < 1e-5  # to rounding: they are two ways
    folded, sdpa, softmax, *ratios, products = found.values()
    assert ratios == [float(sdpa) / float(folded), float(softmax) / float(folded)]
    both = 2 * 3 * 16 * 16 * 16  # scores and their use, over 3 frames
    one = 16 * 16 * 16  # a projection of a frame
    assert products == (4 * 3 * one + both) / (2 * 3 * one + 2 * one + both)
    assert [name for name in found if name.startswith("ratio")] == list(found)[3:]
    assert all(name.endswith(" (s)") for name in list(found)[:3])


@pytest.mark.parametrize(("chunk", "how"), [(2, "stream of 2 frames"), (None, "whole")])
def test_the_memory_of_a_step_is_measured(chunk, how, monkeypatch):
    def returned(step, device):
        assert step.keywords["long"] == (chunk and Stream(chunk))
        return step().frames.nbytes

    monkeypatch.setattr(bench, "peak_bytes", returned)
    found = bench.memory(chunk=chunk, size=16, lengths=(2, 5))
    # in place of a peak: frames of 3 channels in float32
    sizes = {f"{F} frames (MB)": F * 3 * 16 * 16 * 4 / 1e6 for F in (2, 5)}
    assert found == {f"peak of a denoising step, {how}, 16 x 16": sizes}


def test_memory_that_a_system_does_not_tell_is_no_number(monkeypatch):
    monkeypatch.setattr(bench, "peak_bytes", lambda step, device: None)
    (found,) = bench.memory(size=16, lengths=(2,)).values()
    assert found == {"2 frames (MB)": "not told here"}


def test_the_bench_is_one_that_can_be_written(monkeypatch):
    """With tiny sizes where they are not those of a title."""
    tiny = {
        "attention": {"F": 2, "rounds": 1},
        "memory": {"size": 16, "lengths": (2,)},
        "edit": {"frames": 2, "steps": 1, "tuning": 1},
    }
    for name, sizes in tiny.items():
        monkeypatch.setattr(bench, name, partial(getattr(bench, name), **sizes))
    threads, drawn = torch.get_num_threads(), torch.get_rng_state()
    results = every.run("controlvideo")["results"]
    assert list(results) == [
        "key-frame attention, F = 2, N = 1024, C = 320, forward",
        "key-frame attention, F = 2, N = 256, C = 640, forward",
        "peak of a denoising step, stream of 4 frames, 16 x 16",
        "peak of a denoising step, whole, 16 x 16",
        "2 frames of the small model",
    ]
    times = results["2 frames of the small model"]
    assert list(times) == [
        "an edit, 1 steps with guidance (s)",
        "with inversion (s)",
        "tuning, 1 steps (s)",
    ]
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), drawn)
