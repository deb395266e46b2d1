import csv
import hashlib
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from core.controlvideo import scenes as scene
from core.controlvideo.metrics import score
from core.controlvideo.pretrain import CONTROLS, main
from core.controlvideo.small import WEIGHTS, make_tokenizer, small


def losses(path):
    with path.open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A minute's model, of one control."""
    out = tmp_path_factory.mktemp("small")
    done = CliRunner().invoke(main, ["--out", str(out), "--smoke", "--control", "edges", "--quiet"])
    assert done.exit_code == 0, done.output
    return out


def test_the_script_still_learns(made):
    # unpredicted, v has a mean square of about one half; the script's 60 steps learn a part of it
    base = losses(made / "loss_base.csv")
    assert base[-1] < 0.9 * base[0]
    assert json.loads((made / "card.json").read_text())["edges"]["iou"] > 0


def test_a_stage_that_is_there_is_not_done_again(made):
    before = (made / "unet/diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    done = CliRunner().invoke(
        main, ["--out", str(made), "--smoke", "--control", "edges", "--quiet"]
    )
    assert done.exit_code == 0
    assert (made / "unet/diffusion_pytorch_model.safetensors").stat().st_mtime_ns == before


def test_its_pipeline_edits(made):
    pipe = small(("edges",), made)
    source = scene.video(3, np.random.default_rng(0))
    out = pipe(
        "a red circle",
        scene.control(source, "edges"),
        start="shared",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    )
    assert out.frames.shape == (3, 3, scene.SIZE, scene.SIZE)


def test_a_control_without_a_controlnet(made):
    with pytest.raises(ValueError, match="want controls of edges, got 'depth'"):
        small(("depth",), made)


def test_words_of_captions_are_single_tokens():
    tokenizer = make_tokenizer()
    for word in ("a", "on", *scene.COLOURS, *scene.SHAPES, *scene.TEXTURES):
        assert len(tokenizer(word).input_ids) == 3  # between start and end
    assert len(tokenizer("a striped yellow triangle on white").input_ids) == 8


def test_the_weights_are_those_of_the_manifest():
    manifest = json.loads((WEIGHTS / "manifest.json").read_text())
    files = manifest["files"]
    assert {"base", "objects", *(f"controlnet_{kind}" for kind in CONTROLS)} == set(
        manifest["stages"]
    )
    found = {str(p.relative_to(WEIGHTS)): p for p in WEIGHTS.rglob("*.safetensors")}
    assert files.keys() == found.keys()
    for name, path in found.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == files[name]["sha256"]
    assert sum(p.stat().st_size for p in found.values()) < 6e6


def test_the_weights_paint_what_is_asked(rng):
    """As the card says, on a few scenes."""
    seen = scene.draw(8, rng).edited(colour="red", texture="plain", shape="circle")
    for kind in CONTROLS:
        made = small((kind,))(
            "a plain red circle",
            scene.control(seen, kind),
            start="independent",
            sees="own",
            branches=False,
            num_inference_steps=10,
            guidance_scale=2,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).frames
        assert score(made, seen).colour >= 7 / 8
