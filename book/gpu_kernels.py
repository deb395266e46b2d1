# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A kernel, checked without a GPU
#
# Most of what can be wrong with a GPU kernel can be found on a laptop: wrong numbers, by Triton's
# interpreter against float64; spilled registers and idle tensor cores, by its compiler and the
# machine code that it writes. This page takes one kernel, causal linear attention, from two lines
# of torch to such evidence; four more follow in short: log-probabilities under a large vocabulary,
# what stands between two layers of a diffusion transformer, the sizes of its activations, and
# attention over the frames of a video. How fast they are on a GPU, only a GPU can say: what is
# committed about that stands in the last table of each, or its absence does.

# %% tags=["parameters"]
seed: int = 1  # of everything sampled
device: str = "auto"  # where the gradients are checked: auto, cpu, cuda
T: int = 2048  # tokens of the sequence whose bytes are counted
D: int = 64  # width of its queries and keys
M: int = 64  # width of its values
C: int = 64  # tokens of a block
rows: int = 8192  # masked tokens whose probability is counted
width: int = 4096  # of the hidden states that the second op is given
V: int = 126_464  # tokens of its vocabulary

# %% [markdown]
# Triton chooses between its compiler and its interpreter as it is *imported*, for the whole process.
# So the variable is set above the imports, and what needs the compiler runs elsewhere.

# %% tags=["hide-input", "inputs"]
import os

os.environ["TRITON_INTERPRET"] = "1"

import inspect
import json
from unittest import mock

import numpy as np
import torch
from IPython.display import HTML, Markdown

from core.kernels import (
    adaln_triton,
    explain,
    linear_logprob_triton,
    short_attention_triton,
)
from core.kernels import causal_linear_attention_triton as kernels
from core.kernels._linear_logprob_blocks import LARGE
from core.kernels.activation_stats import activation_stats, reference_stats
from core.kernels.adaln import adaln, reference_adaln
from core.kernels.causal_linear_attention import (
    causal_linear_attention,
    reference_attention,
)
from core.kernels.evidence import FOLDER as EVIDENCE
from core.kernels.evidence import aot_html, as_html, documents, faster_peers
from core.kernels.linear_logprob import linear_logprob, reference_logprob
from core.kernels.short_attention import reference_short_attention, short_attention
from core.lab import COLOURS, choose_device, figure, quote

generator = torch.Generator().manual_seed(seed)
where = choose_device(device)

# %% [markdown]
# ## The naive form
#
# Attention without the softmax {cite:p}`katharopoulos2020transformers`: token $t$ has a query $q_t$,
# a key $k_t$ of width $D$ and a value $v_t$ of width $M$, and gets
#
# $$
# o_t = w_t \sum_{s \le t} v_s \, (k_s^* q_t), \qquad w_t = 1 \ \text{or}\ \frac{1}{\max(t - 1, 1)}.
# $$ (kernels-op)
#
# In torch, for $w_t = 1$, that is `o = (q @ k.mH).tril() @ v`. Each operation of it reads its
# operands from memory and writes its result there. So the bytes can be counted line by line, before
# anything is measured; here for one sequence in bfloat16, two bytes a number.

# %% tags=["nbval-check-output"]
floor_numbers = T * (2 * D + 2 * M)
naive = {  # line: numbers read, numbers written, floating-point operations
    "s = q @ k.mH": (2 * T * D, T**2, 2 * T**2 * D),
    "s = s.tril()": (T**2, T**2, 0),
    "o = s @ v": (T**2 + T * M, T * M, 2 * T**2 * M),
}
print("line              MB read   MB written   MFLOP")
for line, (read, written, flop) in naive.items():
    megabytes = f"{2e-6 * read:7.2f}   {2e-6 * written:10.2f}"
    print(f"{line:16} {megabytes}   {1e-6 * flop:6.0f}")
naive_numbers = sum(read + written for read, written, _ in naive.values())

# %% [markdown]
# ## The floor
#
# No form can do with less than reading $q, k, v$ once and writing $o$ once, {glue:text}`kernels-floor:.2f`
# MB. The naive form moves {glue:text}`kernels-naive:.0f` times that: $4T^2$ numbers more, for scores
# of which half are thrown away. It is the scores that have to stay out of memory.
#
# The sum is a running state, $S_t = S_{t-1} + v_t k_t^*$, applied to $q_t$. That recurrence has the
# fewest operations, $4TDM$; the naive form has {glue:text}`kernels-flop:.0f` times as many. But it is
# $T$ steps that wait for each other, and products of vectors, which tensor cores cannot do. Between
# the two lies the form in blocks of $C$ tokens ({cite:t}`yang2024gated`, Section 4): scores within a
# block, the state from block to block, $2TC(D + M) + 4TDM$ operations, all in products of matrices.
#
# Blocks alone are not the floor. Written in torch, scores and states of all blocks still go through
# memory, $4TC + 4TDM/C$ numbers of them, besides what is read twice. In *one* kernel they stay in
# registers, and nothing but the floor is left ({numref}`kernels-bytes`), as long as one program holds
# all columns; wider values read $q$ and $k$ again for every `M_BLOCK` of theirs. The recurrence's
# operations over the floor's bytes are {glue:text}`kernels-intensity:.0f` a byte: a processor that
# does more of them, in the time that it takes to move one, waits for memory.

