import csv
import hashlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from core.controlvideo import pretrain
from core.controlvideo import scenes as scene
from core.controlvideo.metrics import score
from core.controlvideo.pretrain import main
from core.controlvideo.small import WEIGHTS, make_scheduler, make_tokenizer, small


def losses(path):
    with path.open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A minute's model, of one control."""
    out = tmp_path_factory.mktemp("small")
    assert command(out, "--smoke", "--control", "edges") == 0
    return out


@pytest.fixture
def copy(made, tmp_path):
    """The same in a folder that a test may change."""
    return shutil.copytree(made, tmp_path / "run")


def command(out, *options):
    return main(["--out", str(out), "--quiet", *options])


def contents(out):
    """What each file of a folder holds, and when it was written."""
    files = {str(p.relative_to(out)): p for p in out.rglob("*") if p.is_file()}
    return {name: (digest(p), p.stat().st_mtime_ns) for name, p in files.items()}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_script_still_learns(made):
    # unpredicted, v has a mean square of about one half; the script's 60 steps learn a part of it
    base = losses(made / "loss_base.csv")
    assert base[-1] < 0.9 * base[0]
    assert json.loads((made / "card.json").read_text())["edges"]["iou"] > 0


def test_a_stage_that_is_there_is_not_done_again(copy):
    before = contents(copy)
    assert not any(".part." in name for name in before)
    assert command(copy, "--smoke", "--control", "edges") == 0
    after = contents(copy)
    assert after.pop("manifest.json")[0] == before.pop("manifest.json")[0]  # written, and the same
    assert after == before


@pytest.mark.parametrize("other", [[], ["--smoke", "--seed", "1"]], ids=str)
def test_a_folder_of_another_recipe_is_refused(copy, capsys, other):
    before = contents(copy)
    assert command(copy, *other, "--control", "edges") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"refused: {copy} has its base of {{'steps': 60, " in line
    assert "'seed': 0}, want {'steps': " in line
    assert line.endswith("take another folder, or that recipe")
    before.pop("manifest.json")
    assert before.items() <= contents(copy).items()


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert command(tmp_path, "--smoke") == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"refused: want an empty folder, or one with a manifest.json, got {tmp_path}"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_full_disk_is_told_in_a_line_and_the_stage_is_still_to_be_done(copy, full, capsys):
    notes = json.loads((copy / "manifest.json").read_text())
    del notes["objects"]
    (copy / "manifest.json").write_text(json.dumps(notes))
    with full():
        assert command(copy, "--smoke", "--control", "edges") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed")]
    assert line.startswith(f"failed: {copy}/text_encoder could not be written: ")
    assert "objects" not in json.loads((copy / "manifest.json").read_text())
    assert command(copy, "--smoke", "--control", "edges") == 0


def test_a_stage_that_was_killed_is_done_again(copy):
    """It left a folder, half of the next one, and no note."""
    before, notes = contents(copy), json.loads((copy / "manifest.json").read_text())
    made = notes.pop("objects")
    (copy / "manifest.json").write_text(json.dumps(notes))
    unet = "unet/diffusion_pytorch_model.safetensors"
    (copy / unet).write_bytes(b"of a stage that ended early")
    left = copy / "unet.part.999999999"
    left.mkdir()
    (left / "half").touch()
    assert command(copy, "--smoke", "--control", "edges") == 0
    after, again = contents(copy), json.loads((copy / "manifest.json").read_text())
    assert after.keys() == before.keys()  # no part is left
    assert after[unet][0] == before[unet][0]  # what is random has a name
    assert again["objects"]["files"] == made["files"]
    same = {name for name in before if after[name] == before[name]}
    assert {name for name in before if name.startswith(("stage_base/", "controlnet_"))} < same
    assert "loss_base.csv" in same
    assert "loss_objects.csv" not in same


def test_the_card_is_done_again_where_another_controlnet_was_added(copy, monkeypatch):
    asked = []
    monkeypatch.setattr(pretrain, "card", lambda out, kinds, **options: asked.append(kinds))
    for _ in range(2):
        assert command(copy, "--smoke", "--control", "edges", "--control", "depth") == 0
    assert asked == [["edges", "depth"]]
    assert command(copy, "--smoke", "--control", "edges") == 0  # both are still there
    assert len(asked) == 1


def test_the_noise_of_a_card_is_named_by_its_seed(monkeypatch, tmp_path):
    """And nobody else's random numbers are used up, though a pipeline takes some."""
    seeds = []

    def pipe(prompt, control, *, generator, **options):
        seeds.append(generator.initial_seed())
        return SimpleNamespace(frames=torch.rand(control.shape))

    monkeypatch.setattr(pretrain.small, "small", lambda kinds, folder: pipe)
    before = torch.get_rng_state()
    for seed in (0, 0, 1):
        pretrain.card(tmp_path, ["edges"], images=1, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (seeds[i : i + 12] for i in (0, 12, 24))
    assert first == again
    assert len({*first, *other}) == 24


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
    with pytest.raises(ValueError, match="want at least one control, got none"):
        small((), made)


def test_sampling_begins_about_where_that_of_stable_diffusion_does():
    theirs = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    left = [float(s.alphas_cumprod[-1].sqrt()) for s in (make_scheduler(), theirs)]
    assert left == pytest.approx([0.0672, 0.0683], abs=5e-5)  # a fifteenth of the picture


def test_words_of_captions_are_single_tokens():
    tokenizer = make_tokenizer()
    for word in ("a", "on", *scene.COLOURS, *scene.SHAPES, *scene.TEXTURES):
        assert len(tokenizer(word).input_ids) == 3  # between start and end
    assert len(tokenizer("a striped yellow triangle on white").input_ids) == 8


def test_the_weights_are_those_of_the_manifest():
    """Each is of exactly one stage; those of the base are not kept."""
    manifest = json.loads((WEIGHTS / "manifest.json").read_text())
    nets = [f"controlnet_{kind}" for kind in scene.CONTROLS]
    assert {"base", "objects", *nets} <= manifest.keys()
    named = [
        (name, file["sha256"])
        for stage in manifest.values()
        for name, file in stage["files"].items()
        if not name.startswith(f"{pretrain.BASE}/")
    ]
    found = {str(p.relative_to(WEIGHTS)): p for p in WEIGHTS.rglob("*.safetensors")}
    assert sorted(named) == sorted((name, digest(path)) for name, path in found.items())
    assert sum(p.stat().st_size for p in found.values()) < 6e6


def test_the_weights_paint_what_is_asked(rng):
    """As the card says, on a few scenes."""
    seen = scene.draw(8, rng).edited(colour="red", texture="plain", shape="circle")
    for kind in scene.CONTROLS:
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
