"""The pipeline, against diffusers' own where it is one, and against itself where it must agree."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from PIL import Image

from core.controlvideo.adapter import ControlVideoAdapter
from core.controlvideo.pipeline import ControlVideoPipeline
from core.controlvideo.predictor import Stream
from core.controlvideo.windows import Windows

CLOSE = 2e-5
F, SIDE = 5, 16
SOON = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "pt"}


def apart(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def awake(pipe, std=0.2):
    torch.manual_seed(5)
    for p in pipe.adapter.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=std)
    return pipe


@pytest.fixture
def pipe(parts):
    made = ControlVideoPipeline(**parts)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def two(parts, models):
    made = ControlVideoPipeline(**parts | {"controlnet": models[1]})
    made.set_progress_bar_config(disable=True)
    return made


def video(frames=F, seed=0):
    # the models' conditioning halves a control twice over: here once, and the VAE once
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(frames, 3, SIDE, SIDE, generator=rng)


def noise(frames=F, seed=7):
    return torch.randn(frames, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_of_one_frame_it_is_the_controlnet_pipeline_of_diffusers(pipe, parts):
    none: dict[str, Any] = dict.fromkeys(("safety_checker", "feature_extractor"))
    theirs: Any = StableDiffusionControlNetPipeline(**parts, **none, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    x, control = noise(1), video(1)
    options = {**SOON, "latents": x, "negative_prompt": "blue"}
    image = theirs("a red disc", image=control, controlnet_conditioning_scale=0.7, **options).images
    ours = pipe("a red disc", control, control_scale=0.7, **options).frames
    assert apart(ours, image) < CLOSE
    assert apart(pipe("a blue disc", control, **options).frames, image) > 100 * CLOSE


def test_a_video_without_shared_attention_is_its_images(pipe):
    x, control = noise(), video()
    whole = pipe("a disc", control, latents=x, sees="own", branches=False, **SOON).frames
    for i in range(F):
        one = pipe("a disc", control[i : i + 1], latents=x[i : i + 1], **SOON).frames
        assert apart(whole[i : i + 1], one) < CLOSE


def test_the_preview_is_the_key_frame(pipe):
    awake(pipe)
    x, control = noise(), video()
    options = {**SOON, "latents": x, "branches": False}
    whole = pipe("a disc", control, keys=(2,), **options).frames
    assert apart(pipe.preview("a disc", control, key=2, **options).frames, whole[2:3]) < CLOSE
    with_branch = pipe("a disc", control, keys=(2,), **{**options, "branches": True}).frames
    assert apart(with_branch[2:3], whole[2:3]) > 100 * CLOSE


@pytest.mark.parametrize("start", ["inverted", "shared"])
def test_a_stream_is_the_whole(two, start):
    awake(two)
    control = [video(), video(seed=1)]
    found = []
    for long in (None, Stream(2), Stream(3)):
        generator = torch.Generator().manual_seed(3)
        options = {**SOON, "source": video(seed=2), "branches": False, "generator": generator}
        made = two("a disc", control, start=start, keys=(1, 3), long=long, **options)
        found.append(made.frames)
    assert apart(found[1], found[0]) < CLOSE
    assert apart(found[2], found[0]) < CLOSE


def test_one_window_is_the_whole(pipe):
    awake(pipe)
    x, control = noise(), video()
    whole = pipe("a disc", control, latents=x, **SOON).frames
    windows = Windows(size=F + 2, overlap=2)
    assert apart(pipe("a disc", control, latents=x, long=windows, **SOON).frames, whole) < CLOSE
    several = Windows(size=3, overlap=1)
    assert apart(pipe("a disc", control, latents=x, long=several, **SOON).frames, whole) > CLOSE


def test_sampling_the_inversion_gives_the_source_the_nearer_the_more_steps(pipe):
    source, control = video(seed=2), video()
    with torch.no_grad():  # a gentle field, unlike that of a random network
        pipe.unet.conv_out.weight *= 0.1
    exact, off = pipe.encode(source), []
    for steps in (10, 40, 160):
        x = pipe.invert(source, control, num_inference_steps=steps, source_prompt="a red disc")
        assert x.shape == (F, 3, 8, 8)
        options = {"num_inference_steps": steps, "guidance_scale": 1.0, "output_type": "latent"}
        back = pipe("a red disc", control, latents=x, **options).frames
        off.append(apart(back, exact))
    # an error of the first order in the step: a quarter each time
    assert off[1] < off[0] / 2
    assert off[2] < off[1] / 2


def test_the_source_may_be_given_in_place_of_its_inversion(pipe):
    source, control = video(seed=2), video()
    found = pipe("a red disc", control, source=source, source_prompt="a", **SOON).frames
    x = pipe.invert(source, control, source_prompt="a", num_inference_steps=3)
    assert torch.equal(pipe("a red disc", control, latents=x, **SOON).frames, found)


def test_it_is_saved_and_loaded(two, tmp_path):
    awake(two)
    x, control = noise(), [video(), video(seed=1)]
    before = two("a disc", control, latents=x, control_scale=[1.0, 0.5], **SOON).frames
    two.save_pretrained(tmp_path)
    again = ControlVideoPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    after = again("a disc", control, latents=x, control_scale=[1.0, 0.5], **SOON).frames
    assert torch.equal(before, after)


def test_several_edits_share_a_base(pipe, parts):
    x, control = noise(), video()
    plain = pipe("a disc", control, latents=x, **SOON).frames
    other = ControlVideoPipeline(**parts)
    other.set_progress_bar_config(disable=True)
    edited = awake(other)("a disc", control, latents=x, **SOON).frames
    assert apart(edited, plain) > 100 * CLOSE
    assert torch.equal(pipe("a disc", control, latents=x, **SOON).frames, plain)


def test_starts_share_their_noise_or_do_not(pipe):
    options = {**SOON, "output_type": "latent", "num_inference_steps": 1, "sees": "own"}
    control = video(1).expand(F, -1, -1, -1)
    for start, alike in (("shared", True), ("independent", False)):
        out = pipe("a", control, start=start, generator=torch.Generator().manual_seed(0), **options)
        assert (apart(out.frames[1:], out.frames[:1].expand(F - 1, -1, -1, -1)) < CLOSE) is alike


def test_callbacks_and_output_types(pipe):
    seen = []

    def look(_pipe, step, t, tensors):
        seen.append((step, int(t), tensors["latents"].shape))
        return {"latents": torch.zeros_like(tensors["latents"])}

    out = pipe(
        "a", video(), latents=noise(), num_inference_steps=2, callback_on_step_end=look
    ).frames
    assert [s[0] for s in seen] == [0, 1]
    assert seen[0][1] > seen[1][1]
    assert len(out) == F
    assert out[0].size == (SIDE, SIDE)
    zero = pipe.decode(torch.zeros(F, 3, 8, 8), "np")
    assert zero.shape == (F, SIDE, SIDE, 3)


def test_pil_images_are_a_video(pipe):
    images = pipe.images.pt_to_numpy(video())
    pil = pipe.images.numpy_to_pil(images)
    x = noise()
    rounded = torch.from_numpy((images * 255).round() / 255).permute(0, 3, 1, 2).float()
    a = pipe("a", pil, latents=x, **SOON).frames
    assert apart(a, pipe("a", rounded, latents=x, **SOON).frames) < CLOSE


def test_arrays_are_a_video(pipe):
    x = noise()
    a = pipe("a", pipe.images.pt_to_numpy(video()), latents=x, **SOON).frames
    assert apart(a, pipe("a", video(), latents=x, **SOON).frames) < CLOSE


def test_half_precision_runs(pipe):
    pipe.to(torch.bfloat16)
    out = pipe("a", video(), latents=noise(), **SOON).frames
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control": video()[:0]}, "at least one frame"),
        ({"control": video() * 255}, "want pixels in"),
        (
            {"control": torch.rand(F, 3, 18, 16)},
            "multiples of 4, got 18 x 16: the nearest are 16 x 16",
        ),
        ({"control": torch.rand(F, 1, 16, 16)}, r"\[F, 3, H, W\]"),
        ({"control_scale": [1.0, 0.5]}, "each of 1 ControlNets, got 1 and 2"),
        ({"start": "inverted"}, "want a source video"),
        ({"start": "random"}, "got 'random'"),
        ({"latents": noise(2)}, r"go with latents \[5, 3, 8, 8\], got \[2, 3, 8, 8\]"),
        ({"latents": noise()[..., :4]}, r"got \[5, 3, 8, 4\]"),
        ({"source": video(3)}, r"got \[3, 3, 8, 8\]"),
        ({"control": ["in.png"] * F}, "got a list of {'str'}"),
        ({"sees": "all", "latents": noise()}, "want sees among"),
        ({"keys": (), "latents": noise()}, r"key frames in 0..4"),
        (
            {"keys": (1,), "long": Windows(3, 1), "latents": noise()},
            "want key frame 0 with windows",
        ),
        ({"latents": torch.full((F, 3, 8, 8), math.nan)}, "want finite frames"),
        ({"keys": (F,), "latents": noise()}, r"key frames in 0..4"),
        ({"long": Stream(2), "latents": noise()}, "branches=False for a stream"),
        ({"long": Stream(0), "branches": False, "latents": noise()}, "at least one frame, got 0"),
        ({"norm": "batch", "latents": noise()}, "'frame' or 'video'"),
        ({"negative_prompt": ["a"], "latents": noise()}, "want one prompt, a string, got a list"),
        ({"num_inference_steps": 0, "latents": noise()}, r"num_inference_steps in 1..\d+, got 0"),
        (
            {"num_inference_steps": 2.0, "latents": noise()},
            r"_steps in 1..\d+, got 2.0",
        ),
        ({"guidance_scale": math.nan, "latents": noise()}, "finite guidance_scale, got nan"),
        ({"control_scale": "1", "latents": noise()}, "want control_scale a finite number.*got '1'"),
        ({"control_scale": math.nan, "latents": noise()}, "want control_scale a finite number"),
        (
            {"control": [Image.new("RGB", (16, n)) for n in (16, 20)]},
            "one size, got 16 x 16 a",
        ),
        ({"keys": 2, "latents": noise()}, r"want keys a sequence of frames, such as \(2,\), got 2"),
        ({"long": 4, "latents": noise()}, "want long=Windows.*got 4"),
        (
            {"callback_on_step_end_tensor_inputs": ["noise"], "latents": noise()},
            "want callback_on_step_end_tensor_inputs among latents, got noise",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_the_base_is_whole(pipe, options, message):
    control = options.pop("control", video())
    with pytest.raises(ValueError, match=message):
        pipe("a", control, **SOON | options)
    x = noise()
    assert pipe("a", video(), latents=x, **SOON).frames.isfinite().all()


def test_a_preview_of_no_frame_is_refused(pipe, two):
    for key in (-1, F):
        with pytest.raises(ValueError, match=f"want a key frame in 0..4, got {key}"):
            pipe.preview("a", video(), key=key, latents=noise(), **SOON)
        with pytest.raises(ValueError, match=f"want a key frame in 0..4, got {key}"):
            two.preview("a", [video(), video()], key=key, latents=noise(), **SOON)


@pytest.mark.parametrize("names", [["latents"], []])
def test_a_callback_is_told_what_it_asks_for(pipe, names):
    told = []
    options: dict[str, Any] = {
        "callback_on_step_end": lambda _pipe, _i, _t, tensors: told.append(list(tensors)),
        "callback_on_step_end_tensor_inputs": names,
    }
    pipe("a", video(), latents=noise(), **SOON, **options)
    assert told == [names] * 3


@pytest.mark.parametrize(
    ("options", "tuned", "why"),
    [
        ({}, False, ""),
        ({"norm": "video"}, False, "because of norms over the video\n"),
        ({}, True, "because of tuned temporal branches\n"),
        ({"norm": "video"}, True, "norms over the video, tuned temporal branches\n"),
        ({"branches": False}, True, ""),
        ({"keys": (0, 3)}, False, "attention to key frames 0, 3\n"),
        ({"keys": (2,)}, False, "attention to key frames 2\n"),
        ({"sees": "sparse-causal"}, False, ""),
        ({"sees": "own", "keys": (2,)}, False, ""),
    ],
)
def test_a_preview_says_why_it_is_not_the_key_frame(pipe, caplog, options, tuned, why):
    if tuned:
        awake(pipe)
    options = {**SOON, "latents": noise(), **options}
    image = pipe.preview("a disc", video(), **options).frames
    whole = pipe("a disc", video(), **options).frames
    assert (apart(image, whole[:1]) > CLOSE) == bool(why)
    assert why in caplog.text
    assert len(caplog.records) == bool(why)


def test_a_preview_of_a_later_frame_says_that_it_sees_earlier_ones(pipe, caplog):
    options = {**SOON, "latents": noise(), "sees": "sparse-causal"}
    image = pipe.preview("a disc", video(), key=3, **options).frames
    assert apart(image, pipe("a disc", video(), **options).frames[3:4]) > CLOSE
    assert "because of attention to frames 0 and 2\n" in caplog.text


def test_a_preview_of_a_later_frame_says_that_windows_have_keys_of_their_own(pipe, caplog):
    options = {**SOON, "latents": noise(), "branches": False, "long": Windows(3, 1)}
    image = pipe.preview("a disc", video(), key=3, **options).frames
    assert apart(image, pipe("a disc", video(), **options).frames[3:4]) > CLOSE
    assert "because of windows, whose own first frames are their keys\n" in caplog.text


def test_a_preview_from_noise_of_each_frames_own_says_so(pipe, caplog):
    drawn = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    options = {**SOON, "start": "independent", "generator": drawn()}
    image = pipe.preview("a disc", video(), key=2, **options).frames
    whole = pipe("a disc", video(), **{**options, "keys": (2,), "generator": drawn()}).frames
    assert apart(image, whole[2:3]) > CLOSE
    assert "because of noise of each frame's own, unless latents are given\n" in caplog.text


def test_timesteps_that_have_no_inversion_are_refused_for_it_alone(pipe):
    theirs = pipe.scheduler
    pipe.scheduler = type(theirs).from_config(theirs.config, timestep_spacing="linspace")
    with pytest.raises(ValueError, match=r"want timestep_spacing leading or trail.*'linspace'"):
        pipe.invert(video(), video(), num_inference_steps=2)
    assert pipe("a", video(), latents=noise(), **SOON).frames.isfinite().all()
    pipe.scheduler = theirs


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, PNDMScheduler])
def test_another_sampler_than_ddim_is_refused(pipe, kind):
    theirs, pipe.scheduler = pipe.scheduler, kind.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match=f"want a DDIMScheduler.*got {kind.__name__}"):
        pipe("a", video(), latents=noise(), **SOON)
    with pytest.raises(ValueError, match=f"want a DDIMScheduler.*got {kind.__name__}"):
        pipe.invert(video(), video())
    pipe.scheduler = theirs


def test_as_many_steps_as_the_schedule_has_at_most(pipe):
    config = pipe.scheduler.config
    most = config.num_train_timesteps - config.steps_offset
    with pytest.raises(ValueError, match=rf"num_inference_steps in 1..{most}, got {most + 1}"):
        pipe("a", video(), latents=noise(), **{**SOON, "num_inference_steps": most + 1})
    pipe.scheduler.set_timesteps(most)
    assert pipe.scheduler.timesteps.max() < config.num_train_timesteps


def test_a_scale_may_be_an_array(pipe):
    made = [
        pipe("a", video(), latents=noise(), control_scale=scale, **SOON).frames
        for scale in (0.5, [0.5], np.array([0.5]), torch.tensor(0.5))
    ]
    assert all(torch.equal(each, made[0]) for each in made)


def test_a_processor_that_is_lost_on_the_way_is_noticed(pipe):
    def lose(given, step, _t, _tensors):
        if step == 1:
            given.unet.set_attention_slice("auto")

    with pytest.raises(RuntimeError, match="no longer installed"):
        pipe("a", video(), latents=noise(), callback_on_step_end=lose, **SOON)


def test_attention_slicing_is_refused_by_name(pipe):
    pipe.unet.set_attention_slice("max")
    with pytest.raises(ValueError, match="SlicedAttnProcessor"):
        pipe("a", video(), latents=noise(), **SOON)


def test_an_adapter_of_another_base_is_refused(parts, models):
    foreign = ControlVideoAdapter.for_models(models[0])
    made = ControlVideoPipeline(**parts, adapter=foreign)
    with pytest.raises(ValueError, match="with controlnet0"):
        made("a", video(), latents=noise(), **SOON)