# %% tags=["remove-stdout"]
quote("kernels-floor", 2e-6 * floor_numbers)
quote("kernels-naive", naive_numbers / floor_numbers)
quote("kernels-flop", sum(flop for *_, flop in naive.values()) / (4 * T * D * M))
quote("kernels-intensity", 4 * T * D * M / (2 * floor_numbers))

# %% mystnb={"figure": {"caption": "Bytes through memory for one sequence in bfloat16, counted: the naive form, the same in blocks with one operation of torch after the other, and the floor, which one kernel reaches where there are sequences enough to fill a GPU.", "name": "kernels-bytes"}, "image": {"alt": "Three lines on logarithmic axes: the naive form rises with the square of the length, from near the others to far above them; blocks and floor rise in proportion to the length, a constant factor apart."}}
lengths = 2.0 ** np.arange(6, 16)
least = 2 * lengths * (2 * D + 2 * M)
reread = 2 * lengths * (2 * D + 5 * M)  # q, k, v again; the second term of o
fig, (ax,) = figure()
ax.plot(lengths, least + 8 * lengths**2, color=COLOURS["other"], label="naive")
blocked = least + reread + 8 * lengths * (C + D * M / C)
ax.plot(lengths, blocked, color=COLOURS["exact"], label="blocks, in torch")
ax.plot(lengths, least, color=COLOURS["limit"], label="floor, one kernel")
ax.set(xlabel="tokens $T$", ylabel="bytes", xscale="log", yscale="log")
_ = ax.legend()

# %% [markdown]
# ## One op, its own gradient
#
# A training step needs three gradients, usually three more kernels. Here they are the op itself, with
# roles exchanged, two of them backward in time. With $g$ the gradient of the loss in $o$,
#
# $$
# \bar q = \mathrm{op}(g, v, k), \qquad \bar k = \mathrm{op}^{\leftarrow}(v, g, q), \qquad
# \bar v = \mathrm{op}^{\leftarrow}(k, q, g),
# $$ (kernels-gradients)
#
# where $w$ always belongs to the later token of a pair. One kernel is forward, backward and the
# backward's backward. Against autograd through the naive form, in double precision, with weights,
# real and complex, the largest difference is {glue:text}`kernels-gradient-error`.

# %% tags=["remove-stdout"]
op, differences = causal_linear_attention, []
for dtype in (torch.float64, torch.complex128):
    wide = torch.randn(2, 37, 16, dtype=dtype, generator=generator).to(where)
    q, k, v, g = wide.split((3, 3, 5, 5), dim=-1)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    o = reference_attention(*leaves, normalize=True)
    wanted = torch.autograd.grad(o, leaves, g)
    back = {"normalize": True, "reverse": True, "impl": "torch"}
    dq = op(g, v, k, normalize=True, impl="torch")
    found = dq, op(v, g, q, **back), op(k, q, g, **back)
    for a, b in zip(found, wanted, strict=True):
        differences.append((a - b).abs().max().item())
worst = max(differences)
quote("kernels-gradient-error", "below 1e-12" if worst < 1e-12 else f"{worst:.0e}")

# %% [markdown]
# ## The kernel
#
# A program walks along one sequence, or one segment of it, a block of `C` tokens at a time. Columns of
# the values do not mix, and columns of the keys only add up: so it owns `D_BLOCK` by `M_BLOCK` of the
# state, as much as registers hold. Read the loop from its middle: `a` are the scores of the block,
# masked; `o` is what they say, plus what the state says of all blocks before; the last line of the
# loop moves the state on. Neither `a` nor `S` is ever stored, except where a sequence is cut into
# segments to fill the GPU: then a first launch, `SUM_ONLY`, stores one state a segment.

# %% tags=["hide-input"]
source = inspect.getsource(kernels._blocks_kernel.fn)
Markdown(f"```python\n{source}```")

# %% [markdown]
# - *Awkward shapes* are masks: a row past the end, or a column past the width, is read as zero, and
#   zero adds nothing to a sum. So it needs no second code path, and no padding in memory.
# - *Backward in time* is forward, on rows that are read from the end (`REVERSE`).
# - *Complex numbers* are pairs of real columns. With $J x$ the pairs of $ix$ and $a \cdot b$ the real
#   product, $k^* q = k \cdot q - i\,(k \cdot J q)$: two real queries, $q$ and $-Jq$, on one shared
#   state. Twice the queries, but no second state, and tensor cores that know only real numbers.
# - *Precision.* Sums run in float32. Products of float32 take the tf32 tensor cores three times
#   (`tf32x3`). float16 is widened to tf32 where scores, state or weights may pass its ends (`WIDE`).
# - *No atomics*: equal inputs give equal bits.
#
# States of a few hundred numbers leave tensor cores nothing to do; for these a second, shorter kernel
# goes token by token, a warp for several sequences.
# {py:func}`~core.kernels.causal_linear_attention.causal_linear_attention` chooses, and
# {py:func}`~core.kernels.explain` says what it chose; on a CPU, with the interpreter on:

