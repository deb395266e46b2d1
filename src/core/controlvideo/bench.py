"""What key-frame attention, a stream, an edit and its tuning cost; on one thread, on a CPU.

The peer of key-frame attention is diffusers' own, of Text2Video-Zero, which replicates the key
frame's keys and values for every frame. Seconds are those of the processor.
"""

import statistics
import time
from collections.abc import Callable
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
from core.kernels._timing import peak_bytes

Comparison = dict[str, float | str]


def main() -> dict[str, Comparison]:
    """Measure; two or three minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            "key-frame attention, F = 8, N = 1024, C = 320, forward": attention(),
            "key-frame attention, F = 8, N = 256, C = 640, forward": attention(N=256, C=640),
            "peak of a denoising step, stream of 4 frames, 72 x 72": memory(stream=True),
            "peak of a denoising step, whole, 72 x 72": memory(stream=False),
            "8 frames of the small model": edit(),
        }
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def attention(F: int = 8, N: int = 1024, C: int = 320, rounds: int = 7) -> Comparison:
    """Time a layer on one video, alternating with the peer on the same weights and tokens."""
    torch.manual_seed(0)
    layer, clip = Attention(C, heads=8, dim_head=C // 8), Clip(frames=F)
    ours: Any = VideoAttention(clip, "bench")
    plain: Any = CrossFrameAttnProcessor(batch_size=1)
    peer: Any = CrossFrameAttnProcessor2_0(batch_size=1)
    n = torch.randn(F, N, C)
    apart = (ours(layer, n) - peer(layer, n)).abs().max()
    ways = {"folded": ours, "replicated": peer, "plain": plain}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(_seconds(partial(way, layer, n)))
    folded, replicated, softmax = (statistics.median(each) for each in found.values())
    return {
        "folded into the queries (s)": folded,
        "replicated, diffusers' with SDPA (s)": replicated,
        "replicated, diffusers' with a softmax, as in the authors' code (s)": softmax,
        "ratio to SDPA": replicated / folded,
        "ratio to softmax": softmax / folded,
        "largest difference": float(apart),
    }


def memory(*, stream: bool, size: int = 72) -> Comparison:
    """Take the peak of one denoising step of videos of 8, 32 and 128 frames, in megabytes."""
    pipe, out = small(), {}
    for frames in (8, 32, 128):
        case = draw_case(0, 0, frames)
        control = scenes.control(case.source, "edges", size)
        noise = torch.randn(frames, 3, size, size)
        step = partial(
            pipe,
            case.prompt,
            control,
            latents=noise,
            num_inference_steps=1,
            branches=False,
            long=Stream(chunk=4) if stream else None,
            output_type="latent",
        )
        peak = peak_bytes(step, "cpu")
        out[f"{frames} frames (MB)"] = float("nan") if peak is None else peak / 1e6
    return out


def edit(frames: int = 8, steps: int = 20, tuning: int = 60) -> Comparison:
    """Time an edit with guidance, an inversion and a tuning."""
    bench, case = Bench(small(), steps=steps), draw_case(0, 0, frames)
    tuned = _seconds(lambda: bench.prepare(case, Arm(steps=tuning)))
    shared = _seconds(lambda: bench.edit(case, KEY_FRAME, start="shared"))
    inverted = _seconds(lambda: bench.edit(case, KEY_FRAME))
    return {
        f"an edit, {steps} steps with guidance (s)": shared,
        "with inversion (s)": inverted,
        f"tuning, {tuning} steps (s)": tuned,
    }


def _seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin
