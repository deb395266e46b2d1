"""A tuning by the command line goes on where a kill, an interrupt, memory or the disk ended it."""

import json
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch

from core.controlvideo import __main__ as module
from core.controlvideo.pipeline import ControlVideoPipeline
from core.controlvideo.video import read

pytest.importorskip("cv2")

MAKE = "--base base --controlnet net0 --prompt 'a red' --frames 3 --device cpu"
TUNE = "--steps 2 --lr 1e-2"
SAMPLE = "--edit 'a blue' --sample-steps 2 --device cpu"
ONE_STEP = "--edit 'a blue' --sample-steps 1 --start shared --guidance 1 --device cpu"


def weights(folder):
    return (folder / "adapter" / "diffusion_pytorch_model.safetensors").read_bytes()


@pytest.mark.slow  # a process of its own, that imports everything
def test_a_tuning_that_was_killed_goes_on_to_the_bit(here, cli):
    line = f"tune in.mp4 {MAKE} --frames 2 --steps 12 --lr 1e-2 --save-every 1"
    command = [sys.executable, "-m", "core.controlvideo", *shlex.split(line), "--out", "killed"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(here.glob("killed/checkpoints/step-*.pt")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (here / "killed/adapter").exists()
    first = (here / "killed/log.jsonl").read_text().splitlines()[0]
    assert cli(f"{line} --out killed")[0] == 2
    assert cli(f"{line} --out killed --resume")[0] == 0
    # its time too: that step was not taken again
    assert (here / "killed/log.jsonl").read_text().splitlines()[0] == first
    assert cli(f"{line} --out whole")[0] == 0
    assert weights(here / "killed") == weights(here / "whole")
    losses = [
        [json.loads(line)["loss"] for line in (here / name / "log.jsonl").read_text().splitlines()]
        for name in ("killed", "whole")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


def test_an_edit_that_was_interrupted_goes_on_without_tuning_again(here, cli, monkeypatch):
    def stops(*_, **__):
        raise KeyboardInterrupt

    line = f"edit in.mp4 {MAKE} {TUNE} {SAMPLE} --out out.mp4"
    call = ControlVideoPipeline.__call__
    monkeypatch.setattr(ControlVideoPipeline, "__call__", stops)
    code, told = cli(line)
    assert (code, told.splitlines()[-1]) == (
        130,
        "interrupted: --resume goes on from the last checkpoint",
    )
    assert not (here / "out.mp4").exists()
    tuned = weights(here / "out.tuned")
    code, told = cli(f"render in.mp4 --adapter out.tuned {SAMPLE} --out out.mp4")
    assert (code, told.splitlines()[-1]) == (130, "interrupted: out.mp4 is as it was")
    code, told = cli(f"edit in.mp4 {MAKE} {TUNE} {SAMPLE} --preview --out key.png")
    assert (code, told.splitlines()[-1]) == (130, "interrupted: key.png is as it was")
    monkeypatch.setattr(ControlVideoPipeline, "__call__", call)
    assert cli(line)[0] == 2
    code, told = cli(f"{line} --resume --steps 3")
    assert code == 2
    assert "its steps is 2, here it is 3" in told
    monkeypatch.setattr(module.Tuning, "_steps", stops)
    assert cli(f"{line} --resume")[0] == 0
    assert weights(here / "out.tuned") == tuned
    assert len(read("out.mp4").frames) == 3


def test_a_full_disk_leaves_the_checkpoint_from_which_the_adapter_is_written(
    here, cli, full, monkeypatch
):
    write, line = module.Tuning._write, f"edit in.mp4 {MAKE} {TUNE} {ONE_STEP} --out out.mp4"

    def writes(tuning):
        with full():
            write(tuning)

    (here / "out.mp4").write_bytes(b"an earlier edit")
    monkeypatch.setattr(module.Tuning, "_write", writes)
    code, told = cli(line)
    assert code == 1
    last = told.splitlines()[-1]
    assert last.startswith("failed: out.tuned/adapter could not be written: ")
    assert "File too large" in last
    assert last.endswith("mend that, and --resume goes on from the last checkpoint")
    assert (here / "out.mp4").read_bytes() == b"an earlier edit"
    held = sorted(p.name for p in (here / "out.tuned").iterdir())
    assert held == ["checkpoints", "log.jsonl", "run.json"]
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert cli(f"{line} --resume")[0] == 0
    assert len((here / "out.tuned/log.jsonl").read_text().splitlines()) == 2
    assert len(read("out.mp4").frames) == 3


def test_a_loss_that_is_no_number_is_told(here, cli):
    code, told = cli(f"tune in.mp4 {MAKE} --steps 9 --lr 1e30 --out out")
    assert code == 1
    assert "diverged: the loss of step 2" in told
    assert json.loads((here / "out/run.json").read_text())["status"] == "diverged"


def test_a_run_goes_on_with_less_memory_even_from_before_its_first_step(here, cli, monkeypatch):
    def stops(error):
        def steps(*_):
            raise error

        monkeypatch.setattr(module.Tuning, "_steps", steps)

    line = f"tune in.mp4 {MAKE} {TUNE} --out out"
    stops(torch.OutOfMemoryError("no more"))
    code, told = cli(line)
    assert code == 1
    assert told.splitlines()[-1] == (
        "failed: no more: take fewer --frames, a smaller --height and --width, or --checkpointing"
    )
    stops(KeyboardInterrupt())
    assert cli(f"{line} --checkpointing --resume")[0] == 130
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert cli(f"{line} --checkpointing --resume")[0] == 0
    assert cli(f"tune in.mp4 {MAKE} {TUNE} --out whole")[0] == 0
    # what is computed again is the same to the bit
    assert weights(here / "out") == weights(here / "whole")
