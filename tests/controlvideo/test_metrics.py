import functools

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from core.controlvideo import metrics
from core.controlvideo import scenes as scene


@pytest.fixture
def truth(rng):
    return scene.video(8, rng).edited(shape="square", colour="red", texture="plain")


def test_attributes_are_recognised_whatever_the_shade():
    rng = np.random.default_rng(2)
    seen = scene.draw(400, rng)
    rendered = scene.render(seen)
    colour, texture = metrics.recognised(rendered.image, rendered)
    # a small triangle has few pixels within, and a shade may lead from one word to the next
    assert (colour == seen.colour).float().mean() > 0.97
    assert (texture == seen.texture).float().mean() > 0.97


def test_a_wrong_attribute_is_seen(truth):
    for wrong, name in (
        ({"colour": "blue"}, "colour"),
        ({"texture": "striped"}, "texture"),
        ({"shape": "circle"}, "shape"),
    ):
        found = metrics.score(scene.render(truth.edited(**wrong)).image, truth).asdict()
        assert found[name] < 0.5
        assert found["prompt"] < 0.5
        assert all(found[k] == 1 for k in ("colour", "texture") if k != name)


def test_errors_are_told_apart_by_where_they_are(truth):
    """But for soft borders, whose share of the object falls with the size of a pixel."""
    seen = {}
    for size in (24, 96):
        render = functools.partial(scene.render, size=size)
        assert metrics.score(render(truth).image, truth).error == 0
        ground = metrics.score(render(truth.edited(ground="black")).image, truth)
        inside = metrics.score(render(truth.edited(colour="green")).image, truth)
        assert min(ground.ground_error, inside.object_error) > 0.05
        shares = (
            ground.object_error / ground.ground_error,
            inside.ground_error / inside.object_error,
        )
        seen[size] = np.array(shares)
    assert (seen[96] < 0.05).all()
    assert (seen[96] < 0.3 * seen[24]).all()  # a quarter, as 24 / 96


def test_flicker_is_the_spread_that_was_put_in(truth):
    image = 0.25 + 0.5 * scene.render(truth).image
    offset = torch.tensor([0.1, -0.1] * 4)[:, None, None, None]
    seen = scene.render(truth)
    ground = metrics.flicker(metrics.ground_points(image + offset, seen))
    assert ground == pytest.approx(0.1, rel=1e-3)  # far borders are a thousandth of object
    steady = metrics.flicker(metrics.object_points(image, truth))
    assert steady < 1e-4
    moved = metrics.flicker(metrics.object_points(image + offset, truth))
    assert moved == pytest.approx(0.1, rel=0.05)


FLOORS = {"circle": 1e-4, "square": 1e-4, "triangle": 0.005}
"""Of a plain object's flicker, as `Score` says."""


@pytest.mark.parametrize("shape", scene.SHAPES)
@pytest.mark.parametrize("texture", scene.TEXTURES)
def test_the_floor_of_flicker_is_that_of_interpolation(shape, texture):
    rng, found = np.random.default_rng(3), []
    for _ in range(50):
        truth = scene.video(8, rng).edited(shape=shape, texture=texture)
        points = metrics.object_points(scene.render(truth).image, truth)
        found.append(metrics.flicker(points))
    assert max(found) < (FLOORS[shape] if texture == "plain" else 0.03)


@pytest.mark.parametrize(("shape", "most"), [("circle", 1e-3), ("square", 1e-3), ("triangle", 0.1)])
def test_points_of_the_object_hardly_see_its_border(shape, most):
    rng = np.random.default_rng(0)
    for _ in range(50):
        truth = scene.video(8, rng).edited(shape=shape)
        truth = truth.map({"slope": torch.zeros(2), "ground_shade": torch.zeros(3)})
        grounds = [scene.render(truth.edited(ground=name)).image for name in ("white", "black")]
        white, black = (metrics.object_points(image, truth) for image in grounds)
        contrast = scene.COLOURS["white"][0] - scene.COLOURS["black"][0]
        assert (white - black).abs().max() / contrast < most


@pytest.mark.parametrize("texture", scene.TEXTURES)
def test_a_video_that_only_darkens_does_not_flicker(texture):
    """Nor does it change its colours."""
    moved = scene.video(8, np.random.default_rng(0))
    moved = moved.edited(texture=texture, colour="red", ground="white")
    found = []
    for light in (0.0, 0.8):
        truth = moved.map({"light": 1 - light * torch.linspace(0, 1, 8)})
        found.append(metrics.score(scene.render(truth).image, truth))
    steady, darker = found
    assert darker.ground_flicker < 2e-4
    assert darker.object_flicker == pytest.approx(steady.object_flicker, abs=1e-5)
    assert (darker.colour, darker.texture) == (1, 1)
    # and where the light should not have changed, that is seen
    unasked = metrics.score(scene.render(truth).image, moved)
    assert min(unasked.ground_flicker, unasked.object_flicker) > 0.05