# %% tags=["nbval-check-output"]
q, k, v = torch.randn(3, 2, 37, 3, generator=generator)
print(explain(causal_linear_attention, q, k, v))

# %% [markdown]
# ## The test, on an awkward shape
#
# Powers of two hide mistakes. So: 37 tokens, widths 3 and 5, none a multiple of anything; $q, k, v$
# views into one wider tensor, as a fused projection leaves them; the output filled with nan, so that
# a number that is not written is seen; two segments; both directions of time. What may be lost is no
# tolerance typed from experience, but twice what the naive form loses in the same dtype. Both are
# compared with the naive form in double precision, on the same rounded inputs.

# %%
cases = {}
for dtype in (torch.float32, torch.bfloat16, torch.complex64):
    wide = torch.randn(2, 37, 11, dtype=dtype, generator=generator)
    cases[dtype] = wide.split((3, 3, 5), dim=-1)
ways = {"forward": False, "backward": True}
norm = torch.linalg.vector_norm

# %% tags=["nbval-check-output"]
for dtype, (q, k, v) in cases.items():
    allowed = 4 if dtype is torch.bfloat16 else 2  # the interpreter: see below
    for name, reverse in ways.items():
        way = {"normalize": True, "reverse": reverse}
        double = [x.to(torch.promote_types(dtype, torch.float64)) for x in (q, k, v)]
        exact = reference_attention(*double, **way)
        lost = norm(reference_attention(q, k, v, **way) - exact)
        one, two = (torch.full_like(v, torch.nan) for _ in range(2))
        for out in (one, two):
            kernels.triton_attention(q, k, v, out, **way, segments=2)
        fine = bool(norm(one - exact) <= allowed * lost)
        verdict = f"at most {allowed} times the naive error: {fine}"
        print(f"{dtype}, {name}: {verdict}, twice the same: {torch.equal(one, two)}")

# %% [markdown]
# The interpreter has two traps, both in bfloat16. When it rounds *to* bfloat16 it cuts off, so that
# one rounding may cost twice as much as on a GPU; hence the 4. The other is worse: `tl.dot` on
# bfloat16 multiplies the bits, as if they were integers, and says nothing. The kernel's `dot`
# therefore widens its operands first where it is interpreted. A test of the library makes
# every bfloat16 product raise, and finds none. With that detour taken out, the relative error of
# this kernel on the same input is {glue:text}`kernels-trap`: the test above can fail.

# %% tags=["remove-stdout"]
(q, k, v), way = cases[torch.bfloat16], {"normalize": True, "reverse": False}
exact = reference_attention(q.double(), k.double(), v.double(), **way)
out = torch.full_like(v, torch.nan)
with mock.patch.object(kernels, "triton_interprets", return_value=False):
    kernels.triton_attention(q, k, v, out, **way, segments=2)
trap = (norm(out - exact) / norm(exact)).item()
quote("kernels-trap", "above a million" if trap > 1e6 else f"{trap:.1g}")

# %% [markdown]
# ## What the compiler makes of it
#
# Triton's compiler needs no GPU. `python -m core.kernels.aot` takes launches of realistic size through
# Triton's own launch code with a stand-in for the driver, compiles them for Ampere (80), Hopper (90)
# and Blackwell (100), and reads the machine code: registers, bytes that spill to memory, shared
# memory, instructions on tensor cores, and how many of the accesses to global memory are 16 bytes
# wide. An example with a fault fails the command.

# %% tags=["hide-output"]
HTML(aot_html(op="causal_linear_attention"))

# %% tags=["nbval-check-output"]
compiled = json.loads((EVIDENCE / "aot.json").read_text())["rows"]
aot = [row for row in compiled if row["op"] == "causal_linear_attention"]
print(f"{len(aot)} examples, for {sorted({row['arch'] for row in aot})}")
print(f"that spill: {sum(row['code']['spilled'] > 0 for row in aot)}")
print(f"with a fault of any kind: {sum(bool(row['faults']) for row in aot)}")

# %% [markdown]
# It is not there for show: the sizes of the tiles were chosen by it. The state and the scores share
# the registers with whatever the products need, and what that is nobody guesses right. Three tf32
# products in place of one keep two parts of each operand; Ampere passes operands through registers,
# where Hopper's 16-bit products read them from shared memory. So these cases have smaller tiles
# than bfloat16 on Hopper has.

# %% tags=["nbval-check-output"]
for arch, tiles in kernels._TILES.items():
    for what, sizes in tiles.items():
        widths = "; ".join(
            f"D_BLOCK = {width}: C = {tile.C}, M_BLOCK = {tile.M_BLOCK}"
            for width, tile in sizes.items()
        )
        print(f"from {arch}, {what}: {widths}")

