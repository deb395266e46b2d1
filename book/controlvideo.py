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
# @@SUMMARY@@
#
# *The paper* {cite}`zhao2023controlvideo` edits real videos with Stable Diffusion 1.5, a ControlNet and one
# GPU. *Here* a model of {glue:text}`controlvideo-parameters:.1f` million parameters edits procedural videos of
# {glue:text}`controlvideo-frames` frames, {glue:text}`controlvideo-cases` of them in this run: too small to be
# pretty, but the correct edit can be rendered, so that what is elsewhere judged by eye is counted. The library,
# `core.controlvideo`, works on checkpoints of Stable Diffusion's format. *What was read* is the abstract of
# v2, the authors' two repositories and the public reviews; the paper's tables and figures could not be had, so no
# number of theirs is compared with but those of the abstract and the code.
#
# Download this chapter as {download}`script <controlvideo.py>` or {download}`notebook
# <controlvideo.ipynb>`.

# %% tags=["parameters"]
seed: int = 1  # base seed of everything random
device: str = "auto"  # where the models run: auto, cpu, cuda
frames: int = 6  # of a video
cases: int = 4  # videos, with an edit each
repeats: int = 1  # seeds of tuning, for each video
steps: int = 10  # of the sampler, and of inversion
guidance: float = 2.0  # of sampling
control_scale: float = 1.6  # of a ControlNet's residuals
tune_steps: int = 30  # on the one video
learning_rate: float = 1e-3  # of tuning
norms: list[str] = ["frame"]  # of the ladder: frame, video
ladder: list[str] = ["frame alone", "key frame", "projections", "full", "drawn"]
curve: list[int] = [0, 30, 90]  # steps of tuning on the curve of over-fitting
inversions: list[int] = [5, 10, 20]  # steps whose inversion is tried
long_frames: int = 24  # of the long video
window: int = 8  # frames of a window, and of a stream's chunk
overlap: int = 4  # frames that windows share
base_model: str = ""  # a checkpoint of yours, of Stable Diffusion 1.5's format
controlnet: str = ""  # its ControlNet for edges
film: str = ""  # a video of yours: mp4, gif or a folder
says: str = ""  # what it shows
becomes: str = ""  # what it is to show

# %% tags=["hide-input", "inputs"]
import math
from dataclasses import replace

import torch

from core.controlvideo import scenes
from core.controlvideo.checkpoint import load
from core.controlvideo.annotators import canny
from core.controlvideo.metrics import score, temporal_cosine
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
from core.controlvideo.tuning import Recipe, Tuner, tune
from core.controlvideo.video import read
from core.controlvideo.windows import Windows
from core.lab import COLOURS, Ledger, choose_device, clip, figure, quote

ledger = Ledger("controlvideo")
where = choose_device(device)
base = small().to(where)
bench = Bench(
    base,
    steps=steps,
    guidance=guidance,
    learning_rate=learning_rate,
    control_scale=control_scale,
)
films = [draw_case(seed, i, frames) for i in range(cases)]
quote("controlvideo-frames", frames)
quote("controlvideo-cases", cases)
millions = sum(
    p.numel() for m in (base.unet, base.controlnet) for p in m.parameters()
)
quote("controlvideo-parameters", millions / 1e6)

# %% [markdown]
# ## The method
#
# ```{figure} _static/controlvideo.svg
# ---
# name: controlvideo-method
# alt: Left, three frames enter the norm of a transformer block. Above, key-frame attention takes its queries from each frame and keys and values from the key frame; below, temporal attention sees one place in all frames and passes a 1 by 1 convolution that starts at zero. Both are added to the input. Below, three steps, tune, invert, edit.
# ---
# What is added to Stable Diffusion's blocks, and the three steps of an edit. Drawn after the paper's text and code.
# ```
#
# In every self-attention of the UNet and of the ControlNet, the frames' queries meet keys and values of *one*
# frame, the first. In the UNet's outer blocks a temporal branch is added, in parallel, which starts as a copy of
# the self-attention behind a convolution of zeros {cite}`zhang2023controlnet`. Tuned are the branches and the output
# projections of self-attention, on the source video with its own prompt. The edit starts from the DDIM
# inversion {cite}`song2021ddim` of the source.
#
# ## A world where the correct edit is known
#
# One object moves over a ground. A prompt names its texture, colour and shape. It leaves the rest open: the ground and
# its gradient, the shade of a colour, the phase of stripes. An edit names another colour; the correct one is the same
# scene rendered again.

