"""What key-frame attention, a stream, an edit and its tuning cost; on one thread, on a CPU.

The peer of key-frame attention is diffusers' own, of Text2Video-Zero, which replicates the key
frame's keys and values for every frame. Seconds are those of the processor. Folding saves the
projections of keys and values of F - 1 frames and no product of the attention itself, so that the
ratio of multiplications bounds what it can gain over a peer whose attention is as quick.
"""

from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_zero import (
    CrossFrameAttnProcessor,
    CrossFrameAttnProcessor2_0,
)

from core.controlvideo import scenes
from core.controlvideo.attention import VideoAttention
from core.controlvideo.clip import Clip
from core.controlvideo.predictor import Stream
from core.controlvideo.small import small
from core.controlvideo.study import KEY_FRAME, Arm, Bench, draw_case
from core.timing import alternate, peak_bytes, seconds_of

Results = dict[str, dict[str, float | str]]


def main() -> Results:
    """Measure; two or three minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return attention() | attention(N=256, C=640) | memory(chunk=4) | memory() | edit()
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def attention(F: int = 8, N: int = 1024, C: int = 320, rounds: int = 7) -> Results:
    """Time a layer on one video, alternating with the peers on the same weights and tokens."""
    layer, n = Attention(C, heads=8, dim_head=C // 8), torch.randn(F, N, C)
    folded: Any = VideoAttention(Clip(frames=F), "bench")
    replicated: Any = CrossFrameAttnProcessor2_0(batch_size=1)
    softmax: Any = CrossFrameAttnProcessor(batch_size=1)
    ways = {
        "folded into the queries": partial(folded, layer, n),
        "replicated, diffusers' with SDPA": partial(replicated, layer, n),
        "replicated, diffusers' with a softmax, as in the authors' code": partial(
            softmax, layer, n
        ),
    }
    ours, *peers = (way() for way in ways.values())
    seconds = alternate(ways, "cpu", rounds=rounds)
    here, sdpa, plain = seconds.values()
    found: dict[str, float | str] = {f"{name} (s)": each for name, each in seconds.items()}
    found |= {"ratio to SDPA": sdpa / here, "ratio to softmax": plain / here}
    found["ratio of multiplications"] = F * (2 * C + N) / (F * (C + N) + C)
    found["largest difference"] = max(float((ours - peer).abs().max()) for peer in peers)
    return {f"key-frame attention, F = {F}, N = {N}, C = {C}, forward": found}


def memory(
    *, chunk: int | None = None, size: int = 72, lengths: tuple[int, ...] = (8, 32, 128)
) -> Results:
    """Take the peak of one denoising step of videos, in megabytes.

    Args:
        chunk: frames of a stream; None: the whole video at once.
        size: pixels of a side.
        lengths: frames of the videos.
    """
    pipe, found = small(), {}
    for frames in lengths:
        case = draw_case(0, 0, frames)
        step = partial(
            pipe,
            case.prompt,
            scenes.control(case.source, "edges", size),
            latents=torch.randn(frames, 3, size, size),
            num_inference_steps=1,
            branches=False,
            long=None if chunk is None else Stream(chunk),
            output_type="latent",
        )
        peak = peak_bytes(step, "cpu")
        found[f"{frames} frames (MB)"] = "not told here" if peak is None else peak / 1e6
    how = "whole" if chunk is None else f"stream of {chunk} frames"
    return {f"peak of a denoising step, {how}, {size} x {size}": found}


def edit(frames: int = 8, steps: int = 20, tuning: int = 60) -> Results:
    """Time an edit with guidance, an inversion and a tuning."""
    bench, case = Bench(small(), steps=steps), draw_case(0, 0, frames)
    tuned = seconds_of(lambda: bench.prepare(case, Arm(steps=tuning)))
    shared = seconds_of(lambda: bench.edit(case, KEY_FRAME, start="shared"))
    inverted = seconds_of(lambda: bench.edit(case, KEY_FRAME))
    return {
        f"{frames} frames of the small model": {
            f"an edit, {steps} steps with guidance (s)": shared,
            "with inversion (s)": inverted,
            f"tuning, {tuning} steps (s)": tuned,
        }
    }
