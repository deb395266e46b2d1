# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One video, one key frame
#
# SUMMARY
#
# Download this chapter as {download}`script <controlvideo.py>` or {download}`notebook
# <controlvideo.ipynb>`.

# %% tags=["parameters"]
seed: int = 1  # base seed of everything random
device: str = "auto"  # where the models run: auto, cpu, cuda
frames: int = 6  # of a video
cases: int = 3  # videos with an edit each
repeats: int = 1  # seeds of tuning and of start noise, for each video
steps: int = 10  # of the sampler, and of inversion
guidance: float = 4.0  # of sampling
tune_steps: int = 30  # on the one video
learning_rate: float = 1e-3  # of tuning
norms: list[str] = ["frame"]  # of the ladder: frame, video
ladder: list[str] = ["frame alone", "key frame", "projections", "full", "full, drawn"]
curve: list[int] = [0, 30, 90]  # steps of tuning on the curve of over-fitting
inversions: list[int] = [5, 10, 20, 50]  # steps whose inversion is tried
long_frames: int = 24  # of the long video
window: int = 8  # frames of a window
overlap: int = 4  # frames that windows share
base_model: str = ""  # a Stable Diffusion 1.5 checkpoint of yours
controlnet: str = ""  # its ControlNet, for edges
video: str = ""  # a video of yours
says: str = ""  # what it shows
becomes: str = ""  # what it is to show

# %% tags=["hide-input", "inputs"]
from dataclasses import replace

import numpy as np
import torch

from core.controlvideo import scenes
from core.controlvideo.metrics import flicker, ground_points, score, temporal_cosine
from core.controlvideo.predictor import Stream
from core.controlvideo.small import small
from core.controlvideo.study import (
    KEY_FRAME,
    PER_FRAME,
    Arm,
    Bench,
    compare,
    difference,
    draw_case,
    freer,
)
from core.controlvideo.tuning import Recipe, Tuner
from core.controlvideo.windows import Windows
from core.lab import COLOURS, Ledger, choose_device, clip, figure, quote

ledger = Ledger("controlvideo")
where = choose_device(device)
base = small()
bench = Bench(base, steps=steps, guidance=guidance, learning_rate=learning_rate)
films = [draw_case(seed, i, frames) for i in range(cases)]
quote("controlvideo-frames", frames)
quote("controlvideo-cases", cases)

# %% [markdown]
# ## The method
# PICTURE
#
# ## A world where the correct edit is known

# %%
case = films[0]
bench.prepare(case, KEY_FRAME)
key_edit = bench.edit(case, KEY_FRAME)
clip(
    {
        f"source: {case.source_prompt}": case.image,
        "control: edges": case.control(),
        f"edit: {case.prompt}": key_edit,
        "the correct edit": scenes.render(case.truth).image,
    },
    alt="ALT",
    caption="CAPTION",
)

# %% [markdown]
# ## What holds by construction
#
# (controlvideo-e4)=

# %% tags=["remove-stdout"]
draw = torch.Generator().manual_seed(seed)
noise = torch.randn(frames, 3, scenes.SIZE, scenes.SIZE, generator=draw)
edges = case.control()
ask = {"num_inference_steps": 3, "guidance_scale": guidance, "output_type": "latent"}
whole = base(case.prompt, edges, latents=noise, branches=False, **ask).frames
started = base(case.prompt, edges, latents=noise, **ask).frames
bench.prepare(case, Arm(steps=5))
tuned = base(case.prompt, edges, latents=noise, **ask).frames
size = whole.abs().max()
zero_init = float((started - whole).abs().max() / size)
moved = float((tuned - whole).abs().max() / size)

# %%
bench.prepare(case, KEY_FRAME)
image = base.preview(case.prompt, edges, latents=noise, **ask).frames
videonorm = base(case.prompt, edges, latents=noise, norm="video", **ask).frames
bench.prepare(case, Arm(steps=5))
branched = base.preview(case.prompt, edges, latents=noise, **ask).frames
streamed = base(
    case.prompt, edges, latents=noise, branches=False, long=Stream(chunk=2), **ask
).frames
once = base(case.prompt, edges, latents=noise, branches=False, **ask).frames
order = [0, *reversed(range(1, frames))]
shuffled = base(case.prompt, edges[order], latents=noise[order], **ask).frames
back = [*reversed(range(frames))]
swapped = base(case.prompt, edges[back], latents=noise[back], **ask).frames
off = {
    "key frame = edit of one image": (whole[:1], image),
    "... with norms over the video": (videonorm[:1], image),
    "... with a tuned temporal branch": (tuned[:1], branched),
    "stream of 2 frames = whole": (streamed, once),
    "other frames permuted": (shuffled, tuned[order]),
    "... the key frame too": (swapped, tuned[back]),
}
off = {name: float((a - b).abs().max() / size) for name, (a, b) in off.items()}
print(zero_init, moved, off)

