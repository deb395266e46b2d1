"""What the architecture has by construction, on a random model; equal is to rounding."""

import copy
from typing import Any, cast

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from core.controlvideo.adapter import ControlVideoAdapter, self_attentions
from core.controlvideo.attention import VideoAttention, projection

CLOSE = 1e-5
F = 4


def apart(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def awake(adapter, std=0.3):
    """As after tuning: nothing of the adapter is zero."""
    torch.manual_seed(5)
    for p in adapter.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=std)
    return adapter


def installed(models, adapter=None, frames=F, **options):
    unet, nets = models
    adapter = ControlVideoAdapter.for_models(unet, nets) if adapter is None else adapter
    edit = adapter.install(unet, nets, **options)
    edit.clip.frames = frames
    return edit


def by_definition(attn, n, keys):
    """Every frame's queries against keys and values of the key frames, replicated."""
    out = []
    for video in n:
        seen = torch.cat([video[k] for k in keys])
        for frame in video:
            q, k, v = attn.to_q(frame), attn.to_k(seen), attn.to_v(seen)
            heads = [
                torch.softmax(a @ b.T * attn.scale, 1) @ c
                for a, b, c in zip(*(x.chunk(attn.heads, 1) for x in (q, k, v)), strict=True)
            ]
            out.append(attn.to_out[0](torch.cat(heads, 1)))
    return torch.stack(out)


@pytest.mark.parametrize("keys", [(0,), (2,), (0, 3)])
def test_attention_is_that_of_the_key_frames(models, keys):
    edit = installed(models)
    edit.clip.keys = keys
    _, attn = next(self_attentions(*models))
    n = torch.randn(2 * F, 6, attn.to_q.in_features, generator=torch.Generator().manual_seed(3))
    assert apart(attn(n), by_definition(attn, n.unflatten(0, (2, F)), keys)) < CLOSE


def test_a_frame_may_see_itself_or_the_first_and_the_previous(models):
    unet, nets = models
    _, attn = next(self_attentions(unet, nets))
    n = torch.randn(2 * F, 6, attn.to_q.in_features, generator=torch.Generator().manual_seed(3))
    plain = attn(n)
    edit = installed(models, sees="own")
    assert apart(attn(n), plain) < CLOSE
    edit.uninstall()
    installed(models, sees="sparse-causal")
    video = n.unflatten(0, (2, F))
    causal = [
        by_definition(attn, video, (0, max(i - 1, 0))).unflatten(0, (2, F))[:, i] for i in range(F)
    ]
    assert apart(attn(n), torch.stack(causal, 1).flatten(0, 1)) < CLOSE


def test_one_frame_is_an_image(models, noised, run):
    unet, nets = models
    x = noised(1)
    image = run(unet, nets, *x)
    for norm in ("frame", "video"):
        edit = installed(models, frames=1, norm=norm)
        assert apart(run(unet, nets, *x), image) < CLOSE
        edit.uninstall()


def test_a_new_adapter_changes_nothing(models, noised, run):
    unet, nets = models
    x = noised(F)
    edit = installed(models, branches=False)
    without = run(unet, nets, *x)
    edit.uninstall()
    edit = installed(models)
    assert apart(run(unet, nets, *x), without) < CLOSE
    edit.uninstall()
    installed(models, awake(ControlVideoAdapter.for_models(unet, nets)))
    assert apart(run(unet, nets, *x), without) > 100 * CLOSE


@pytest.mark.parametrize("in_controlnet", [True, False])
def test_the_key_frame_is_the_edit_of_an_image(models, noised, run, in_controlnet):
    """With frame norms and no branch; the image is edited with the same output projections."""
    unet, nets = models
    nets = nets if in_controlnet else []
    adapter = awake(ControlVideoAdapter.for_models(unet, nets))
    x = noised(F)
    edit = installed((unet, nets), adapter, branches=False)
    video = run(unet, nets, *x).unflatten(0, (2, F))
    edit.clip.frames = 1
    alone = run(unet, nets, *x).unflatten(0, (2, F))  # each frame an image of its own
    assert apart(video[:, 0], alone[:, 0]) < CLOSE
    assert apart(video[:, 1:], alone[:, 1:]) > 100 * CLOSE


@pytest.mark.parametrize("options", [{"norm": "video", "branches": False}, {"norm": "frame"}])
def test_with_video_norms_or_a_branch_it_is_not(models, noised, run, options):
    unet, nets = models
    edit = installed(models, awake(ControlVideoAdapter.for_models(unet, nets)), **options)
    x = noised(F)
    video = run(unet, nets, *x).unflatten(0, (2, F))
    edit.clip.frames = 1
    alone = run(unet, nets, *x).unflatten(0, (2, F))
    assert apart(video[:, 0], alone[:, 0]) > 100 * CLOSE