# %% [markdown]
# ## The measurement
#
# `python -m core.kernels.bench causal_linear_attention` times the op beside its peers: the naive form,
# the loop over tokens, prefix sums of all outer products, and flash-linear-attention where there is a
# GPU. It writes what follows here; each row says which form of the op served it. *Of the floor* is the
# floor's time, from the machine's own best copy and best product, divided by ours; a ratio is a peer's
# time divided by ours, and **below 1 the peer is faster**.
#
# *On a CPU.* Here the form in blocks of torch serves, not the kernel above. The goal is ten times the
# naive form's speed forward and eight times with the backward pass, at $T = 2048$ in float32; the
# ratios of two runs on a shared machine may differ by a tenth or two.

# %% tags=["hide-input"]
HTML(as_html("causal_linear_attention", "cpu"))

# %% [markdown]
# *On a GPU.* {glue:text}`kernels-gpu`

# %% tags=["hide-input"]
HTML(as_html("causal_linear_attention", "cuda"))

# %% [markdown]
# In short, which rows there are, and every one in which a peer is faster:

# %% tags=["nbval-check-output"]
benches = documents("causal_linear_attention")
for bench in benches:
    print(f"{bench['kind']}, {bench['device']}: {len(bench['rows'])} rows")
    for peer, row, ratio in faster_peers(bench):
        print(f"  {peer} is faster, its time is {ratio:.2f} of ours: {row}")
    if not faster_peers(bench):
        print("  no peer that was measured is faster")
if not any(bench["kind"] == "cuda" for bench in benches):
    print("cuda: no rows, nothing is claimed")

# %% tags=["remove-cell"]
measured = [bench["device"] for bench in benches if bench["kind"] == "cuda"]
command = "python -m core.kernels.bench causal_linear_attention"
absent = f"No GPU was at hand; nothing is claimed for one. Run {command} on one."
quote("kernels-gpu", f"Measured on {', '.join(measured)}." if measured else absent)

# %% [markdown]
# ## A second op: log-probabilities
#
# The likelihood of a masked diffusion model {cite:p}`nie2025llada`, and whatever is trained by it,
# asks of each masked token only how likely the true one is. With $h_i$ the hidden state of row $i$
# and $W$ the head, one row of it a token of the vocabulary,
#
# $$
# \log p_i = z_{i y_i} - \log \sum_v e^{z_{iv}}, \qquad z_i = W h_i + b.
# $$ (kernels-logprob)
#
# Written in torch that makes a row of $V$ logits for each row of $h$ to keep one number of it.
# Public evaluation code makes them for all rows, masked or not, and then picks. Three things can be
# left out. *Rows* that are not asked for: the caller gathers the others first. *Logits*: a block of
# the vocabulary at a time, with a running maximum $m_i$ and sum $s_i$ of $e^{z_{iv} - m_i}$. And,
# where the head is *frozen* (scoring with a reference, adapters below a fixed head), the backward
# pass: the gradient is
#
# $$
# \bar h_i = g_i \, W^\top (e_{y_i} - p_i) = g_i \sum_{v \ne y_i} p_{iv} \, (W_{y_i} - W_v),
# $$ (kernels-frozen)
#
# and the sum does not depend on $g_i$, whatever the loss makes of each row. The forward pass collects
# it block by block, as attention does with its values, and backward multiplies. A head that is
# trained needs its logits once more in backward, or has to keep them. Counted for {glue:text}`kernels-rows`
# masked rows among twice as many, in units of one product $2NVD$ ({glue:text}`kernels-product:.1f` TFLOP),
# with 16-bit logits:

# %% tags=["nbval-check-output"]
whole, block = 2 * 2e-9 * rows * V, 1e-9 * (4 + 2) * LARGE[0] * LARGE[1]
ways = {  # products forward, products for gradients, GB held for logits and their gradient
    "logits of all rows": (2, 4, 2 * whole),
    "logits of masked rows": (1, 2, whole),
    "blocks, head trained": (1, 3, block),
    "blocks, head frozen": (2, 0, block),
}
print("way                     forward   gradients   GB held")
for way, (forward, gradients, held) in ways.items():
    print(f"{way:22}   {forward:7}   {gradients:9}   {held:7.2f}")

# %% tags=["remove-stdout"]
quote("kernels-rows", f"{rows:,}")
quote("kernels-product", 2e-12 * rows * V * width)
body = 2 * 32 * (4 * width**2 + 3 * width * 12_288)  # LLaDA-8B: layers, attention, MLP
quote("kernels-head-share", 200 * width * V / (2 * width * V + body))

# %% [markdown]
# The target stands apart from both running sums, which is what {eq}`kernels-frozen` says on the right:
# nothing cancels where a token is all but certain. Against autograd through {eq}`kernels-logprob` in
# double precision, with an upstream gradient of its own in every row, the largest difference of
# results and gradients, frozen or trained, is {glue:text}`kernels-logprob-error`.

