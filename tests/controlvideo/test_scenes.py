import math

import numpy as np
import pytest
import torch

from core.controlvideo import scenes as scene
from core.controlvideo.metrics import score


def test_a_true_edit_changes_what_is_named_and_nothing_else(rng):
    source = scene.video(5, rng)
    before = scene.render(source)
    for name in ("red", "blue"):
        after = scene.render(source.edited(colour=name))
        changed = (before.image - after.image).abs().amax((0, 1))
        assert not changed[(before.mask == 0).all(0)].any()
        torch.testing.assert_close(before.mask, after.mask)


def test_an_edit_to_what_is_there_is_none(rng):
    source = scene.draw(6, rng)
    for i in range(6):
        one = source[[i]]
        words = one.words()
        again = scene.render(one.edited(**words)).image
        assert torch.equal(again, scene.render(one).image)


def test_the_area_of_a_circle(rng):
    circles = scene.draw(50, rng).edited(shape="circle").map({"radius": torch.tensor(0.4)})
    circles = circles.map({"x": torch.tensor(0.0), "y": torch.tensor(0.0)})
    area = scene.render(circles, 96).mask.sum((1, 2)) * (2 / 96) ** 2
    assert (area - math.pi * 0.16).abs().max() < 0.002


def test_place_tells_which_point_of_the_object_is_seen(rng):
    source = scene.video(4, rng)
    seen = scene.render(source, 64)
    at = (torch.arange(64) + 0.5) / 32 - 1
    Y, X = torch.meshgrid(at, at, indexing="ij")
    for i in range(4):
        u, v = seen.place[i] * source.radius[i]
        c, s = source.angle[i].cos(), source.angle[i].sin()
        torch.testing.assert_close(source.x[i] + c * u - s * v, X, atol=1e-5, rtol=0)
        torch.testing.assert_close(source.y[i] + s * u + c * v, Y, atol=1e-5, rtol=0)


def test_captions_leave_open_what_they_do_not_name():
    rng = np.random.default_rng(0)
    seen = scene.draw(4000, rng)
    words = scene.captions(seen, rng)
    named = {
        "texture": np.mean([any(t in w.split() for t in scene.TEXTURES) for w in words]),
        "ground": np.mean([" on " in w for w in words]),
    }
    # of 4000 draws at 0.75 and 0.3 the standard error is 0.007; allow five
    assert abs(named["texture"] - 0.75) < 0.035
    assert abs(named["ground"] - 0.3) < 0.035
    for i in (0, 1, 2):
        assert seen.words(i)["shape"] in words[i]


def test_the_ground_is_never_of_the_objects_colour(rng):
    seen = scene.draw(500, rng)
    assert (seen.colour != seen.ground).all()


@pytest.mark.parametrize("kind", scene.CONTROLS)
def test_controls_do_not_see_colours(kind, rng):
    source = scene.video(3, rng)
    before = scene.control(source, kind)
    assert before.shape == (3, 3, scene.SIZE, scene.SIZE)
    assert before.min() >= 0
    assert before.max() <= 1
    for change in ({"colour": "white"}, {"ground": "black"}):
        assert torch.equal(before, scene.control(source.edited(**change), kind))


def test_what_controls_see_of_shape_and_texture(rng):
    source = scene.video(3, rng).edited(shape="circle", texture="plain")
    sees = {
        kind: [
            not torch.equal(scene.control(source, kind), scene.control(edit, kind))
            for edit in (source.edited(shape="square"), source.edited(texture="striped"))
        ]
        for kind in scene.CONTROLS
    }
    assert sees == {
        "edges": [True, True],
        "depth": [True, False],
        "segmentation": [True, False],
        "pose": [False, False],
    }


def test_a_word_that_is_not_known(rng):
    with pytest.raises(ValueError, match=r"want a colour of red.*got 'pink'"):
        scene.draw(1, rng).edited(colour="pink")
    with pytest.raises(ValueError, match=r"want a colour of red.*got ''"):
        scene.draw(1, rng).edited(colour="")
    with pytest.raises(ValueError, match=r"want a control of edges.*got 'hed'"):
        scene.control(scene.draw(1, rng), "hed")


def test_a_video_without_frames_is_refused(rng):
    assert len(scene.video(1, rng)) == 1
    for frames in (0, -1):
        with pytest.raises(ValueError, match=f"at least one frame, got {frames}"):
            scene.video(frames, rng)


def test_the_truth_has_a_perfect_score():
    """But for its floors, as `Score` says them."""
    rng, shapes = np.random.default_rng(2), []
    for _ in range(100):
        truth = scene.video(8, rng)
        found = score(scene.render(truth).image, truth)
        assert (found.colour, found.texture) == (1, 1)
        assert (found.error, found.ground_error, found.object_error) == (0, 0, 0)
        assert found.edge_f1 == 1
        assert found.iou > 0.79
        assert found.prompt == found.shape
        assert found.object_flicker < 0.03
        assert found.ground_flicker < 2e-4
        shapes.append(found.shape)
    # one video in a hundred has frames that pass for another shape: of a hundred allow five
    assert sum(shape < 1 for shape in shapes) <= 5
    assert min(shapes) >= 0.5


def test_stripes_are_darker_but_on_black_whatever_the_shade():
    """A green has shades as dark as a black that is light: the word decides, and no brightness."""
    seen = scene.draw(3000, np.random.default_rng(0)).edited(texture="striped")
    rendered = scene.render(seen)
    bright = rendered.image.mean(1)
    within = rendered.mask > 0.99
    parts = [within & side for side in (rendered.stripe > 0.9, rendered.stripe < -0.9)]
    both = parts[0].flatten(1).any(1) & parts[1].flatten(1).any(1)  # a small one may lack one
    assert both.float().mean() > 0.95
    stripe, own = ((bright * p).sum((1, 2)) / p.sum((1, 2)).clamp(min=1) for p in parts)
    words = torch.tensor([name == "black" for name in scene.COLOURS])[seen.colour]
    assert torch.equal((stripe > own)[both], words[both])
    nominal = torch.tensor(list(scene.COLOURS.values()))[seen.colour] + seen.shade
    darkest = [nominal[seen.colour == i].mean(1).min() for i in range(len(scene.COLOURS))]
    assert darkest[list(scene.COLOURS).index("green")] < 0.3