@pytest.mark.parametrize("keys", [(0,), (0, 2)])
def test_a_stream_is_the_whole(models, noised, run, keys):
    unet, nets = models
    edit = installed(models, awake(ControlVideoAdapter.for_models(unet, nets)), branches=False)
    edit.clip.keys = keys
    x, t, text, control = noised(F)
    edit.clip.record = {}
    whole = run(unet, nets, x, t, text, control).unflatten(0, (2, F))
    edit.clip.cache, edit.clip.record = edit.clip.record, None
    assert len(edit.clip.cache) == len(edit.before)
    for chunk in ([1], [3, 2]):
        edit.clip.frames = len(chunk)
        part = [v.unflatten(0, (2, F))[:, chunk].flatten(0, 1) for v in (x, text, control)]
        out = run(unet, nets, part[0], t, part[1], part[2]).unflatten(0, (2, -1))
        assert apart(out, whole[:, chunk]) < CLOSE


@pytest.mark.parametrize("norm", ["frame", "video"])
def test_frames_that_are_not_keys_have_no_order(models, noised, run, norm):
    unet, nets = models
    adapter = awake(ControlVideoAdapter.for_models(unet, nets))
    edit = installed(models, adapter, norm=norm)
    x, t, text, control = noised(F)
    order = [0, 3, 1, 2]
    shuffled = [v.unflatten(0, (2, F))[:, order].flatten(0, 1) for v in (x, control)]
    whole = run(unet, nets, x, t, text, control).unflatten(0, (2, F))
    again = run(unet, nets, shuffled[0], t, text, shuffled[1]).unflatten(0, (2, F))
    assert apart(again, whole[:, order]) < CLOSE
    edit.uninstall()
    timed = awake(ControlVideoAdapter.for_models(unet, nets, positions=True))
    installed(models, timed, norm=norm)
    whole = run(unet, nets, x, t, text, control).unflatten(0, (2, F))
    again = run(unet, nets, shuffled[0], t, text, shuffled[1]).unflatten(0, (2, F))
    assert apart(again, whole[:, order]) > 100 * CLOSE


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_branch_in_another_place_is_another_model(models, noised, run, place):
    unet, nets = models
    x, found = noised(F), {}
    for where in ("parallel", place):
        adapter = awake(ControlVideoAdapter.for_models(unet, nets, place=where))
        edit = installed(models, adapter)
        found[where] = run(unet, nets, *x)
        edit.uninstall()
    assert apart(found[place], found["parallel"]) > 100 * CLOSE


@pytest.mark.parametrize("norm", ["frame", "video"])
def test_uninstalling_gives_the_base_back(models, noised, run, norm):
    unet, nets = models
    x = noised(F)
    before, state = run(unet, nets, *x), copy.deepcopy(unet.state_dict())
    edit = installed(models, awake(ControlVideoAdapter.for_models(unet, nets)), norm=norm)
    run(unet, nets, *x)
    assert unet.state_dict().keys() == state.keys()
    edit.uninstall()
    assert torch.equal(run(unet, nets, *x), before)
    assert all(torch.equal(v, state[k]) for k, v in unet.state_dict().items())


def test_an_edit_is_a_file(models, noised, run, tmp_path):
    unet, nets = models
    x = noised(F)
    adapter = awake(ControlVideoAdapter.for_models(unet, nets, place="after", positions=True))
    adapter.save_pretrained(tmp_path)
    again = ControlVideoAdapter.from_pretrained(tmp_path)
    found = []
    for each in (adapter, again):
        edit = installed(models, each)
        found.append(run(unet, nets, *x))
        edit.uninstall()
    assert torch.equal(*found)


def test_branches_are_where_the_paper_has_them_and_start_as_self_attention(models):
    unet, nets = models
    adapter = ControlVideoAdapter.for_models(unet, nets)
    parts = {name.split("-")[1] for name in adapter.branches}
    assert parts == {"down_blocks", "up_blocks"}
    assert all(name.startswith("unet-") for name in adapter.branches)
    assert len(adapter.deltas) == len(dict(self_attentions(unet, nets)))
    name, attn = next(self_attentions(unet, nets))
    assert torch.equal(adapter.branch(name).to_q.weight, attn.to_q.weight)
    assert not adapter.branch(name).conv.weight.any()
    drawn = ControlVideoAdapter.for_models(unet, nets, copied=False)
    assert not torch.equal(drawn.branch(name).to_q.weight, attn.to_q.weight)


def test_at_the_size_of_stable_diffusion_it_has_72_million_parameters():
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        net = ControlNetModel(cross_attention_dim=768, attention_head_dim=8)
        adapter = ControlVideoAdapter.for_models(unet, net, copied=False)
    count = lambda part: sum(p.numel() for p in part.parameters()) / 1e6  # noqa: E731
    assert len(adapter.branches) == 15
    assert len(adapter.deltas) == 16 + 7
    assert count(adapter.deltas) == pytest.approx(12.40 + 5.94, abs=0.01)
    assert count(adapter.branches) == pytest.approx(43.02 + 10.76, abs=0.01)