# %% tags=["remove-stdout"]
wide = torch.randn(37 + 131, 19, dtype=torch.float64, generator=generator).to(where)
g, chosen = torch.randn(2, 37, generator=generator).double().to(where)
target, differences = (chosen.abs() * 40).long().clamp(max=130), []
for frozen in (True, False):
    h, W = (x.clone().requires_grad_() for x in wide.split((37, 131)))
    leaves = [h] if frozen else [h, W]
    logp, _ = reference_logprob(h, W, target)
    wanted = logp, *torch.autograd.grad(logp, leaves, g)
    logp = linear_logprob(h, W.detach() if frozen else W, target, impl="torch")
    found = logp, *torch.autograd.grad(logp, leaves, g)
    for a, b in zip(found, wanted, strict=True):
        differences.append((a - b).abs().max().item())
worst = max(differences)
quote("kernels-logprob-error", "below 1e-12" if worst < 1e-12 else f"{worst:.0e}")

# %% [markdown]
# The kernel of the forward pass: a program has a tile of rows and a range of the vocabulary, and the
# logits of a tile die in its registers. Where gradients are formed, a block of logits is multiplied
# by cuBLAS, in float32 whatever the inputs are, and a second kernel makes of it what the next product
# takes, in one reading.

# %% tags=["hide-input"]
source = inspect.getsource(linear_logprob_triton._rest_kernel.fn)
Markdown(f"```python\n{source}```")

# %% [markdown]
# The same test as above, with a vocabulary that is no multiple of a tile, cut into two ranges:

# %% tags=["nbval-check-output"]
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    h, W = wide.cpu().to(dtype).split((37, 131))
    y = target.cpu()
    exact, _ = reference_logprob(h.double(), W.double(), y)
    lost = norm(reference_logprob(h, W, y)[0] - exact)
    one, two = (
        linear_logprob_triton.triton_logprob(h, W, y, None, parts=2)[0]
        for _ in range(2)
    )
    fine = bool(norm(one - exact) <= 2 * lost)
    verdict = f"at most 2 times the naive error: {fine}"
    print(f"{dtype}, {verdict}, twice the same: {torch.equal(one, two)}")

# %% [markdown]
# And what the compiler makes of it. The tile of a Hopper is 128 rows by 256 tokens: its logits are
# half of all registers, and the two lines that mask and sum them decide whether anything spills.

# %% tags=["hide-output"]
HTML(aot_html(op="linear_logprob"))

# %% tags=["nbval-check-output"]
aot = [row for row in compiled if row["op"] == "linear_logprob"]
print(f"{len(aot)} examples, for {sorted({row['arch'] for row in aot})}")
print(f"that spill: {sum(row['code']['spilled'] > 0 for row in aot)}")
print(f"with a fault of any kind: {sum(bool(row['faults']) for row in aot)}")

# %% [markdown]
# *On a CPU*, for a vocabulary as large as that of LLaDA, width 256, 512 rows of which half are masked,
# float32. The goals are twice the speed of the public way at a tenth of its memory for a likelihood,
# and twice its speed with gradients under a frozen head. Measured are
# {glue:text}`kernels-likelihood-ratio:.1f` times the speed at 1/{glue:text}`kernels-likelihood-memory:.0f`
# of the memory, and {glue:text}`kernels-frozen-ratio:.1f` times the speed. Most of that speed is the rows
# alone; against the full logits of the masked rows it is {glue:text}`kernels-likelihood-rows:.2f` and
# {glue:text}`kernels-frozen-rows:.2f` times, and the rest is memory. **Where the head is trained, keeping
# the logits of the masked rows is faster** than forming them twice, as long as there is memory for
# them: the table has it.

# %% tags=["hide-input"]
HTML(as_html("linear_logprob", "cpu"))

# %% tags=["nbval-check-output"]
heads = documents("linear_logprob")
for bench in heads:
    print(f"{bench['kind']}, {bench['device']}: {len(bench['rows'])} rows")
    for peer, row, ratio in faster_peers(bench):
        print(f"  {peer} is faster, its time is {ratio:.2f} of ours: {row}")
if not any(bench["kind"] == "cuda" for bench in heads):
    print("cuda: no rows, nothing is claimed")

# %% tags=["remove-cell"]
likelihood, frozen, _ = heads[0]["rows"]
peer = likelihood["peers"]["public"]
quote("kernels-likelihood-ratio", peer["ratio"])
quote("kernels-likelihood-memory", peer["peak_bytes"] / likelihood["peak_bytes"])
quote("kernels-frozen-ratio", frozen["peers"]["public"]["ratio"])
quote("kernels-likelihood-rows", likelihood["peers"]["rows first"]["ratio"])
quote("kernels-frozen-rows", frozen["peers"]["rows first"]["ratio"])
measured = [bench["device"] for bench in heads if bench["kind"] == "cuda"]
absent = absent.replace("causal_linear_attention", "linear_logprob")
there = f"Measured on {', '.join(measured)}." if measured else absent
quote("kernels-logprob-gpu", there)