# %%
case = films[0]
bench.prepare(case, KEY_FRAME)
panels = {
    f"source: {case.source_prompt}": case.image,
    "control: edges": case.control(),
    f"edit: {case.prompt}": bench.edit(case, KEY_FRAME),
    "the correct edit": scenes.render(case.truth).image,
}
clip(
    panels,
    alt="Four small videos side by side: a moving object, its edges, the object "
    "in another colour as the model paints it, and as it is rendered.",
    caption="An edit without tuning, with key-frame attention alone. The shape "
    "follows the edges; what the prompt does not say may go astray.",
)

# %% [markdown]
# ## What holds by construction
#
# Some properties need no data. They are to rounding, of the outputs after three steps of the sampler with
# guidance, relative to the largest; below each stands a case in which a condition is missing.

# %% tags=["hide-input", "remove-stdout"]
draw = torch.Generator().manual_seed(seed)
shape = (frames, 3, scenes.SIZE, scenes.SIZE)
noise = torch.randn(shape, generator=draw)
edges = case.control()
ask = {"num_inference_steps": 3, "guidance_scale": guidance, "output_type": "latent"}
plain = base(case.prompt, edges, latents=noise, branches=False, **ask).frames
at_zero = base(case.prompt, edges, latents=noise, **ask).frames
video_norms = base(case.prompt, edges, latents=noise, norm="video", **ask).frames
image = base.preview(case.prompt, edges, latents=noise, **ask).frames
chunks = Stream(chunk=2)
streamed = base(
    case.prompt, edges, latents=noise, branches=False, long=chunks, **ask
).frames
bench.prepare(case, Arm(steps=tune_steps))
tuned = base(case.prompt, edges, latents=noise, **ask).frames
tuned_image = base.preview(case.prompt, edges, latents=noise, **ask).frames
order, back = [0, *range(frames - 1, 0, -1)], [*range(frames - 1, -1, -1)]
others = base(case.prompt, edges[order], latents=noise[order], **ask).frames
all_turned = base(case.prompt, edges[back], latents=noise[back], **ask).frames
pairs = {
    "untuned branches change nothing": (at_zero, plain),
    "- tuned ones do": (tuned, plain),
    "the key frame is the edit of an image": (plain[:1], image),
    "- not with norms over the video": (video_norms[:1], image),
    "- not with tuned branches": (tuned[:1], tuned_image),
    "a stream of two frames is the whole": (streamed, plain),
    "frames but the key frame change places": (others, tuned[order]),
    "- the key frame, too": (all_turned, tuned[back]),
}
gap = {k: float((a - b).abs().max() / b.abs().max()) for k, (a, b) in pairs.items()}
exact = max(v for k, v in gap.items() if not k.startswith("-"))
broken = min(v for k, v in gap.items() if k.startswith("-"))
quote("controlvideo-exact", f"{exact:.0e}")
quote("controlvideo-broken", 100 * broken)

# %%
for name, value in gap.items():
    print(f"{name:40} {value:.0e}")

# %% [markdown]
# What holds does to {glue:text}`controlvideo-exact`; where a condition is missing outputs move by at least
# {glue:text}`controlvideo-broken:.1f` %. So with norms over each frame and without tuned branches the key frame can be chosen on
# one image (`preview`), at the price of one, and videos of any length can be streamed. The full method has neither: its branches
# carry something between all frames, though not their order, to which they are blind. The authors' code has a third
# coupling that its text does not mention: the group norms of its residual blocks take their statistics over
# all frames, as in Tune-A-Video {cite}`wu2023tuneavideo`, from which they come. Here `norm="frame"` is the default, since
# diffusers' models were trained so and the properties above hold there; `norm="video"` is the code's.
#
# (controlvideo-e4)=
# (controlvideo-e16)=

