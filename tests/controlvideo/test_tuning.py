import math
from typing import Any

import pytest
import torch

from core.controlvideo.adapter import ControlVideoAdapter
from core.controlvideo.pipeline import ControlVideoPipeline
from core.controlvideo.tuning import Recipe, Tuner, tune
from core.train.folder import Diverged

F = 3
FAST: dict[str, Any] = {"learning_rate": 1e-2, "weight_decay": 0.0}


@pytest.fixture
def pipe(parts):
    made = ControlVideoPipeline(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def video(seed, frames=F):
    return torch.rand(frames, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


SEEN = video(0), "a", video(1)


def state(pipe):
    return {k: v.clone() for k, v in pipe.adapter.state_dict().items()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_tuning_learns_the_video_and_leaves_the_base(pipe):
    models = [pipe.unet, pipe.controlnet, pipe.text_encoder, pipe.vae]
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in models]
    recipe = Recipe(steps=40, **FAST)
    losses = tune(pipe, video(0), "a red disc", video(1), recipe)
    assert len(losses) == 40
    # the same times and noise, before and after
    tuner = Tuner(pipe, video(0), "a red disc", video(1), recipe)
    again = []
    with tuner, torch.no_grad():
        for tuner.done in range(40):
            again.append(tuner.loss().item())
    assert sum(again) < 0.9 * sum(losses)
    for model, was in zip(models, before, strict=True):
        assert not moved(was, model.state_dict())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("trained", "parts_moved"),
    [("projections", {"deltas"}), ("temporal", {"branches"}), ("both", {"deltas", "branches"})],
)
def test_what_is_trained_is_what_was_asked(pipe, trained, parts_moved):
    before = state(pipe)
    tune(pipe, video(0), "a", video(1), Recipe(steps=3, trained=trained, **FAST))
    assert {name.split(".")[0] for name in moved(before, state(pipe))} == parts_moved


def test_the_loss_is_that_of_the_noise_with_one_time_for_all_frames(pipe):
    """By hand: the prediction of a plain call of UNet and ControlNet, on one frame."""
    from core.train.seeds import generator

    tuner = Tuner(pipe, video(0, 1), "a red disc", video(1, 1), Recipe(seed=4))
    tuner.done = 7
    with tuner, torch.no_grad():
        found = tuner.loss().item()
    rng = generator(4, 7)
    t = int(rng.integers(1000))
    x = pipe.encode(video(0, 1))
    noise = torch.from_numpy(rng.standard_normal(x.shape)).float()
    alpha = pipe.scheduler.alphas_cumprod[t]
    noised = alpha.sqrt() * x + (1 - alpha).sqrt() * noise
    with torch.no_grad():
        text = pipe.encode_prompt("a red disc")
        down, mid = pipe.controlnet(noised, t, text, video(1, 1), return_dict=False)
        out = pipe.unet(
            noised,
            t,
            text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample
    assert found == pytest.approx((out - noise).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("norm", ["frame", "video"])
def test_checkpointing_changes_nothing(pipe, norm):
    before, ends = state(pipe), []
    for checkpointing in (False, True):
        pipe.adapter.load_state_dict(before)
        recipe = Recipe(steps=2, checkpointing=checkpointing, norm=norm, **FAST)
        losses = tune(pipe, video(0), "a", video(1), recipe)
        ends.append((losses, state(pipe)))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-5)
    for name, end in ends[0][1].items():
        torch.testing.assert_close(ends[1][1][name], end, rtol=1e-3, atol=1e-4)
    assert not pipe.unet.training


@pytest.fixture
def stopped(pipe, tmp_path, monkeypatch):
    """Return losses of a run of 6 steps that was interrupted in the fifth, and how it began."""
    before, step, losses = state(pipe), Tuner.step, []

    def steps(tuner):
        if tuner.done == 4:
            raise KeyboardInterrupt
        losses.append(step(tuner))
        return losses[-1]

    monkeypatch.setattr(Tuner, "step", steps)
    with pytest.raises(KeyboardInterrupt):
        tune(pipe, *SEEN, Recipe(steps=6, **FAST), out=tmp_path, save_every=2)
    monkeypatch.undo()
    return losses, before


def test_a_run_that_stopped_goes_on_to_the_bit(pipe, stopped, tmp_path):
    first, before = stopped
    pipe.adapter.load_state_dict(before)
    whole = tune(pipe, *SEEN, Recipe(steps=6, **FAST))
    end = state(pipe)
    pipe.adapter.load_state_dict(before)  # what a new process would find
    rest = tune(pipe, *SEEN, Recipe(steps=6, **FAST), out=tmp_path, resume=True)
    assert len(rest) == 2
    assert first + rest == whole
    assert not moved(end, state(pipe))


def test_a_run_goes_on_with_less_memory(pipe, stopped, tmp_path):
    recipe = Recipe(steps=6, checkpointing=True, **FAST)
    assert len(tune(pipe, *SEEN, recipe, out=tmp_path, resume=True)) == 2


@pytest.mark.parametrize(
    ("recipe", "source", "message"),
    [
        (Recipe(steps=6), 0, "learning_rate is 0.01, here it is 3e-05"),
        (Recipe(steps=6, **FAST), 2, "its data is "),
        (Recipe(steps=2, **FAST), 0, "its steps is 6, here it is 2; give what it was made with"),
        (Recipe(steps=9, **FAST), 0, "its steps is 6, here it is 9"),
    ],
)
def test_a_run_goes_on_as_what_it_was(pipe, stopped, tmp_path, recipe, source, message):
    before = state(pipe)
    with pytest.raises(ValueError, match=message):
        tune(pipe, video(source), "a", video(1), recipe, out=tmp_path, resume=True)
    assert not moved(before, state(pipe))


@pytest.mark.parametrize("part", ["text_encoder", "unet", "controlnet"])
def test_a_run_does_not_go_on_with_another_base(pipe, stopped, tmp_path, part):
    with torch.no_grad():
        for p in getattr(pipe, part).parameters():
            p *= 1.01
    with pytest.raises(ValueError, match="its base is "):
        tune(pipe, *SEEN, Recipe(steps=6, **FAST), out=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("options", "field"), [({"place": "before"}, "place"), ({"where": ["up_blocks"]}, "sites")]
)
def test_a_run_does_not_go_on_with_another_adapter(pipe, stopped, tmp_path, options, field):
    pipe.adapter = ControlVideoAdapter.for_models(pipe.unet, pipe.controlnet, **options)
    with pytest.raises(ValueError, match=f"its {field} is "):
        tune(pipe, *SEEN, Recipe(steps=6, **FAST), out=tmp_path, resume=True)


def test_a_run_goes_on_with_its_adapter_from_a_file(pipe, stopped, tmp_path):
    pipe.adapter.save_pretrained(tmp_path / "adapter")
    pipe.adapter = ControlVideoAdapter.from_pretrained(tmp_path / "adapter")
    rest = tune(pipe, *SEEN, Recipe(steps=6, **FAST), out=tmp_path, resume=True)
    assert len(rest) == 2


def test_a_folder_that_holds_a_run_is_not_mixed_with_another(pipe, tmp_path):
    tune(pipe, video(0), "a", video(1), Recipe(steps=2, **FAST), out=tmp_path, save_every=1)
    held, before = {path: path.read_bytes() for path in tmp_path.iterdir()}, state(pipe)
    with pytest.raises(ValueError, match=r"holds checkpoints .* step-00000002.pt: .*resume=True"):
        tune(pipe, video(0), "a", video(1), Recipe(steps=1, **FAST), out=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == held
    assert not moved(before, state(pipe))


def test_an_adapter_knows_the_norm_it_was_tuned_with(pipe, tmp_path, caplog):
    ask: dict[str, Any] = {"latents": torch.zeros(F, 3, 8, 8), "num_inference_steps": 1}
    pipe("a", video(1), norm="video", **ask)  # not tuned: any norm will do
    tune(pipe, *SEEN, Recipe(steps=1, norm="video", **FAST))
    pipe.adapter.save_pretrained(tmp_path)
    pipe.adapter = ControlVideoAdapter.from_pretrained(tmp_path)
    pipe("a", video(1), norm="video", **ask)
    assert not caplog.records
    pipe("a", video(1), **ask)
    (record,) = caplog.records
    assert "tuned with norm 'video', and is used with 'frame'" in record.getMessage()


def test_frames_see_in_tuning_what_they_are_to_see(pipe):
    def loss(**options):
        with Tuner(pipe, video(0), "a", video(1), Recipe(seed=3, **options)) as tuner:
            return tuner.loss().item()

    whole = loss()
    assert loss(branches=False, trained="projections") == pytest.approx(whole, rel=1e-5)  # zero
    assert loss(sees="own") != pytest.approx(whole, rel=1e-4)


def test_models_are_given_back_as_they_were_whatever_happens(pipe):
    pipe.unet.train()
    pipe.unet.conv_in.requires_grad_(False)
    recipe = Recipe(checkpointing=True)
    with pytest.raises(KeyError), Tuner(pipe, video(0), "a", video(1), recipe):
        raise KeyError
    assert pipe.unet.training
    assert not pipe.controlnet.training
    assert not pipe.unet.is_gradient_checkpointing
    pipe.controlnet.enable_gradient_checkpointing()  # as somebody else wants it
    with Tuner(pipe, video(0), "a", video(1), recipe):
        pass
    assert pipe.controlnet.is_gradient_checkpointing
    pipe.controlnet.disable_gradient_checkpointing()
    still = {n for n, p in pipe.unet.named_parameters() if not p.requires_grad}
    assert still == {"conv_in.weight", "conv_in.bias"}
    with pipe.installed():  # nothing is installed any more
        pass


def test_what_would_lose_its_steps_is_refused(pipe):
    pipe.adapter.to(torch.float16)
    with pytest.raises(ValueError, match="want the adapter in float32"):
        Tuner(pipe, video(0), "a", video(1), Recipe())
    pipe.adapter.float()
    pipe.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(ValueError, match="got 'sample'"):
        Tuner(pipe, video(0), "a", video(1), Recipe())


def test_only_what_is_trained_is_clipped(pipe):
    """After clipping, the gradient of the adapter has the norm that was asked for."""
    tuner = Tuner(pipe, video(0), "a", video(1), Recipe(clip=1e-3))
    with tuner:
        tuner.step()
        grads = [p.grad for p in tuner.trained if p.grad is not None]
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
    assert all(p.grad is None for p in tuner.trained)
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_no_number_changes_nothing(pipe):
    with torch.no_grad():
        next(iter(pipe.adapter.deltas.values())).weight[0, 0] = math.inf
    before = state(pipe)
    with pytest.raises(Diverged, match="lower it"):
        tune(pipe, video(0), "a", video(1), Recipe(steps=2))
    assert not moved(before, state(pipe))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps >= 1"),
        ({"learning_rate": 0.0}, "learning_rate > 0"),
        ({"clip": math.inf}, "clip > 0"),
        ({"seed": -1}, "seed >= 0"),
        ({"trained": "all"}, "'all'"),
        ({"branches": False}, "want trained='projections' without branches, got 'both'"),
    ],
)
def test_what_cannot_be_tuned_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


def test_a_control_for_each_frame(pipe):
    with pytest.raises(ValueError, match="a control image for each frame, of its size: 2 of"):
        tune(pipe, video(0), "a", video(1, 2), Recipe(steps=1))
    with pytest.raises(
        ValueError, match="a control image for each frame, of its size: 3 of 16 x 8"
    ):
        tune(pipe, video(0), "a", video(1, 3)[..., :8], Recipe(steps=1))