# %% [markdown]
# *On a GPU.* {glue:text}`kernels-logprob-gpu`

# %% tags=["hide-input"]
HTML(as_html("linear_logprob", "cuda"))

# %% [markdown]
# *When it helps.* At the size of LLaDA-8B the head is {glue:text}`kernels-head-share:.0f` % of the
# operations of a forward pass, if the logits of all tokens are formed; so no kernel for it can make
# training or evaluation much faster. What it saves there is the memory in the table of ways, and with
# it the size of a batch. Where the model is small and the vocabulary large, the head is most of the
# work, and the ratios above are those of a whole step. It is not meant to be the fastest dense kernel:
# [Liger](https://github.com/linkedin/Liger-Kernel) has one in CuTe for Hopper, for which its README (0.8.5)
# reports 706 to 738 TFLOP/s forward on an H100 at $D = 4096$, $V = 131{,}072$, near that chip's
# practical best; no Triton kernel that we know of comes close. It wants bfloat16 and a Hopper, computes
# rows that are ignored, and knows no frozen head. Another peer,
# [cut-cross-entropy](https://arxiv.org/abs/2411.09009), leaves small probabilities out of its gradients
# by default. Both are in the bench where they are installed.

# %% [markdown]
# ## A third op: what stands between two layers
#
# In a [diffusion transformer](https://arxiv.org/abs/2212.09748) time and class enter as three vectors
# a layer: a gate $g$ for what the layer before returned, $h$, then, after the norm, a scale $s$ and a shift $b$.
# For each token $t$ of a sample
#
# $$
# x'_t = x_t + g \odot h_t, \qquad n_t = r_t\,(x'_t - \overline{x'_t}), \qquad
# y_t = b + (1 + s) \odot n_t,
# $$ (kernels-adaln)
#
# where $r_t$ is one over the standard deviation of the token. There is hardly anything to compute, so
# that all that counts is how often the activations go through memory. Of $N$ numbers each, line by
# line as it is written in torch, against one pass:

# %% tags=["nbval-check-output"]
once = {  # operation: activations read and written, forward
    "g * h": 2,
    "x + .": 3,
    "norm": 2,
    "* (1 + s)": 2,
    "+ b": 2,
}
back = {  # and for gradients
    "db": 1,
    "v * (1 + s), ds": 2 + 4,
    "through the norm": 3,
    "+ u": 3,
    "dh = g * .": 2,
    "dg": 4,
}
print(f"forward: {sum(once.values())} N, in one pass 4 N: x and h; x' and y")
print(f"gradients: {sum(back.values())} N, in one pass 6 N: x', h, u, v; dx and dh")

# %% [markdown]
# With $u$ and $v$ the gradients that come back to $x'$ and $y$, a token's own is
#
# $$
# \bar x_t = u_t + r_t \left( w_t - \overline{w_t} - n_t\, \overline{w_t \odot n_t} \right),
# \qquad w_t = (1 + s) \odot v_t,
# $$ (kernels-adaln-gradient)
#
# $\bar h_t = g \odot \bar x_t$, and the vectors' are sums over the tokens of a sample: of $h_t \odot
# \bar x_t$ for $g$, $n_t \odot v_t$ for $s$, $v_t$ for $b$. A program has some tokens of one sample in
# registers, whole rows of them, and so has all that these sums need when it writes $\bar x$ and
# $\bar h$. Torch adds up the programs of a sample, so that nothing depends on their order. On a CPU
# blocks of tokens that stay in the cache do the same with torch's own operations.

# %% tags=["hide-input"]
source = inspect.getsource(adaln_triton._backward_kernel.fn)
Markdown(f"```python\n{source}```")

# %% [markdown]
# The test, on 37 tokens of width 19, results and all five gradients against the formula in double
# precision, and what the compiler makes of it:

# %%
names = "x", "shift", "scale", "branch", "gate"
shapes = (2, 37, 19), (2, 19), (2, 19), (2, 37, 19), (2, 19)
drawn = [torch.randn(shape, generator=generator) for shape in shapes]
u, v = torch.randn(2, 2, 37, 19, generator=generator)
forms = {
    "exact": reference_adaln,
    "formula": reference_adaln,
    "kernel": lambda **given: adaln(**given, impl="triton"),
    "blocks": lambda **given: adaln(**given, impl="torch"),
}

# %% tags=["nbval-check-output"]
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    found = {}
    for kind, form in forms.items():
        to = torch.float64 if kind == "exact" else dtype
        leaves = [x.to(dtype).to(to).requires_grad_() for x in drawn]
        made = form(**dict(zip(names, leaves, strict=True)))
        upstream = u.to(dtype).to(to), v.to(dtype).to(to)
        gradients = torch.autograd.grad(made, leaves, upstream)
        found[kind] = torch.cat([x.detach().flatten() for x in (*made, *gradients)])
    lost = {kind: norm(x - found["exact"]) for kind, x in found.items()}
    allowed = 4 if dtype is torch.bfloat16 else 2  # the interpreter, as above
    most = allowed * lost["formula"]
    fine = bool(max(lost["kernel"], lost["blocks"]) <= most)
    print(f"{dtype}: at most {allowed} times the formula's error: {fine}")