# %% [markdown]
# ## The ladder

# %%
arms = {
    "frame alone": PER_FRAME,
    "key frame": KEY_FRAME,
    "projections": Arm(steps=tune_steps, trained="projections", branches=False),
    "full": Arm(steps=tune_steps),
    "full, drawn": Arm(steps=tune_steps, copied=False),
    "queries": Arm(
        steps=tune_steps, trained="projections", branches=False, projections=("to_q",)
    ),
    "all of attention": Arm(
        steps=tune_steps, projections=("to_q", "to_k", "to_v", "to_out")
    ),
    "before": Arm(steps=tune_steps, place="before"),
    "after": Arm(steps=tune_steps, place="after"),
    "positions": Arm(steps=tune_steps, positions=True),
    "middle key": Arm(keys=(frames // 2,), branches=False),
    "two keys": Arm(keys=(0, frames - 1), branches=False),
    "sparse-causal": Arm(sees="sparse-causal", branches=False),
}
chosen = {
    f"{name}, video norms" * (norm == "video") or name: replace(arms[name], norm=norm)
    for norm in norms
    for name in ladder
}
found = compare(bench, films, chosen, range(repeats))
shown = ("prompt", "error", "ground_error", "object_error", "ground_flicker", "object_flicker", "iou", "edge_f1")
for name, numbers in found.items():
    print(f"{name:20}", {key: round(float(numbers[key].mean()), 3) for key in shown})

# %% [markdown]
# ## Controls

# %%
benches = {kind: replace(bench, pipe=small((kind,)), kinds=(kind,), inverted={}) for kind in scenes.CONTROLS}
benches["depth and pose"] = replace(bench, pipe=small(("depth", "pose")), kinds=("depth", "pose"), control_scale=[0.5, 0.5])
benches["none"] = replace(bench, control_scale=0.0)
carried = {
    kind: compare(each, films, {"": KEY_FRAME}, (0,), start="shared")[""]
    for kind, each in benches.items()
}
for name, numbers in carried.items():
    print(f"{name:20}", {key: round(float(numbers[key].mean()), 3) for key in shown})

# %% [markdown]
# ## Inversion

# %%
bench.prepare(case, KEY_FRAME)
back_again = {}
for n in inversions:
    x = base.invert(case.image, edges, source_prompt=case.source_prompt, num_inference_steps=n, branches=False)
    for scale in (1.0, guidance):
        out = base(case.source_prompt, edges, latents=x, num_inference_steps=n, guidance_scale=scale, branches=False, output_type="pt").frames
        back_again[n, scale] = float((out - case.image).abs().mean())
print(back_again)
shared = compare(bench, films, {"": KEY_FRAME}, (0,), start="shared")[""]
inverted = found["key frame"]
for name, numbers in {"shared": shared, "inverted": inverted}.items():
    print(f"{name:20}", {key: round(float(numbers[key].mean()), 3) for key in shown})

# %% [markdown]
# ## Freedom

# %%
named = {"everything": ("texture", "colour", "ground"), "the object": ("texture", "colour"), "the shape": ()}
freedom = {
    name: compare(bench, [freer(film, words) for film in films], {"own": PER_FRAME, "key": KEY_FRAME}, (0,), start="independent")
    for name, words in named.items()
}
for name, pair in freedom.items():
    print(name, {arm: (round(float(n["ground_flicker"].mean()), 3), round(float(n["object_flicker"].mean()), 3)) for arm, n in pair.items()})

# %% [markdown]
# ## Long

# %%
long_case = draw_case(seed, 50, long_frames, turn=3.0)
bench.prepare(long_case, KEY_FRAME)
ways = {"whole": None, "stream": Stream(chunk=window), "windows": Windows(window, overlap), "windows, no key video": Windows(window, overlap, key_weight=0.0)}
long_edits = {
    name: bench.edit(long_case, KEY_FRAME, start="shared", long=way)
    for name, way in ways.items()
}
for name, out in long_edits.items():
    s = score(out, long_case.truth).asdict()
    print(f"{name:20}", {key: round(float(s[key]), 4) for key in shown})