def test_what_is_pooled_and_what_is_a_mean_over_frames(truth):
    """One frame of two is off: on a small object, and one larger by half."""
    truth = truth[[0, 0]].map({"radius": torch.tensor([0.4, 0.6])})
    seen = scene.render(truth)
    for i in range(2):
        edit = seen.image.clone()
        step = 0.1 * (1 - 2 * (edit[i] > 0.5).float())  # stays in [0, 1]
        edit[i] += step * seen.mask[i]
        found = metrics.score(edit, truth)
        assert found.error == pytest.approx(0.1 * float(seen.mask[i].mean()) / 2, rel=1e-4)
        squares = float(seen.mask[i].square().sum() / seen.mask.sum())
        assert found.object_error == pytest.approx(0.1 * squares, rel=1e-4)
    without = seen.image.clone()
    without[1] = without[1, :, :1, :1]  # no object in the larger frame
    lost = metrics.score(without, truth)
    edges = metrics.edges(seen.image).flatten(1).sum(1)
    recall = float(edges[0] / edges.sum())
    assert recall < 0.45
    assert lost.edge_f1 == pytest.approx(2 * recall / (1 + recall))


def test_frames_are_large_enough_where_every_object_has_a_core():
    seen = scene.draw(5000, np.random.default_rng(0))
    cores = [
        metrics._core(scene.render(seen, size)).flatten(1).any(1)
        for size in (metrics.SMALLEST, metrics.SMALLEST - 1)
    ]
    assert cores[0].all()
    lost = (~cores[1]).nonzero().flatten()
    assert len(lost)
    one = seen[lost[:1].tolist()]
    size = metrics.SMALLEST - 1
    message = r"got none in frames \[0\] of 16 x 16 pixels: from 17 x 17"
    with pytest.raises(ValueError, match=message):
        metrics.score(scene.render(one, size).image, one)


def test_a_point_of_the_object_is_followed(rng):
    scenes = scene.video(6, rng, turn=2.0).edited(texture="striped", shape="square")
    points = metrics.object_points(scene.render(scenes, 96).image, scenes)
    still = scenes.map({"angle": scenes.angle[:1]})
    lost = metrics.object_points(scene.render(still, 96).image, scenes)
    assert metrics.flicker(points) < 0.25 * metrics.flicker(lost)


def test_edges_a_pixel_beside_count(truth):
    image = scene.render(truth).image
    moved = [scene.render(truth.map({"x": truth.x + k * 2 / 24})).image for k in (1, 6)]
    assert metrics.edge_f1(moved[0], image) == 1
    assert metrics.edge_f1(moved[1], image) < 0.6
    blank = torch.zeros_like(image)
    assert metrics.edge_f1(blank, image) == 0
    assert metrics.edge_f1(blank, blank) == 1


def test_an_edge_is_a_change_over_two_pixels():
    ramp = torch.zeros(1, 3, 5, 9)
    for part, seen in ((0.45, False), (0.55, True)):
        ramp[:] = part * metrics.STEP * torch.arange(9)
        found = metrics.edges(ramp)
        assert (found[:, :, 1:-1] == seen).all()
        assert not found[:, :, [0, -1]].any()


def test_consecutive_frames_do_not_see_a_slow_drift():
    along = torch.linspace(0, torch.pi / 2, 100)
    drift = torch.stack([along.cos(), along.sin()], 1)  # ends at right angles to its start
    assert metrics.temporal_cosine(drift) == pytest.approx(np.cos(np.pi / 2 / 99))
    assert drift[0] @ drift[-1] < 1e-6
    assert metrics.temporal_cosine(drift[:1].expand(5, -1)) == pytest.approx(1)


def test_clip_features_are_those_of_transformers():
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = CLIPConfig(
        text_config={**small, "num_attention_heads": 2, "vocab_size": 20},
        vision_config={**small, "num_attention_heads": 2, "image_size": 8, "patch_size": 4},
        projection_dim=8,
    )
    model = CLIPModel(config).eval()

    class Inputs(dict):
        def to(self, device):
            return self

    def processor(*, text, images, **options):
        assert options["do_rescale"] is False
        return Inputs(input_ids=torch.tensor([[1, 2, 19]]), pixel_values=torch.stack(images))

    frames = torch.rand(3, 3, 8, 8)
    image, text = metrics.clip_features(frames, "a word", model, processor)
    with torch.no_grad():
        whole = model(torch.tensor([[1, 2, 19]]), frames)
    scale = model.logit_scale.exp()
    torch.testing.assert_close(scale * image @ text, whole.logits_per_image[:, 0])


def test_what_does_not_fit_is_refused(truth):
    with pytest.raises(ValueError, match=r"want an edit \[8, 3, S, S\], got \[7, 3, 24, 24\]"):
        metrics.score(scene.render(truth).image[:7], truth)
    dark = truth.map({"light": torch.tensor(0.0)})
    with pytest.raises(ValueError, match=r"want frames with light, got factors of it \[0.0, "):
        metrics.score(scene.render(dark).image, dark)
    with pytest.raises(ValueError, match="at least two frames"):
        metrics.temporal_cosine(torch.ones(1, 3))


def test_a_seam_is_a_change_that_is_larger_than_the_others():
    steps = torch.tensor([1.0, 2.0, 12.0, 3.0])
    points = torch.cat([torch.zeros(1), steps.cumsum(0)])[:, None, None].expand(5, 3, 7)
    assert metrics.seam(points, [3]) == pytest.approx(12 / 2)
    assert metrics.seam(points, [3, 4]) == pytest.approx(7.5 / 1.5)
    assert metrics.seam(points, [3], [4]) == pytest.approx(12 / 1.5)
    for begins, message in (
        ([], r"in 1..4, got \[\]"),
        ([5], "in 1..4"),
        ([1, 2, 3, 4], "besides"),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.seam(points, begins)