def test_what_takes_the_processors_place_is_noticed(models):
    edit = installed(models)
    edit.check()
    models[0].set_attention_slice("auto")
    with pytest.raises(RuntimeError, match=r"no longer installed at 4 of 8 .*attention slicing"):
        edit.check()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, u, n: e.install(u, n), "installed already"),
        (lambda e, u, n: e.install(u, n[:1]), "without controlnet1"),
        (lambda e, u, n: ControlVideoAdapter.for_models(u, where=("blocks",)), "'blocks'"),
        (lambda e, u, n: ControlVideoAdapter({}, place=cast("Any", "beside")), "'beside'"),
    ],
)
def test_what_does_not_fit_is_refused(models, call, message):
    unet, nets = models
    adapter = ControlVideoAdapter.for_models(unet, nets)
    adapter.install(unet, nets)
    with pytest.raises(ValueError, match=message):
        call(adapter, unet, nets)


def test_a_batch_that_is_no_video_is_refused(models, noised, run):
    unet, nets = models
    edit = installed(models, frames=3)
    with pytest.raises(ValueError, match="videos of 3 frames, got a batch of 8"):
        run(unet, nets, *noised(F))
    edit.clip.frames, edit.clip.keys = F, (F,)
    with pytest.raises(ValueError, match=r"key frames in 0..3, got \(4,\)"):
        run(unet, nets, *noised(F))


def test_gradients_reach_the_adapter_alone_through_checkpointing(models, noised):
    unet, nets = models
    adapter = ControlVideoAdapter.for_models(unet, nets)
    installed(models, adapter)
    for model in (unet, *nets):
        model.requires_grad_(False).train()
        model.enable_gradient_checkpointing()
    x, t, text, control = noised(F)
    down, mid = nets[0](x, t, text, control, return_dict=False)
    more = nets[1](x, t, text, control, return_dict=False)
    down = [a + b for a, b in zip(down, more[0], strict=True)]
    out = unet(
        x,
        t,
        text,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid + more[1],
    ).sample
    out.square().mean().backward()
    grads = {name: p.grad for name, p in adapter.named_parameters()}
    for name, grad in grads.items():
        if name.startswith("deltas") or ".conv." in name:  # what a conv of zero hides comes later
            assert grad is not None, name
            assert grad.any(), name
    assert all(p.grad is None for p in unet.parameters())


def test_processors_are_no_modules(models):
    installed(models)
    for _, attn in self_attentions(*models):
        assert isinstance(attn.processor, VideoAttention)
        assert "processor" not in dict(attn.named_children())


def test_a_difference_of_a_projection_is_added_to_its_weights(models, noised, run):
    unet, nets = models
    every = ("to_q", "to_k", "to_v", "to_out")
    adapter = ControlVideoAdapter.for_models(unet, nets, projections=every)
    sites = dict(self_attentions(unet, nets))
    assert len(adapter.deltas) == 4 * len(sites)
    torch.manual_seed(3)
    for p in adapter.deltas.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x = noised(3)
    with_differences = installed(models, adapter, frames=3)
    found = run(unet, nets, *x)
    with_differences.uninstall()
    for site, attn in sites.items():
        for name, difference in adapter.differences(site).items():
            base = projection(attn, name)
            for added, to in ((difference.weight, base.weight), (difference.bias, base.bias)):
                if added is not None:
                    to.data.add_(added)
    installed(models, frames=3)
    torch.testing.assert_close(found, run(unet, nets, *x), atol=1e-5, rtol=1e-5)


def test_a_projection_that_there_is_not(models):
    with pytest.raises(ValueError, match=r"want projections to_q, .*got \['to_x'\]"):
        ControlVideoAdapter.for_models(models[0], projections=("to_x",))


def test_a_lora_below_an_edit_is_part_of_the_base(models, noised, run):
    """As in the paper's edits by reference images: layers of low rank, then an edit upon them."""
    peft = pytest.importorskip("peft")
    unet, nets = models
    adapter = awake(ControlVideoAdapter.for_models(unet, nets))
    torch.manual_seed(7)
    unet.add_adapter(
        peft.LoraConfig(
            r=2,
            lora_alpha=2,
            init_lora_weights=False,
            target_modules=["to_q", "to_k", "to_v", "to_out.0"],
        )
    )
    x = noised(F)
    edit = installed(models, adapter)
    found = run(unet, nets, *x)
    edit.uninstall()
    unet.disable_adapters()
    edit = installed(models, adapter)
    without = run(unet, nets, *x)
    edit.uninstall()
    assert apart(found, without) > 1e-3
    unet.enable_adapters()
    unet.fuse_lora()
    unet.unload_lora()
    installed(models, adapter)
    assert apart(run(unet, nets, *x), found) < CLOSE
