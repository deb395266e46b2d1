"""Controls, against closed forms and models of which the answer is known."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from core.controlvideo.annotators import annotate, canny, check_kind, depth, pose, segmentation

pytest.importorskip("cv2")


def step(height, side=16):
    """Two frames, in which `height` of 255 are added in the right half."""
    x = torch.full((2, 3, side, side), 100.0)
    x[..., side // 2 :] += height
    return x / 255


@pytest.mark.parametrize(("height", "seen"), [(24, False), (25, False), (26, True), (100, True)])
def test_the_thresholds_are_of_a_sobel_filter(height, seen):
    """Across a step of h the filter answers 4 h: 100 is a step of 25."""
    edges = canny(step(height))
    assert edges.shape == (2, 3, 16, 16)
    assert bool(edges.any()) is seen
    assert set(edges.unique().tolist()) <= {0.0, 1.0}


def test_an_edge_is_one_pixel_wide_where_the_step_is():
    edges = canny(step(80))[:, 0, 2:-2]
    assert (edges.sum(-1) == 1).all()
    assert (edges.argmax(-1) - 7.5).abs().max() <= 0.5


def test_a_weak_edge_is_kept_where_it_goes_on_from_a_strong_one():
    x = step(80)
    x[:, :, 8:, 8:] = (100 + 30) / 255  # the lower half of the step is lower
    assert canny(x, 100, 200)[:, 0, 13].any()
    assert not canny(x, 200, 200)[:, 0, 13].any()


def test_the_channel_with_the_largest_step_counts():
    x = step(0)
    x[:, 2, :, 8:] = (100 + 60) / 255
    assert canny(x).any()


def test_several_controls_are_made_at_once():
    first, second = annotate(step(30), ["canny", "canny=150,200"])
    assert first.any()
    assert not second.any()


class Depth(torch.nn.Module):
    """Predicts the red of each pixel."""

    def forward(self, pixel_values):
        return SimpleNamespace(predicted_depth=pixel_values[:, 0])


class Parts(torch.nn.Module):
    """Class 1 where it is light, else class 0."""

    config = SimpleNamespace(num_labels=2)

    def forward(self, pixel_values):
        light = pixel_values.mean(1, keepdim=True) - 0.5
        return SimpleNamespace(logits=torch.cat([-light, light], 1))


class Processor:
    """Halves the sides, as processors of models have sizes of their own."""

    def __call__(self, image, return_tensors):
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        half = interpolate(x, scale_factor=0.5)

        class Batch(dict):
            def to(self, _):
                return self

        return Batch(pixel_values=half)

    def post_process_depth_estimation(self, out, target_sizes):
        found = interpolate(out.predicted_depth[:, None], target_sizes[0])[0, 0]
        return [{"predicted_depth": found}]

    def post_process_semantic_segmentation(self, out, target_sizes):
        return [interpolate(out.logits, target_sizes[0])[0].argmax(0)]


@pytest.fixture
def known(monkeypatch):
    """Have transformers load models whose answers are known."""
    import transformers

    for name, made in (
        ("AutoImageProcessor", Processor),
        ("AutoModelForDepthEstimation", Depth),
        ("AutoModelForSemanticSegmentation", Parts),
    ):
        load = lambda _, made=made: made()  # noqa: E731
        monkeypatch.setattr(transformers, name, SimpleNamespace(from_pretrained=load))


def test_depth_is_scaled_over_all_frames(known):
    x = torch.zeros(2, 3, 8, 8)
    x[0, 0, :, 4:] = 128 / 255
    x[1, 0] = 1.0
    found = depth(x, "here")
    assert found.shape == x.shape
    torch.testing.assert_close(found, x[:, :1].expand(-1, 3, -1, -1))
    assert (depth(torch.zeros(1, 3, 8, 8), "here") == 0).all()


def test_parts_have_their_colours(known, tmp_path):
    (tmp_path / "palette.json").write_text("[[255, 0, 0], [0, 0, 255]]")
    x = torch.zeros(1, 3, 8, 8)
    x[..., 4:] = 1
    found = annotate(x, [f"segmentation={tmp_path}"])[0]
    expected = torch.tensor([1.0, 0, 0])[:, None, None].repeat(1, 8, 8)
    expected[:, :, 4:] = torch.tensor([0, 0, 1.0])[:, None, None]
    assert torch.equal(found[0], expected)
    (tmp_path / "palette.json").write_text("[[255, 0, 0]]")
    with pytest.raises(ValueError, match=r"a colour for each of 2 classes .* got 1"):
        segmentation(x, str(tmp_path))


def test_models_of_transformers_are_read_from_a_folder(tmp_path):
    """A DPT and a SegFormer at random: not what they say, but that they are asked rightly."""
    from transformers import (
        DPTConfig,
        DPTForDepthEstimation,
        SegformerConfig,
        SegformerForSemanticSegmentation,
    )

    sizes: dict[str, Any] = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    dpt = DPTConfig(
        **sizes,
        num_hidden_layers=4,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[4, 4, 4, 4],
        fusion_hidden_size=4,
        is_hybrid=False,
    )
    DPTForDepthEstimation(dpt).save_pretrained(tmp_path / "depth")
    settings = {"image_processor_type": "DPTImageProcessor", "size": {"height": 32, "width": 32}}
    (tmp_path / "depth" / "preprocessor_config.json").write_text(json.dumps(settings))
    classes: dict[str, Any] = {"num_labels": 3}
    parts = SegformerConfig(
        **classes,
        depths=[1, 1, 1, 1],
        hidden_sizes=[4, 4, 4, 4],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=4,
    )
    SegformerForSemanticSegmentation(parts).save_pretrained(tmp_path / "parts")
    settings["image_processor_type"] = "SegformerImageProcessor"
    (tmp_path / "parts" / "preprocessor_config.json").write_text(json.dumps(settings))
    (tmp_path / "parts" / "palette.json").write_text("[[0, 0, 0], [255, 0, 0], [0, 255, 0]]")
    x = torch.rand(2, 3, 24, 40)
    kinds = [f"depth={tmp_path / 'depth'}", f"segmentation={tmp_path / 'parts'}"]
    near, coloured = annotate(x, kinds)
    assert near.shape == coloured.shape == x.shape
    assert (near.min(), near.max()) == (0, 1)
    assert set(coloured.unique().tolist()) <= {0.0, 1.0}


def test_poses_are_drawn_at_the_size_of_the_frames(monkeypatch):
    class Detector:
        @classmethod
        def from_pretrained(cls, weights):
            if weights != "here":
                raise OSError("not found")
            return cls()

        def to(self, _):
            return self

        def __call__(self, image):
            return Image.new("RGB", (512, 512), (0, 0, 255))

    monkeypatch.setitem(sys.modules, "controlnet_aux", SimpleNamespace(OpenposeDetector=Detector))
    found = pose(torch.rand(2, 3, 8, 12), "here")
    assert found.shape == (2, 3, 8, 12)
    assert (found[:, 2] == 1).all()
    with pytest.raises(ValueError, match=r"no weights for pose at 'there': give pose=FOLDER"):
        pose(torch.rand(2, 3, 8, 12), "there")


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "controlnet_aux", None)
    with pytest.raises(ImportError, match="pip install opencv-python-headless"):
        canny(step(30))
    with pytest.raises(ImportError, match="pip install controlnet-aux"):
        pose(step(30))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("edges", "want a control of canny, depth, segmentation, pose, got 'edges'"),
        ("canny=100", "canny=LOW,HIGH, such as canny=100,200, got '100'"),
        ("canny=200,100", "canny=LOW,HIGH"),
        ("canny=a,b", "canny=LOW,HIGH"),
        ("segmentation", "palette.json: a list of"),
        ("segmentation=/nowhere", "palette.json: a list of"),
    ],
)
def test_what_is_no_control_is_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        check_kind(kind)


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no weights for depth at '.*': give depth=FOLDER, with"):
        depth(step(30), str(tmp_path))