# %% tags=["nbval-check-output"]
aot = [row for row in compiled if row["op"] == "adaln"]
print(f"{len(aot)} examples, for {sorted({row['arch'] for row in aot})}")
print(f"that spill: {sum(row['code']['spilled'] > 0 for row in aot)}")
print(f"with a fault of any kind: {sum(bool(row['faults']) for row in aot)}")

# %% tags=["hide-output"]
HTML(aot_html(op="adaln"))

# %% [markdown]
# *On a CPU*, at the width of DiT-XL/2, 8 images of 256 tokens, float32. The goal is 1.3 times the speed
# of what diffusers writes, with gradients; measured is {glue:text}`kernels-adaln-ratio:.2f` times.
# {glue:text}`kernels-adaln-compiled`

# %% tags=["hide-input"]
HTML(as_html("adaln", "cpu"))

# %% tags=["nbval-check-output"]
norms = documents("adaln")
for bench in norms:
    print(f"{bench['kind']}, {bench['device']}: {len(bench['rows'])} rows")
    for peer, row, ratio in faster_peers(bench):
        print(f"  {peer} is faster, its time is {ratio:.2f} of ours: {row}")
if not any(bench["kind"] == "cuda" for bench in norms):
    print("cuda: no rows, nothing is claimed")

# %% tags=["remove-cell"]
peers = norms[0]["rows"][-1]["peers"]  # gated residual, with gradients
quote("kernels-adaln-ratio", peers["eager"]["ratio"])
ratio = peers["torch.compile"].get("ratio")
verb = "is faster than ours" if (ratio or 1) < 1 else "is not faster than ours"
said = (
    f"The same compiled by torch {verb} on a CPU: its time is {ratio or 1:.2f} of it."
)
absent_peer = "There was no compiler to compare with."
quote("kernels-adaln-compiled", said if ratio else absent_peer)
measured = [bench["device"] for bench in norms if bench["kind"] == "cuda"]
absent = absent.replace("linear_logprob", "adaln")
there = f"Measured on {', '.join(measured)}." if measured else absent
quote("kernels-adaln-gpu", there)

# %% [markdown]
# *On a GPU.* {glue:text}`kernels-adaln-gpu`

# %% tags=["hide-input"]
HTML(as_html("adaln", "cuda"))

# %% [markdown]
# `core.mup.patch.patch` makes the blocks of diffusers' DiT, PixArt and SD3 use it.
#
# ## A fourth op: sizes and moves
#
# A coordinate check asks of every activation, at every step, how large it is and how far it moved:
# $\sum |x_i|$, $\sum x_i^2$, $\max |x_i|$ and $\sum |x_i - x^0_i|$. Written in torch these are $15 N$
# numbers through memory, in one pass $2N$; and the four numbers stay on the device, so that nothing
# waits for them. A sum of many numbers in float32 has to be made of sums of few. Here of many ones,
# with a thousandth after each, against the sums in double precision:

# %% tags=["nbval-check-output"]
x = torch.tensor([1.0, 1e-3]).repeat(2**17)
exact = reference_stats(x.double(), -x.double())
for impl in ("torch", "triton"):
    size = activation_stats(x, -x, impl=impl)
    off = ((size - exact).abs() / exact).max().item()
    print(f"{impl}: relative error below 1e-6: {off < 1e-6}")
aot = [row for row in compiled if row["op"] == "activation_stats"]
print(f"{len(aot)} examples, with a fault: {sum(bool(row['faults']) for row in aot)}")

# %% [markdown]
# *On a CPU.* Peers are the separate calls, and `torch.linalg.vector_norm`, which adds up one number
# after the other: where it fails the check that any peer has to pass, it has no time.

# %% tags=["hide-input"]
HTML(as_html("activation_stats", "cpu"))

# %% [markdown]
# *On a GPU:*

# %% tags=["hide-input"]
HTML(as_html("activation_stats", "cuda"))

# %% [markdown]
# ## A fifth op: attention over frames
#
# Where a model of images [edits a video](https://arxiv.org/abs/2305.17098), each place looks at itself
# in all $F$ frames. That is ordinary attention, over a very short axis and in an enormous batch: $F$ is
# 8, and a batch of one video at $512 \times 512$ pixels is 4,096 places of 8 heads. Kernels of
# attention are made for the opposite: they take 128 queries of one sequence at a time, a grid of at most
# 65,535 sequences, and want the frames of a place side by side, which no projection leaves. Here a
# program takes the rows where they lie, as many whole sequences as fit 16 rows, multiplies all pairs of
# them on tensor cores, and throws away what is between sequences. Backward forms the scores again, so
# that all three gradients come from one tile, without sums between programs. In numbers:

