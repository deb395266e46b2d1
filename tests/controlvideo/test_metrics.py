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
    assert steady < 0.02  # interpolation
    moved = metrics.flicker(metrics.object_points(image + offset, truth))
    assert moved == pytest.approx(0.1, rel=0.05)


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
    with pytest.raises(ValueError, match="at least two frames"):
        metrics.temporal_cosine(torch.ones(1, 3))
