"""Pictures become latents once: what is kept, what is drawn, what is refused, what a kill costs."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image

from core.mup import encoding
from core.mup.encode import main
from core.mup.latents import Latents, shard_metadata
from core.mup.pictures import find, read
from core.train.seeds import generator


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to be in, with coloured pictures of two classes."""
    rng = np.random.default_rng(0)
    for name, size in {"cat/a.png": (6, 4), "cat/deep/b.PNG": (4, 4), "dog/c.png": (4, 7)}.items():
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def vae(here):
    """A tiny autoencoder that halves the sides, in a folder."""
    torch.manual_seed(3)
    config: dict[str, Any] = {
        "block_out_channels": (4, 4),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 2,
        "norm_num_groups": 2,
    }
    model = AutoencoderKL(**config, scaling_factor=0.5, shift_factor=0.25)
    model.save_pretrained(here / "vae")
    return model.eval()


def encode(more="", base="--images train --out out --size 4 --device cpu"):
    return main(f"{base} {more}".split())


def test_without_a_vae_the_latents_are_the_pixels(digits, latents):
    from sklearn.datasets import load_digits

    found, (images, target) = Latents(latents), load_digits(return_X_y=True)
    assert (len(found), found.channels, found.side) == (1797, 1, 8)
    assert found.classes == tuple("0123456789")
    order = np.argsort(target, kind="stable")
    assert torch.equal(found.labels, torch.from_numpy(target[order]))
    for row in (0, 699, 700, 1796):  # the ends of shards
        pixels = torch.from_numpy(images[order[row]].reshape(8, 8)).float() / 8 - 1
        drawn = found.draw(row, generator(0))
        assert drawn.dtype == torch.float32
        # to 255 levels, and to float16
        assert (drawn[0] - pixels).abs().max() < 1 / 255 + 2**-11


def test_what_is_kept_is_the_posterior_and_what_is_drawn_follows_it(here, vae):
    assert encode("--vae vae --dtype float32") == 0
    found = Latents(here / "out")
    pixels = read(here / "train" / "dog" / "c.png", 4)
    x = torch.from_numpy(pixels).float()[None] / 127.5 - 1
    with torch.no_grad():
        q = vae.encode(x).latent_dist
    torch.testing.assert_close(found.moments(2)[0], torch.cat([q.mean, q.logvar], 1)[0])
    draws = torch.stack([found.draw(2, generator(0, epoch, 2)) for epoch in range(4000)])
    mean, sd = 0.5 * (q.mean[0] - 0.25), 0.5 * q.std[0]
    # of a mean of 4000, and of a standard deviation; eight numbers, five standard errors
    assert ((draws.mean(0) - mean).abs() < 5 * sd / 4000**0.5).all()
    assert ((draws.std(0) / sd - 1).abs() < 5 / 8000**0.5).all()
    assert torch.equal(draws[7], found.draw(2, generator(0, 7, 2)))
    assert not torch.equal(draws[7], draws[8])


def test_a_mean_alone_takes_half_the_disk_and_is_not_drawn(here, vae):
    assert encode("--vae vae --mean-only") == 0
    assert encode("--vae vae", base="--images train --out both --size 4 --device cpu") == 0
    mean, both = Latents(here / "out"), Latents(here / "both")
    assert mean.moments(0).shape == (1, 2, 2, 2)
    assert torch.equal(mean.moments(1)[0], both.moments(1)[0, :2])
    assert torch.equal(mean.draw(0, generator(0)), mean.draw(0, generator(1)))
    assert mean.digest != both.digest


def test_the_mirrored_picture_is_drawn_half_of_the_time(here):
    assert encode("--vae none --mirrored") == 0
    found = Latents(here / "out")
    straight, mirrored = found.moments(1).float()
    assert torch.equal(straight.flip(-1), mirrored)
    drawn = [torch.equal(found.draw(1, generator(i)), mirrored) for i in range(400)]
    assert abs(np.mean(drawn) - 0.5) < 4 * 0.5 / 20  # four standard errors


def test_a_picture_is_scaled_to_fit_and_cut_at_its_centre(tmp_path, rng):
    wide = Image.fromarray(rng.integers(0, 256, (10, 30, 3), dtype=np.uint8))
    wide.save(tmp_path / "wide.png")
    found = read(tmp_path / "wide.png", 5)
    assert found.shape == (3, 5, 5)
    cut = wide.resize((15, 5), Image.Resampling.BICUBIC).crop((5, 0, 10, 5))
    assert np.abs(found.transpose(1, 2, 0).astype(int) - np.asarray(cut)).max() <= 1
    assert read(tmp_path / "wide.png", 5, grey=True).shape == (1, 5, 5)


def test_a_palette_with_transparency_is_read(tmp_path):
    image = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).convert("P")
    image.save(tmp_path / "p.png", transparency=bytes(range(16)))
    assert read(tmp_path / "p.png", 4).shape == (3, 4, 4)


