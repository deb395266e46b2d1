import pytest
import torch

from core.controlvideo import scenes
from core.controlvideo.references import NAME, learn_references
from core.controlvideo.scenes import caption
from core.controlvideo.small import small
from core.train.folder import Diverged

pytest.importorskip("peft")
WORDS = {"shape": "circle", "texture": "plain", "colour": "red"}


@pytest.fixture
def pipe():
    return small()


def paint(pipe):
    control = torch.zeros(2, 3, scenes.SIZE, scenes.SIZE)
    noise = torch.randn(2, 3, scenes.SIZE, scenes.SIZE, generator=torch.Generator().manual_seed(0))
    return pipe(
        caption(**WORDS),
        control,
        latents=noise,
        num_inference_steps=5,
        guidance_scale=2,
        output_type="pt",
    ).frames


def images(rng, ground):
    return scenes.render(scenes.draw(4, rng).edited(**WORDS, ground=ground)).image


def test_a_prompt_that_leaves_the_ground_open_paints_that_of_the_references(pipe, rng):
    before = paint(pipe)
    shown = images(rng, "blue")
    state = torch.get_rng_state()
    losses = learn_references(pipe, shown, caption(**WORDS))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(losses) == 60
    blue = torch.tensor(scenes.COLOURS["blue"])[:, None]
    corner = (slice(None), slice(None), slice(0, 3), slice(0, 3))
    off = [float((x[corner].flatten(2) - blue).abs().mean()) for x in (before, paint(pipe))]
    assert off[1] < 0.6 * off[0]
    assert all(p.requires_grad for n, p in pipe.unet.named_parameters() if "lora" not in n)
    assert all(p.grad is None for p in pipe.unet.parameters())
    pipe.unet.delete_adapters(NAME)
    assert torch.equal(paint(pipe), before)


def test_they_are_learnt_once(pipe, rng):
    learn_references(pipe, images(rng, "blue"), "a circle", steps=1)
    with pytest.raises(ValueError, match="layers named 'reference' already"):
        learn_references(pipe, images(rng, "white"), "a circle", steps=1)


def test_numbers_that_are_none_leave_the_base_as_it_was(pipe, rng):
    before = paint(pipe)
    with pytest.raises(Diverged, match=r"the loss of step \d+ is .* rate of 1e\+06: lower it"):
        learn_references(pipe, images(rng, "blue"), "a circle", learning_rate=1e6)
    assert all(p.requires_grad and p.grad is None for p in pipe.unet.parameters())
    assert torch.equal(paint(pipe), before)
    learn_references(pipe, images(rng, "blue"), "a circle", steps=1)


def test_half_precision_is_refused(pipe, rng):
    pipe.unet.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"want the UNet in float32 to learn, got torch\.bfloat16"):
        learn_references(pipe, images(rng, "blue"), "a circle", steps=1)


@pytest.mark.parametrize("options", [{"steps": 0}, {"rank": 0}])
def test_no_steps_and_no_rank_are_refused(pipe, rng, options):
    with pytest.raises(ValueError, match="want steps >= 1 and rank >= 1"):
        learn_references(pipe, images(rng, "blue"), "a circle", **options)
