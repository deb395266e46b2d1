"""The command: what it leaves behind, what it refuses, and that a kill costs nothing."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from math import inf
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors.torch import load_file

from core.mup import Plan
from core.mup.dit import SharedDiT
from core.mup.runs import read_runs
from core.mup.train import main
from core.mup.trainer import Trainer
from core.train.checkpoint import checkpoints

TINY = "--heads 3 --base-heads 1 --head-dim 4 --layers 1 --device cpu"
FAST = f"{TINY} --batch 4 --log2-lr -6 --ema 0.5 --held-out 4 --log-every 1"


@pytest.fixture
def here(latents, tmp_path, monkeypatch):
    """A folder to be in, with a link to latents."""
    (tmp_path / "latents").symlink_to(latents)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(more="", base="--data latents --out out"):
    return main(shlex.split(f"{base} {FAST} {more}"))


def weights(folder, which="last"):
    return load_file(folder / "model" / which / "diffusion_pytorch_model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def log(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("seconds") >= 0
    return lines


def record(folder):
    return json.loads((folder / "run.json").read_text())


def everything_in(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_a_run_leaves_models_log_checkpoints_and_what_it_was(here, capsys):
    assert train("--steps 6 --save-every 2 --evaluate-every 3") == 0
    told = capsys.readouterr()
    assert told.out == "done: out/model\n"
    assert "step 6 of 6, loss" in told.err
    assert "step 3: held-out loss, ema" in told.err
    out = here / "out"
    assert [p.name for p in checkpoints(out / "checkpoints")] == [
        "step-00000004.pt",
        "step-00000006.pt",
    ]
    lines = log(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [("held_out_ema" in line) for line in lines] == [False, False, True] * 2
    assert {line["learning_rate"] for line in lines} == {2.0**-6}
    run = record(out)
    assert (run["status"], run["steps"], run["done"], run["width"]) == ("done", 6, 6, 12)
    assert run["held_out"]["last"]["loss"] == lines[-1]["held_out_last"]
    assert run["provenance"]["packages"]["torch"] == torch.__version__
    assert run["images"] == 1797 - 4


def test_the_models_are_diffusers_own_with_the_plan_beside_them(here):
    assert train("--steps 3") == 0
    for which in ("ema", "last"):
        folder = here / "out" / "model" / which
        plain = DiTTransformer2DModel.from_pretrained(folder)
        model = SharedDiT.from_pretrained(folder)
        plan = Plan.load(folder)
        assert plan.named(model).keys() == plan.entries.keys()
        assert plan.base_config["num_attention_heads"] == 1
        x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([3, 900]), torch.tensor([0, 10])
        told = plain.eval()(x, t, y).sample
        assert torch.equal(told, model.eval()(x, t, y).sample)
        assert told.shape == (2, 2, 8, 8)
    assert not same(weights(here / "out", "ema"), weights(here / "out"))


def test_the_moving_average_samples_in_diffusers_pipeline(here):
    assert train("--steps 2") == 0
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4,), latent_channels=1, norm_num_groups=2, sample_size=8
    )
    transformer = DiTTransformer2DModel.from_pretrained(here / "out" / "model" / "ema")
    scheduler: Any = DDIMScheduler(clip_sample=False)
    pipe = DiTPipeline(transformer, vae, scheduler)
    pipe.set_progress_bar_config(disable=True)
    found: Any = pipe([3, 7], guidance_scale=1, num_inference_steps=2, output_type="np")
    assert found.images.shape == (2, 8, 8, 3)


def test_the_loss_falls_on_digits(here):
    assert train("--steps 150 --batch 32 --log2-lr -5 --held-out 64 --ema 0.9 --at-once 32") == 0
    losses = [line["loss"] for line in log(here / "out")]
    assert losses[0] == pytest.approx(1.0, abs=0.15)  # the readout begins at zero
    found = record(here / "out")["held_out"]
    assert found["last"]["loss"] < 0.6
    assert found["ema"]["loss"] < 0.6


def test_the_first_loss_is_the_same_at_all_widths_and_parametrizations(here):
    firsts = []
    for i, more in enumerate(("", "--heads 2", "--parametrization standard", "--fixed-variance")):
        assert train(f"--steps 1 {more}", base=f"--data latents --out {i}") == 0
        firsts.append(log(here / str(i))[0])
    # the readout is zero: every network predicts nothing of the same noise
    assert len({line["loss"] for line in firsts}) == 1
    assert len({line["bound"] for line in firsts[:3]}) == 1
    assert firsts[3]["bound"] == 0
    assert record(here / "2")["network"]["parametrization"] == "standard"
    plan = Plan.load(here / "2" / "model" / "ema")
    assert plan.parametrization == "standard"


def test_a_resumed_run_is_the_same_to_the_bit_in_process(here, monkeypatch):
    more = "--steps 7 --save-every 2 --evaluate-every 3 --log-every 3"
    assert train(more) == 0
    base, step = "--data latents --out again", Trainer.step

    def stops(self):
        if self.done == 5:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "step", stops)
    assert train(more, base=base) == 130
    assert record(here / "again")["status"] == "interrupted"
    monkeypatch.setattr(Trainer, "step", step)
    with (here / "again" / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "los')  # a kill cuts a line
    assert train(f"{more} --resume", base=base) == 0
    assert log(here / "again") == log(here / "out")
    for which in ("ema", "last"):
        assert same(weights(here / "again", which), weights(here / "out", which))
    assert record(here / "again")["held_out"] == record(here / "out")["held_out"]


def test_resume_leaves_alone_what_is_done_and_refuses_another_run(here, capsys):
    assert train("--steps 2 --resume") == 0
    before = {path: path.stat().st_mtime_ns for path in (here / "out").rglob("*")}
    assert train("--steps 2 --resume") == 0
    assert train("--steps 2") == 2
    capsys.readouterr()
    for more, said in {
        "--seed 1": "recipe.seed is 0, here it is 1",
        "--lr 1e-3": "--lr or --log2-lr, got both",
        "--parametrization standard": "network.parametrization is mup, here it is standard",
        "--held-out 5": "held_out is 4, here it is 5",
    }.items():
        assert train(f"--steps 2 --resume {more}") == 2
        assert said in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (here / "out").rglob("*")} == before


def test_a_run_that_diverges_says_so_and_is_not_begun_again(here, capsys):
    assert train("--steps 40 --log2-lr 90 --save-every 1") == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("failed: it diverged: the ")
    assert "at a base learning rate of 1.238e+27: lower it" in told
    run = record(here / "out")
    assert run["status"] == "diverged"
    assert f"failed: it diverged: {run['reason']}" == told
    assert not (here / "out" / "model").exists()
    assert train("--steps 40 --log2-lr 90 --save-every 1 --resume") == 1
    assert capsys.readouterr().err == told + "\n"
    for path in checkpoints(here / "out" / "checkpoints"):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--steps 0", "want steps >= 1"),
        ("--steps 1 --epochs 1", "want --steps or --epochs, got both"),
        ("--epochs 0", "want --epochs >= 1, got 0"),
        ("--lr 1e-3", "want --lr or --log2-lr, got both: 0.001 and -6.0"),
        ("--log2-lr nan", "want --log2-lr from -100 to 100"),
        ("--ema 1", "want mean_decay from 0 and below 1"),
        ("--heads 0", "want --heads >= 1, got 0"),
        ("--head-dim 3", "want an even --head-dim, got 3"),
        ("--patch 3", "want --patch to divide the latents' 8 pixels a side, got 3"),
        ("--held-out 1797", "want 1 to 1796 images held out of 1797"),
        ("--held-out 0", "want --held-out >= 1"),
        ("--save-every 0", "want --save-every >= 1"),
        ("--data none", "found no index.json in none: make one by python -m core.mup.encode"),
        ("--out latents/index.json", "want --out to be a folder"),
        ("--device cuda", "want a GPU for each process"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line_with_nothing_written(here, capsys, more, said):
    if "cuda" in more and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    before = everything_in(here)
    steps = "" if "--steps" in more or "--epochs" in more else "--steps 1"
    assert train(f"{steps} {more}") == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.startswith("refused: ")
    assert told.count("\n") == 1
    assert everything_in(here) == before


def test_a_moving_average_that_remembers_the_beginning_is_told(here, capsys):
    assert train("--steps 2 --ema 0.9999") == 0
    told = capsys.readouterr().err
    assert "note: 100% of the moving average will be the weights before the first step" in told
    assert train("--steps 6 --ema 0.5", base="--data latents --out second") == 0
    assert "note:" not in capsys.readouterr().err


def test_epochs_are_passes_over_the_images_that_are_trained_on(here):
    assert train("--epochs 1 --batch 1000") == 0
    assert record(here / "out")["steps"] == 2


def test_help_names_the_paper_and_every_default(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "2505.15270" in told
    assert "[default: 0.9999]" in told


def test_a_folder_of_runs_is_the_table_of_a_sweep(here, capsys):
    for name, more in {
        "b": "--log2-lr -8",
        "a": "--log2-lr -5 --heads 2",
        "c": "--log2-lr 90 --steps 40",
        "d": "--log2-lr -4",
    }.items():
        train(f"--steps 2 {more}", base=f"--data latents --out runs/{name}")
    path = here / "runs" / "d" / "run.json"
    path.write_text(json.dumps({**record(here / "runs" / "d"), "status": "running"}))
    rows = read_runs("runs")
    assert [row.name for row in rows] == ["a", "b", "c"]
    assert [(row.width, row.log2_rate, row.diverged) for row in rows] == [
        (8, -5, False),
        (12, -8, False),
        (12, 90, True),
    ]
    assert rows[0].loss == record(here / "runs" / "a")["held_out"]["last"]["loss"]
    assert rows[0].ema_loss == record(here / "runs" / "a")["held_out"]["ema"]["loss"]
    assert (rows[2].loss, rows[2].base_width, rows[2].batch) == (inf, 4, 4)


def test_runs_that_are_not_there_or_cannot_be_compared_are_refused(here):
    with pytest.raises(ValueError, match=r"needs runs .* in runs, found none\. For each width"):
        read_runs("runs")
    for name, more in {"a": "", "b": "--held-out 5"}.items():
        assert train(f"--steps 1 {more}", base=f"--data latents --out runs/{name}") == 0
    with pytest.raises(ValueError, match="a and b cannot be compared: held_out is 4 and 5"):
        read_runs("runs")
    for path in (here / "runs").glob("*/run.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "status": "failed"}))
    with pytest.raises(ValueError, match=r"found none \(2 that did not come to their end\)"):
        read_runs("runs")
    (here / "runs" / "a" / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run\.json is no record of core\.mup\.train"):
        read_runs("runs")


def test_fsdp2_goes_on_with_what_a_plain_run_began(here):
    more = "--steps 4 --save-every 2"
    assert train(more) == 0
    kept = "checkpoints/step-00000002.pt"
    (here / "sharded" / "checkpoints").mkdir(parents=True)
    (here / "sharded" / kept).write_bytes((here / "out" / kept).read_bytes())
    assert train(f"{more} --resume --shard fsdp2", base="--data latents --out sharded") == 0
    for which in ("ema", "last"):  # a group of one: the same sums
        assert same(weights(here / "sharded", which), weights(here / "out", which))


@pytest.fixture
def one_thread():
    """Sums differ in their last digit with the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_bit(here, one_thread):
    asked = f"{FAST} --data latents --steps 60 --save-every 3 --out killed"
    command = [sys.executable, "-m", "core.mup.train", *shlex.split(asked)]
    alone = {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=os.environ | alone, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not checkpoints(here / "killed" / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    (newest,) = checkpoints(here / "killed" / "checkpoints")[-1:]
    assert 0 < int(newest.stem.removeprefix("step-")) < 60
    assert record(here / "killed")["status"] == "running"
    assert train("--steps 60 --save-every 3 --resume", base="--data latents --out killed") == 0
    assert train("--steps 60 --save-every 3") == 0
    for which in ("ema", "last"):
        assert same(weights(here / "killed", which), weights(here / "out", which))
    assert log(here / "killed") == log(here / "out")