# %% tags=["nbval-check-output"]
frames, places, heads, wide = 8, 4096, 8, 40
numbers = frames * places * heads * wide
print(f"q, k, v read, o written: {8e-6 * numbers:.0f} MB in bfloat16")
print(f"and rearranged before and after: {24e-6 * numbers:.0f} MB")
for rows_of_a_tile in (128, 16):
    whole = 1 if rows_of_a_tile == 128 else rows_of_a_tile // frames
    used = 100 * whole * frames**2 / rows_of_a_tile**2
    print(f"of a tile of {rows_of_a_tile} rows, scores that are wanted: {used:.1f} %")

# %% tags=["hide-input"]
source = inspect.getsource(short_attention_triton._backward_kernel.fn)
Markdown(f"```python\n{source}```")

# %% [markdown]
# The test, on five frames of three places of two heads of width 18, so that a row of the tile is
# nobody's; result and gradients against the formula in double precision, and what the compiler makes
# of it:

# %%
drawn = torch.randn(4, 1, 5, 3, 2, 18, generator=generator)
forms = {
    "exact": reference_short_attention,
    "formula": reference_short_attention,
    "kernel": lambda *given: short_attention(*given, impl="triton"),
}

# %% tags=["nbval-check-output"]
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    found = {}
    for kind, form in forms.items():
        to = torch.float64 if kind == "exact" else dtype
        *leaves, g = (x.to(dtype).to(to) for x in drawn)
        leaves = [x.requires_grad_() for x in leaves]
        o = form(*leaves)
        gradients = torch.autograd.grad(o, leaves, g)
        found[kind] = torch.cat([x.detach().flatten() for x in (o, *gradients)])
    lost = {kind: norm(x - found["exact"]) for kind, x in found.items()}
    allowed = 4 if dtype is torch.bfloat16 else 2  # the interpreter, as above
    fine = bool(lost["kernel"] <= allowed * lost["formula"])
    print(f"{dtype}: at most {allowed} times the formula's error: {fine}")

# %% tags=["nbval-check-output"]
aot = [row for row in compiled if row["op"] == "short_attention"]
print(f"{len(aot)} examples, for {sorted({row['arch'] for row in aot})}")
print(f"that spill: {sum(row['code']['spilled'] > 0 for row in aot)}")
narrow = sum(row["code"]["wide"] < row["code"]["accesses"] for row in aot)
print(f"with an access below 16 bytes: {narrow}")
print(f"with a fault of any kind: {sum(bool(row['faults']) for row in aot)}")

# %% tags=["hide-output"]
HTML(aot_html(op="short_attention"))

# %% [markdown]
# *On a CPU* two products serve, up to 32 frames. Over the rows below, all in float32, the time of the
# usual way, torch's attention between two rearrangements, is
# {glue:text}`kernels-short-forward-least:.2f` to {glue:text}`kernels-short-forward-most:.2f` times
# ours forward, and {glue:text}`kernels-short-both-least:.2f` to
# {glue:text}`kernels-short-both-most:.2f` times with gradients; the machine was shared.

# %% tags=["hide-input"]
HTML(as_html("short_attention", "cpu"))

# %% tags=["nbval-check-output"]
videos = documents("short_attention")
for bench in videos:
    print(f"{bench['kind']}, {bench['device']}: {len(bench['rows'])} rows")
    for peer, row, ratio in faster_peers(bench):
        print(f"  {peer} is faster, its time is {ratio:.2f} of ours: {row}")
if not any(bench["kind"] == "cuda" for bench in videos):
    print("cuda: no rows, nothing is claimed")

# %% tags=["remove-cell"]
for name, way in {"forward": "forward", "both": "forward + backward"}.items():
    of_way = [row["peers"] for row in videos[0]["rows"] if row["pass"] == way]
    ratios = [peers["rearranged"]["ratio"] for peers in of_way]
    quote(f"kernels-short-{name}-least", min(ratios))
    quote(f"kernels-short-{name}-most", max(ratios))
measured = [bench["device"] for bench in videos if bench["kind"] == "cuda"]
absent = absent.replace("adaln", "short_attention")
there = f"Measured on {', '.join(measured)}." if measured else absent
quote("kernels-short-gpu", there)

# %% [markdown]
# *On a GPU.* {glue:text}`kernels-short-gpu`

# %% tags=["hide-input"]
HTML(as_html("short_attention", "cuda"))

# %% [markdown]
# ## What is not shown
#
# 1. *Races between programs.* The interpreter runs one program after the other. Here no two programs
#    write to one place, by construction; no test above would notice if they did.
# 2. *Speed on a GPU*, but for what the last table has. No spills and wide accesses are necessary for
#    it, not sufficient.
# 3. *Rounding of tf32.* The interpreter multiplies float32 in float32; the three products of `tf32x3`
#    are compiled, and never run, without a GPU.
# 4. *What cuBLAS returns in float32 for 16-bit factors.* The products of the second op's gradients are
#    torch's; on a CPU they are widened first, and the call that a GPU gets has run on none.
# 5. *Other compilers.* The machine code is that of one version of Triton, named in its table.