def test_a_killed_run_goes_on_with_the_shards_that_are_missing(here, monkeypatch, capsys):
    straight = "--images train --out straight --size 4 --device cpu --vae none --shard 1"
    assert main(list(straight.split())) == 0
    write, made = encoding.write_shard, []

    def stops(path, shard):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(path.name)
        write(path, shard)

    monkeypatch.setattr(encoding, "write_shard", stops)
    assert encode("--vae none --shard 1") == 130
    (here / "out" / "shard-00002.safetensors.part.999999999").write_text("half of")
    with pytest.raises(ValueError, match="out is not finished: encode again"):
        Latents("out")
    first = (here / "out" / made[0]).stat().st_mtime_ns
    monkeypatch.setattr(encoding, "write_shard", write)
    assert encode("--vae none --shard 1") == 0
    assert (here / "out" / made[0]).stat().st_mtime_ns == first
    assert Latents("out").digest == Latents("straight").digest
    assert not list((here / "out").glob("*.part.*"))
    before = (here / "out" / "index.json").stat().st_mtime_ns
    assert encode("--vae none --shard 1") == 0  # that was done
    assert (here / "out" / "index.json").stat().st_mtime_ns == before


def test_processes_share_the_shards_and_make_the_same(here):
    from core.mup.encoding import Asked, Encoding
    from core.train.distributed import World

    assert encode("--vae none --shard 1") == 0
    pictures, asked = find(here / "train"), Asked("none", size=4, shard=1)
    for rank in (1, 0):
        Encoding(pictures, here / "ranks", asked, World(rank, 2)).run(workers=1)
        assert len(list((here / "ranks").glob("shard-*"))) == (1 if rank else 3)
    assert Latents(here / "ranks").digest == Latents(here / "out").digest


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_a_picture_that_cannot_be_read_is_named_or_left_out_and_listed(here, capsys, content):
    bad = here / "train" / "cat" / "bad.jpg"
    whole = (here / "train" / "cat" / "a.png").read_bytes()
    bad.write_bytes(whole[:-40] if content is None else content)
    assert encode("--vae none") == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("failed: train/cat/bad.jpg: no picture that can be read: ")
    assert told.endswith("or leave such files out (--skip-bad)")
    assert encode("--vae none --skip-bad") == 0
    assert "left out 1: see out/skipped.jsonl" in capsys.readouterr().err
    (line,) = (here / "out" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["where"] == "cat/bad.jpg"
    assert Latents("out").labels.tolist() == [0, 0, 1]
    assert shard_metadata(here / "out" / "shard-00000.safetensors")["names"][0] == "cat/a.png"


def test_classes_may_be_named_and_a_missing_one_is_named(here, capsys):
    (here / "names").write_text("dog\ncat\n")
    assert encode("--vae none --class-names names") == 0
    found = Latents("out")
    assert (found.classes, found.labels.tolist()) == (("dog", "cat"), [0, 1, 1])
    (here / "names").write_text("dog\ncat\nemu\n")
    assert encode("--vae none --class-names names") == 2
    assert "a sub-folder for each of 3 classes, missing 1: emu" in capsys.readouterr().err


def refused(capsys, more, said, **how):
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert encode(more, **how) == 2
    told = capsys.readouterr().err
    assert told.startswith("refused: ")
    assert said in told
    assert told.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--images none", "want a folder of pictures, one sub-folder for each class, got none"),
        ("--images train/dog", "found none; its 1 pictures are of no class"),
        ("--images hollow", "hollow/emu: want at least one picture of each class"),
        ("--vae nowhere", "want --vae to be a folder, owner/name on the hub, or none, got nowhere"),
        ("--vae train", "of an AutoencoderKL, got train"),
        ("--size 0", "want --size >= 1, got 0"),
        ("--workers 0", "want --workers >= 1, got 0"),
        ("--grey --vae vae", "want --grey with --vae none"),
        ("--mean-only", "want --mean-only with a VAE"),
        ("--out names", "want --out to be a folder"),
        ("--class-names names", "want names of classes in names, found none"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line_with_nothing_written(here, capsys, more, said):
    shutil.copytree(here / "train", here / "hollow")
    (here / "hollow" / "emu").mkdir()
    (here / "names").write_text("")
    refused(capsys, f"--vae none {more}", said)


def test_a_folder_of_other_latents_is_refused(here, capsys):
    assert encode("--vae none") == 0
    refused(capsys, "--vae none --mirrored", "out/index.json is of another run: its mirrored is")
    (here / "out" / "index.json").unlink()
    refused(capsys, "--vae none", "out holds shards and no index.json")


def test_a_class_without_a_picture_may_be_left_out_and_keeps_its_label(here):
    (here / "train" / "bee").mkdir()
    assert encode("--vae none --skip-bad") == 0
    found = Latents("out")
    assert (found.classes, found.labels.tolist()) == (("bee", "cat", "dog"), [1, 1, 2])
    (line,) = (here / "out" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line) == {"where": "bee", "reason": "a class without a picture"}


def test_what_is_no_folder_of_latents_is_refused_by_name(here):
    with pytest.raises(ValueError, match=r"found no index\.json in out: make one by python -m"):
        Latents("out")
    assert encode("--vae none --shard 1") == 0
    with pytest.raises(IndexError, match="want an image from 0 to 2, got 3"):
        Latents("out").draw(3, generator(0))
    shard = here / "out" / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors is broken, or no shard"):
        Latents("out")
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors is in the index and not there"):
        Latents("out")
    assert encode("--vae none --shard 1") == 0
    assert len(Latents("out")) == 3
    (here / "out" / "index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json is not what core\.mup\.encode writes"):
        Latents("out")