# %% tags=["hide-input"]
ledger.record(
    "controlvideo-e4",
    "Section on temporal attention; code",
    "a branch that starts behind zeros leaves the pretrained model as it is",
    paper="zero-initialised",
    here=f"off by {gap['untuned branches change nothing']:.0e}, tuned by "
    f"{gap['- tuned ones do']:.2f}",
    verdict="holds" if gap["untuned branches change nothing"] < 1e-5 else "not seen",
    expected="holds",
)
coupled = gap["- not with norms over the video"]
ledger.record(
    "controlvideo-e16",
    "Method figure; code, libs/resnet.py",
    "frames see each other through attention",
    paper="key-frame and temporal attention",
    here=f"the code's norms take statistics over all frames, too: the key frame moves by {coupled:.1%}",
    verdict="corrected" if coupled > 1e-3 else "not seen",
    expected="corrected",
)

# %% [markdown]
# ## The ladder
#
# Each rung edits the same {glue:text}`controlvideo-cases` videos, from their inversions, and is tuned for the same steps on the
# same noise. *Ground* and *object* are the mean errors against the correct edit; *flicker* is the standard deviation over frames of a
# point that is followed; *prompt* is the part of the frames in which colour, texture and shape are what was asked for.

# %%
arms = {
    "frame alone": PER_FRAME,
    "key frame": KEY_FRAME,
    "projections": Arm(steps=tune_steps, trained="projections", branches=False),
    "full": Arm(steps=tune_steps),
    "drawn": Arm(steps=tune_steps, copied=False),
    "queries": Arm(
        steps=tune_steps,
        trained="projections",
        branches=False,
        projections=("to_q",),
    ),
    "all": Arm(steps=tune_steps, projections=("to_q", "to_k", "to_v", "to_out")),
    "before": Arm(steps=tune_steps, place="before"),
    "after": Arm(steps=tune_steps, place="after"),
    "positions": Arm(steps=tune_steps, positions=True),
    "middle key": Arm(keys=(frames // 2,), branches=False),
    "two keys": Arm(keys=(0, frames - 1), branches=False),
    "sparse-causal": Arm(sees="sparse-causal", branches=False),
}
rungs = {
    (name, norm): replace(arms[name], norm=norm) for norm in norms for name in ladder
}
found = compare(bench, films, rungs, range(repeats))

# %%
columns = ("prompt", "ground_error", "object_error", "ground_flicker", "object_flicker")
print(f"{'':26}" + "".join(f"{c.replace('_', ' '):>16}" for c in columns))
for (name, norm), numbers in found.items():
    values = "".join(f"{numbers[c].mean():16.3f}" for c in columns)
    print(f"{name + ', norm ' + norm:26}{values}")

# %% tags=["hide-input", "remove-stdout"]
first = norms[0]
rung = {name: found[name, first] for name in ladder}
gain = {
    "key": difference(
        rung["key frame"]["ground_flicker"], rung["frame alone"]["ground_flicker"]
    ),
    "tuned": difference(rung["projections"]["error"], rung["key frame"]["error"]),
    "temporal": difference(rung["full"]["error"], rung["projections"]["error"]),
    "steady": difference(
        rung["full"]["object_flicker"], rung["projections"]["object_flicker"]
    ),
    "start": difference(rung["full"]["error"], rung["drawn"]["error"]),
    "prompt": difference(rung["full"]["prompt"], rung["key frame"]["prompt"]),
}
for name, each in gain.items():
    quote(f"controlvideo-gain-{name}", str(each))
asked_for = float(rung["full"]["prompt"].mean())
quote("controlvideo-asked", 100 * asked_for)

# %% mystnb={"figure": {"caption": "The ladder: error against the correct edit, and flicker of ground and object, each video a dot, the mean a bar.", "name": "controlvideo-ladder"}, "image": {"alt": "Three panels of dots for the rungs frame alone, key frame, tuned projections, full method and branches drawn at random."}}
fig, axes = figure(3, height=3.4)
for ax, number in zip(axes, ("error", "ground_flicker", "object_flicker"), strict=True):
    for i, name in enumerate(ladder):
        dots = rung[name][number].mean(1)
        ax.plot([i] * len(dots), dots, "o", color=COLOURS["measured"], alpha=0.6)
        ax.plot([i - 0.3, i + 0.3], [dots.mean()] * 2, color=COLOURS["exact"], lw=2)
    ax.set(ylabel=number.replace("_", " "), ylim=(0, None))
    _ = ax.set_xticks(range(len(ladder)), ladder, rotation=45, ha="right")

# %% [markdown]
# @@LADDER@@
#
# (controlvideo-e2)=
# (controlvideo-e3)=
# (controlvideo-e5)=
# (controlvideo-e6)=
# (controlvideo-e9)=

# %% tags=["hide-input"]
ledger.record(
    "controlvideo-e2",
    "Abstract; Section on key-frame attention",
    "key-frame attention raises temporal consistency",
    paper="more consistent",
    here=f"flicker of the ground {gain['key']}",
    verdict="holds at this scale" if gain["key"].below else "not seen",
    expected="holds at this scale",
)
ledger.record(
    "controlvideo-e3",
    "Abstract; Section on temporal attention",
    "temporal attention raises consistency and faithfulness",
    paper="more faithful, more consistent",
    here=f"error {gain['temporal']}, flicker of the object {gain['steady']}",
    verdict="holds at this scale"
    if gain["temporal"].below or gain["steady"].below
    else "not seen",
    expected="not seen",
)
ledger.record(
    "controlvideo-e5",
    "Code; summary of the ablation",
    "branches that start from self-attention are better than ones drawn at random",
    paper="initialised from self-attention",
    here=f"error {gain['start']}",
    verdict="holds at this scale" if gain["start"].below else "not seen",
    expected="not seen",
)
ledger.record(
    "controlvideo-e6",
    "Abstract; Section on fine-tuning",
    "tuning what the paper tunes raises faithfulness, and the edit still follows the text",
    paper="high fidelity, aligned with the text",
    here=f"error {gain['tuned']}; frames with what was asked for {gain['prompt']}",
    verdict="holds at this scale"
    if gain["tuned"].below and not gain["prompt"].below
    else "not seen",
    expected="holds at this scale",
)
ledger.record(
    "controlvideo-e9",
    "Abstract",
    "edits align with the given text",
    paper="aligned",
    here=f"{asked_for:.0%} of the frames have the colour, texture and shape asked for",
    verdict="holds at this scale" if asked_for > 0.8 else "not seen",
    expected="holds at this scale",
)

# %% [markdown]
# ## Too much tuning
#
# The one video can be learnt by heart. Then the edit shows the source, whatever the prompt says.

# %% tags=["remove-stdout"]
taught, longest = {}, []
for n in curve:
    longest = bench.prepare(case, Arm(steps=n))
    taught[n] = bench.edit(case, KEY_FRAME if n == 0 else Arm())
by_heart = {
    n: (
        float((out - case.image).abs().mean()),
        score(out, case.truth),
    )
    for n, out in taught.items()
}

# %%
for n, (to_source, scored) in by_heart.items():
    print(
        f"{n:4} steps: from the source {to_source:.3f}, from the correct edit "
        f"{scored.error:.3f}, with the colour asked for {scored.colour:.0%}"
    )
clip(
    {f"{n} steps": out for n, out in taught.items()},
    alt="The same edit after more and more steps of tuning.",
    caption=f"{case.prompt}: tuned for longer and longer on the source, {case.source_prompt}.",
)

# %% [markdown]
# @@CURVE@@
#
# ## What a control carries
#
# Edges of the object and of its stripes, a depth map, a line that tells position and heading alone: each
# control tells less of the source than the one before. Edits here start from one noise shared by all frames, for
# all that is known of the source to come from the control; nothing is tuned.

# %%
kinds = {
    "edges": ("edges",),
    "depth": ("depth",),
    "pose": ("pose",),
    "depth and pose": ("depth", "pose"),
}
benches = {
    name: replace(
        bench,
        pipe=small(kind).to(where),
        kinds=kind,
        control_scale=[control_scale / len(kind)] * len(kind),
    )
    for name, kind in kinds.items()
}
benches["none"] = replace(bench, control_scale=0.0)
carried = {
    name: compare(each, films, {"": KEY_FRAME}, (0,), start="shared")[""]
    for name, each in benches.items()
}
measures = ("iou", "edge_f1", "shape", "texture", "colour")
print(f"{'':16}" + "".join(f"{c.replace('_', ' '):>9}" for c in measures))
for name, numbers in carried.items():
    print(f"{name:16}" + "".join(f"{numbers[c].mean():9.2f}" for c in measures))

# %% tags=["hide-input", "remove-stdout"]
structure = difference(carried["edges"]["iou"], carried["none"]["iou"])
weakest = difference(carried["edges"]["edge_f1"], carried["pose"]["edge_f1"])
joined = difference(carried["depth and pose"]["iou"], carried["pose"]["iou"])
quote("controlvideo-structure", str(structure))
quote("controlvideo-weakest", str(weakest))
both, single = benches["depth and pose"].pipe, benches["depth"].pipe
one = single(case.prompt, case.control("depth"), latents=noise, **ask).frames
two = both(
    case.prompt,
    [case.control("depth"), case.control("pose")],
    latents=noise,
    control_scale=[1.0, 0.0],
    **ask,
).frames
summed = float((one - two).abs().max() / one.abs().max())
quote("controlvideo-summed", f"{summed:.0e}")

# %% [markdown]
# @@CONTROLS@@
#
# (controlvideo-e1)=
# (controlvideo-e10)=
# (controlvideo-e11)=

# %% tags=["hide-input"]
ledger.record(
    "controlvideo-e1",
    "Abstract",
    "conditions such as edge maps raise faithfulness to the source's structure",
    paper="enhances the fidelity",
    here=f"overlap of the object's mask with the source's {structure} by edges",
    verdict="holds at this scale" if structure.above else "not seen",
    expected="holds at this scale",
)
ledger.record(
    "controlvideo-e10",
    "Abstract v1; configurations",
    "controls carry varying amounts of the source",
    paper="80 steps of tuning for edges, 300 for HED, 500 for depth, 1500 for pose",
    here=f"edges found: {weakest} with edges over pose; how many steps make up for it was not tried",
    verdict="holds at this scale" if weakest.above else "not seen",
    expected="holds at this scale",
)
ledger.record(
    "controlvideo-e11",
    "Abstract v1",
    "several controls can be combined",
    paper="potential for multiple control combinations",
    here=f"residuals add, to {summed:.0e}; depth beside pose: overlap {joined} over pose alone",
    verdict="holds at this scale" if summed < 1e-5 and joined.above else "not seen",
    expected="holds at this scale",
)

# %% [markdown]
# ## Inverted, or shared, noise
#
# DDIM's inversion runs the sampler backwards, with the source's prompt and without guidance. Sampling from it again
# gives the source back, but for the error of the steps; with guidance it does not.

# %%
bench.prepare(case, KEY_FRAME)
words = case.source_prompt
returned = {}
for n in inversions:
    opts = {"num_inference_steps": n, "branches": False}
    start = base.invert(case.image, edges, source_prompt=words, **opts)
    for scale in (1.0, guidance):
        again = base(
            words, edges, latents=start, guidance_scale=scale, output_type="pt", **opts
        ).frames
        returned[n, scale] = float((again - case.image).abs().mean())
for (n, scale), off in returned.items():
    print(f"{n:3} steps, guidance {scale}: off by {off:.3f}")
begun = {
    "inverted": rung["key frame"],
    "shared": carried["edges"],
}
for name, numbers in begun.items():
    print(
        f"{name:9} ground {numbers['ground_error'].mean():.3f}, object "
        f"{numbers['object_error'].mean():.3f}, prompt {numbers['prompt'].mean():.2f}"
    )

# %% tags=["hide-input", "remove-stdout"]
kept = difference(begun["inverted"]["ground_error"], begun["shared"]["ground_error"])
few, many = min(inversions), max(inversions)
quote("controlvideo-kept", str(kept))
quote("controlvideo-few", returned[few, 1.0])
quote("controlvideo-many", returned[many, 1.0])
quote("controlvideo-guided", returned[many, guidance])

# %% [markdown]
# @@INVERSION@@
#
# (controlvideo-e14)=

# %% tags=["hide-input"]
ledger.record(
    "controlvideo-e14",
    "Section on inference; code",
    "DDIM inversion keeps the source: edits start from it",
    paper="DDIM inversion, 50 steps",
    here=f"the source comes back to {returned[many, 1.0]:.3f} in {many} steps; error of the ground "
    f"{kept} against shared noise",
    verdict="holds at this scale" if kept.below else "not seen",
    expected="holds at this scale",
)

# %% [markdown]
# ## When a key frame is needed at all
#
# Frames that are told everything agree by themselves. So the gain of key-frame attention should grow with what the prompt
# leaves open. Here every frame starts from noise of its own.

# %%
told = {
    "all but shades": ("texture", "colour", "ground"),
    "the object": ("texture", "colour"),
    "the shape": (),
}
two_arms = {"own": PER_FRAME, "key": KEY_FRAME}
freedom = {
    name: compare(
        bench, [freer(f, named) for f in films], two_arms, (0,), start="independent"
    )
    for name, named in told.items()
}
for name, pair in freedom.items():
    own, key = (pair[arm]["ground_flicker"] for arm in two_arms)
    print(
        f"named: {name:15} flicker of the ground {own.mean():.3f} frame by frame, "
        f"{key.mean():.3f} with a key frame ({difference(key, own)})"
    )

# %% [markdown]
# @@FREEDOM@@
#
# ## Long videos
#
# The paper's way cuts the video into windows that overlap, each with its first frame for a key frame, averages their predictions at
# every step, and blends in a video of all first frames. Without branches and with norms over frames nothing of this is
# needed: frames depend on the key frame alone, and come in chunks.

# %%
journey = draw_case(seed, 50, long_frames, turn=3.0)
bench.prepare(journey, KEY_FRAME)
ways = {
    "stream": Stream(chunk=window),
    "windows": Windows(window, overlap, key_weight=0.2),
    "no key video": Windows(window, overlap, key_weight=0.0),
}
edits = {
    name: bench.edit(journey, KEY_FRAME, start="independent", long=way)
    for name, way in ways.items()
}
drift = {}
for name, out in edits.items():
    now = score(out, journey.truth)
    drift[name] = now.ground_flicker
    print(
        f"{name:13} flicker of the ground {now.ground_flicker:.3f}, of the object "
        f"{now.object_flicker:.3f}, prompt {now.prompt:.2f}"
    )
cuts = Windows(window, overlap).cut(long_frames)
evaluations = sum(len(cut) for cut in cuts) + len(cuts)
print(f"evaluations of a step: {evaluations} in windows, {long_frames} in a stream")

# %%
clip(
    edits,
    alt="The same long edit streamed, in windows with a video of key frames, and without.",
    caption="Each frame starts from noise of its own. Windows hand the look on from "
    "one to the next; the stream asks the one key frame.",
    seconds=0.1,
)

# %% tags=["hide-input", "remove-stdout"]
quote("controlvideo-cost", evaluations / long_frames)
quote("controlvideo-drift-stream", drift["stream"])
quote("controlvideo-drift-windows", drift["windows"])

# %% [markdown]
# @@LONG@@
#
# (controlvideo-e13)=

# %% tags=["hide-input"]
ledger.record(
    "controlvideo-e13",
    "Abstract",
    "fused windows edit 140 frames, 5.83 to 17.5 times what others do",
    paper="140 frames",
    here=f"140/24 = {140 / 24:.2f} and 140/8 = {140 / 8:.1f}; here {long_frames} frames: flicker "
    f"{drift['windows']:.3f} in windows, {drift['stream']:.3f} streamed",
    verdict="holds at this scale"
    if (round(140 / 24, 2), 140 / 8) == (5.83, 17.5) and math.isfinite(drift["windows"])
    else "not seen",
    expected="holds at this scale",
)

# %% [markdown]
# ## What the usual measure of consistency does not see
#
# Temporal consistency is mostly reported as the mean cosine between features of *consecutive* frames. It says nothing
# of a drift whose steps are small, and nothing can beat a video that stands still. With pixels for features, so that no
# network is needed:

# %%
still = case.image[:1].expand_as(case.image)
fade = torch.linspace(0, 1, frames, device=case.image.device)[:, None, None, None]
other = scenes.render(case.truth).image
drifting = torch.lerp(case.image[:1], other[:1], fade)
shaking = case.image + 0.05 * torch.randn(shape, generator=draw)
seen = {"source": case.image, "still": still, "drifts": drifting, "noisy": shaking}
for name, pixels in seen.items():
    features = pixels.flatten(1) - 0.5
    ends = torch.cosine_similarity(features[0], features[-1], dim=0)
    print(
        f"{name:8} consecutive {temporal_cosine(features):.3f}, first and last {ends:.3f}"
    )

# %% [markdown]
# The video that drifts to another colour, and the one in which nothing moves, score above the source.
#
# ## The learning rate in the code
#
# The authors' loop clips the gradients of *all* weights to norm one, although only {glue:text}`controlvideo-share:.1f` % of them are
# trained, and under fp16 those that are not trained have not been unscaled: they are 65,536 times too large. The trained
# gradient is then divided by 65,536 times their norm. AdamW forgets a constant factor, but not beside its
# $\epsilon = 10^{-8}$. With 72.1 million trained weights whose gradient has norm one at most before that
# division, the first step has a root mean square of at most
#
# $$ \frac{1}{65536\,\sqrt{72.1\cdot 10^6}\;\epsilon} = $$ (controlvideo-clip)
#
# {glue:text}`controlvideo-cap:.2f` of the learning rate, while the loss scale is 65,536. The same sequence on the small model:

# %%
plainly = Recipe(steps=1, seed=seed)
bench.prepare(case, Arm(steps=5))
with Tuner(base, case.image, case.source_prompt, edges, plainly) as tuner:
    for model in tuner.frozen:
        model.requires_grad_(True)
    tuner.loss().backward()
    trained = torch.cat([p.grad.flatten() for p in tuner.trained])
    frozen = torch.stack(
        [p.grad.norm() for m in tuner.frozen for p in m.parameters()]
    ).norm()
    for model in tuner.frozen:
        for p in model.parameters():
            p.grad = None
clipped = {
    "trained alone": trained / trained.norm().clamp(min=1),
    "all, not unscaled": trained
    / torch.hypot(trained.norm(), 65536 * frozen).clamp(min=1),
}
step = {k: float((g / (g.abs() + 1e-8)).square().mean().sqrt()) for k, g in clipped.items()}
for name, size in step.items():
    print(f"clipped {name:18} first step of AdamW: {size:.2f} of the learning rate")

# %% tags=["hide-input", "remove-stdout"]
cap = 1 / (65536 * math.sqrt(72.1e6) * 1e-8)
quote("controlvideo-cap", cap)
quote("controlvideo-share", 100 * 72.1 / 1274.6)
quote("controlvideo-first", step["all, not unscaled"])

# %% [markdown]
# So 3e-5 is an upper label and not the rate that the published results were made with; their numbers of steps were chosen with
# this in place, and its effect on them was not measured. `tune` clips what it trains.
#
# (controlvideo-e17)=

# %% tags=["hide-input"]
ledger.audited(
    "controlvideo-e17",
    "Code, train.py",
    "tuned by AdamW at a learning rate of 3e-5",
    paper="3e-5, clipped to norm 1, fp16",
    here=f"while the loss scale is 65,536 a step is at most {cap:.2f} of that at SD 1.5's size; "
    f"{step['all, not unscaled']:.2f} for the small model, {step['trained alone']:.2f} without",
    read="thu-ml/controlvideo at 23b6b0b, 2023-06-11",
    verdict="corrected" if cap < 0.5 else "holds",
    expected="corrected",
)

# %% [markdown]
# ## Your video
#
# The same code edits a real video with weights of Stable Diffusion 1.5's format: name them with the parameters `base_model`,
# `controlnet`, `film`, `says` and `becomes`, or use `python -m core.controlvideo edit`. Scale `paper` has the paper's settings, and says
# what is missing.

# %%
if base_model:
    yours = load(base_model, [controlnet]).to(where)
    shot = read(film, frames=frames, factor=yours.factor)
    lines = canny(shot.frames)
    tune(yours, shot.frames, says, lines, Recipe(steps=tune_steps), show=True)
    made = yours(
        becomes,
        lines,
        source=shot.frames,
        source_prompt=says,
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="pt",
    ).frames
    clip({"source": shot.frames, "edit": made}, alt=becomes, caption=becomes)

# %% [markdown]
# ## What was not tried
#
# The choice of the key frame and of the branches' place is part of the ladder at scale `long`; the paper's own numbers
# for it could not be had.
#
# (controlvideo-e7)=
# (controlvideo-e8)=
# (controlvideo-e12)=
# (controlvideo-e15)=

# %% tags=["hide-input"]
ledger.not_tried(
    "controlvideo-e7",
    "Abstract",
    "an in-depth exploration of the design space",
    paper="key frame, place of the branch, what is tuned",
    needs="the paper's tables, which could not be had; scale long has the arms",
)
ledger.not_tried(
    "controlvideo-e8",
    "Abstract",
    "outperforms various competitive baselines",
    paper="against Tune-A-Video, FateZero, Video-P2P and vid2vid-zero",
    needs="their weights and code on one machine, a GPU, and the user study's people",
)
ledger.not_tried(
    "controlvideo-e12",
    "Abstract v2",
    "low-rank layers before tuning align videos with reference images",
    paper="demonstrated",
    needs="a LoRA of reference images and Stable Diffusion's weights",
)
ledger.not_tried(
    "controlvideo-e15",
    "thu-ml/controlvideo, issue 3",
    "eight frames take 20 GB",
    paper="20 GB on an RTX 3090",
    needs="a GPU and Stable Diffusion's weights; 4.8 GB of it are gradients of weights not trained",
)

# %% [markdown]
# ## What differs from the paper
#
# 1. *Model.* 24 by 24 pixels, no autoencoder, v-prediction and linear betas; made by
#    `python -m core.controlvideo.pretrain`, whose log and card come with the package.
# 2. *Videos.* Procedural, of {glue:text}`controlvideo-frames` frames; one object, edits of its colour.
# 3. *Norms* over each frame, except where it says video.
# 4. *Sampler.* {glue:text}`controlvideo-steps` steps and a guidance of {glue:text}`controlvideo-guidance`, for 50 and 12; a learning rate of
#    {glue:text}`controlvideo-rate`, for a smaller model.
# 5. *Clipping* of the trained weights' gradient alone.
# 6. *Added:* the correct edit, properties by construction, streaming, the freedom of prompts.

# %% [markdown]
# ## What was reproduced

# %% tags=["hide-input", "remove-stdout"]
quote("controlvideo-steps", steps)
quote("controlvideo-guidance", guidance)
quote("controlvideo-rate", f"{learning_rate:g}")

# %%
ledger

# %% tags=["nbval-check-output"]
ledger.verify()
