"""The command line, end to end on a tiny random checkpoint, against the library and the files."""

import errno
import json
import shlex
import signal
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from core.controlvideo import __main__ as module
from core.controlvideo import video
from core.controlvideo.__main__ import main
from core.controlvideo.annotators import canny
from core.controlvideo.checkpoint import load
from core.controlvideo.pipeline import ControlVideoPipeline
from core.controlvideo.tuning import Recipe, tune
from core.controlvideo.video import Pick, Video, read, write

av = pytest.importorskip("av")
pytest.importorskip("cv2")

MODELS = "--base base --controlnet net0"
MAKE = f"{MODELS} --prompt 'a red' --frames 3 --device cpu"
TUNE = "--steps 2 --lr 1e-2"
SAMPLE = "--edit 'a blue' --sample-steps 2 --device cpu"
ONE_STEP = "--edit 'a blue' --sample-steps 1 --start shared --guidance 1 --device cpu"


@pytest.fixture
def here(checkpoints, tmp_path, monkeypatch):
    """A folder to be in: models, and a film of 12 frames of 20 x 32, 24 a second."""
    for path in checkpoints.iterdir():
        (tmp_path / path.name).symlink_to(path)
    blocks = torch.rand(1, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    still = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)
    moving = torch.cat([still.roll(2 * i, 3) for i in range(12)])
    write(tmp_path / "in.mp4", Video(moving, Fraction(24)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command line; return its exit code, and what it told on standard error."""

    def runs(line):
        capsys.readouterr()
        code = main(shlex.split(line))
        told = capsys.readouterr().err
        assert "Traceback" not in told
        return code, told

    return runs


def weights(folder):
    return (folder / "adapter" / "diffusion_pytorch_model.safetensors").read_bytes()


def test_an_edit_is_a_film_and_its_adapter_renders_it_again(here, run):
    assert run(f"edit in.mp4 {MAKE} {TUNE} {SAMPLE} --out out.mp4")[0] == 0
    with av.open("out.mp4") as film:
        frames = list(film.decode(video=0))
        # 3 of 12 frames, 4 apart, that last as long
        assert film.streams.video[0].average_rate == 24 / 4
    assert [(frame.height, frame.width) for frame in frames] == [(16, 16)] * 3
    log = [json.loads(line) for line in (here / "out.tuned/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2]
    assert json.loads((here / "out.tuned/run.json").read_text())["status"] == "done"
    assert run(f"render in.mp4 --adapter out.tuned {SAMPLE} --out again.mp4")[0] == 0
    assert (here / "again.mp4").read_bytes() == (here / "out.mp4").read_bytes()
    assert run(f"render in.mp4 --adapter out.tuned {SAMPLE} --edit a --out other.mp4")[0] == 0
    assert (here / "other.mp4").read_bytes() != (here / "out.mp4").read_bytes()


def test_an_edit_is_what_the_library_makes(here, run):
    line = f"edit in.mp4 {MAKE} {TUNE} {SAMPLE} --out out --scale 0.5 --norm video --negative red"
    assert run(f"{line} --key 1 --guidance 3")[0] == 0
    source = read("in.mp4", Pick(3), size=(16, 16)).frames
    pipe, control = load("base", ["net0"]), canny(source)
    recipe = Recipe(steps=2, learning_rate=1e-2, norm="video", keys=(1,))
    losses = tune(pipe, source, "a red", control, recipe, control_scale=0.5)
    log = (here / "out.tuned/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in log] == losses
    frames = pipe(
        "a blue",
        control,
        source=source,
        source_prompt="a red",
        negative_prompt="red",
        num_inference_steps=2,
        guidance_scale=3.0,
        control_scale=0.5,
        norm="video",
        keys=(1,),
        output_type="pt",
    ).frames
    assert (read("out").frames - frames).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.slow  # a process of its own, that imports everything
def test_a_tuning_that_was_killed_goes_on_to_the_bit(here, run):
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
    assert run(f"{line} --out killed")[0] == 2
    assert run(f"{line} --out killed --resume")[0] == 0
    # its time too: that step was not taken again
    assert (here / "killed/log.jsonl").read_text().splitlines()[0] == first
    assert run(f"{line} --out whole")[0] == 0
    assert weights(here / "killed") == weights(here / "whole")
    losses = [
        [json.loads(line)["loss"] for line in (here / name / "log.jsonl").read_text().splitlines()]
        for name in ("killed", "whole")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


def test_an_edit_that_was_interrupted_goes_on_without_tuning_again(here, run, monkeypatch):
    def stops(*_, **__):
        raise KeyboardInterrupt

    line = f"edit in.mp4 {MAKE} {TUNE} {SAMPLE} --out out.mp4"
    call = ControlVideoPipeline.__call__
    monkeypatch.setattr(ControlVideoPipeline, "__call__", stops)
    code, told = run(line)
    assert (code, told.splitlines()[-1]) == (
        130,
        "interrupted: --resume goes on from the last checkpoint",
    )
    assert not (here / "out.mp4").exists()
    tuned = weights(here / "out.tuned")
    code, told = run(f"render in.mp4 --adapter out.tuned {SAMPLE} --out out.mp4")
    assert (code, told.splitlines()[-1]) == (130, "interrupted: out.mp4 is as it was")
    monkeypatch.setattr(ControlVideoPipeline, "__call__", call)
    assert run(line)[0] == 2
    code, told = run(f"{line} --resume --steps 3")
    assert code == 2
    assert "its steps is 2, here it is 3" in told
    monkeypatch.setattr(module.Tuning, "_steps", stops)
    assert run(f"{line} --resume")[0] == 0
    assert weights(here / "out.tuned") == tuned
    assert len(read("out.mp4").frames) == 3


def test_a_full_disk_leaves_the_edit_that_was_there(here, run, monkeypatch):
    (here / "out.mp4").write_bytes(b"an earlier edit")

    def full(path, content):
        path.write_bytes(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(video, "_put", full)
    code, told = run(f"edit in.mp4 {MAKE} {TUNE} {ONE_STEP} --out out.mp4")
    assert code == 1
    assert told.splitlines()[-1] == "failed: [Errno 28] No space left on device"
    assert (here / "out.mp4").read_bytes() == b"an earlier edit"
    assert not list(here.glob("*.part.*"))
    monkeypatch.undo()
    assert weights(here / "out.tuned")


def test_a_loss_that_is_no_number_is_told(here, run):
    code, told = run(f"tune in.mp4 {MAKE} --steps 9 --lr 1e30 --out out")
    assert code == 1
    assert "diverged: the loss of step 2" in told
    assert json.loads((here / "out/run.json").read_text())["status"] == "diverged"


@pytest.fixture
def tuned(here, run):
    """A folder in which `out.tuned` is an adapter of two ControlNets."""
    make = f"{MAKE} --controlnet net1 --control canny --control canny=50,150"
    assert run(f"tune in.mp4 {make} {TUNE} --scale 1 --scale 0.5 --out out.tuned")[0] == 0
    return here


def test_an_adapter_renders_what_else_is_asked(tuned, run):
    line = f"render in.mp4 --adapter out.tuned {ONE_STEP}"
    assert run(f"{line} --frames all --windows 6,2 --out windows.gif")[0] == 0
    found = read("windows.gif")
    assert (found.frames.shape, found.rate) == ((12, 3, 16, 16), 24)
    assert run(f"{line} --frames 4 --stream 2 --out stream --rate 12.5")[0] == 0
    assert (read("stream").frames.shape, read("stream").rate) == ((4, 3, 16, 16), Fraction(25, 2))
    assert run(f"{line} --height 16 --width 32 --fit pad --dtype bfloat16 --out wide.mp4")[0] == 0
    assert read("wide.mp4").frames.shape == (3, 3, 16, 32)


def test_a_stream_is_the_whole_without_branches_and_a_preview_its_key_frame(tuned, run):
    line = f"render in.mp4 --adapter out.tuned/adapter {ONE_STEP}"
    assert run(f"{line} --stream 1 --out one")[0] == 0
    assert run(f"{line} --stream 3 --out three")[0] == 0
    assert (read("one").frames - read("three").frames).abs().max() <= 1.01 / 255
    assert run(f"{line} --stream 3 --preview --out key.png")[0] == 0
    with Image.open("key.png") as image:
        key = np.asarray(image)
    with Image.open("three/00000.png") as image:
        assert np.abs(key.astype(int) - np.asarray(image)).max() <= 1


def test_a_preview_of_an_edit_does_not_tune(here, run):
    assert run(f"edit in.mp4 {MAKE} {ONE_STEP} --preview --out key.png")[0] == 0
    assert sorted(path.name for path in here.iterdir()) == [
        "base",
        "in.mp4",
        "key.png",
        "net0",
        "net1",
    ]


def test_a_control_may_be_a_video_of_all_frames_or_of_those_picked(here, run):
    source = read("in.mp4", size=(16, 16))
    write("all", Video(canny(source.frames), Fraction(24)))
    write("picked", Video(canny(source.frames[::4]), Fraction(6)))
    write("other", Video(canny(source.frames[:5]), Fraction(6)))
    line = f"tune in.mp4 {MAKE} {TUNE}"
    for control in ("canny", "all", "picked"):
        assert run(f"{line} --control {control} --out by_{control}")[0] == 0
    assert weights(here / "by_all") == weights(here / "by_canny") == weights(here / "by_picked")
    code, told = run(f"{line} --control other --out out")
    assert code == 2
    assert "want a control video of 12 frames, as " in told
    assert told.endswith("or of the 3 that are picked, got 5 in " + str(here / "other") + "\n")


def test_a_saved_pipeline_is_a_base(here, run):
    load("base", ["net0"]).save_pretrained("saved")
    make = MAKE.replace(MODELS, "--base saved")
    assert run(f"edit in.mp4 {make} {TUNE} {ONE_STEP} --out out.mp4")[0] == 0
    assert run(f"edit in.mp4 {MAKE} {TUNE} {ONE_STEP} --out same.mp4")[0] == 0
    assert (here / "out.mp4").read_bytes() == (here / "same.mp4").read_bytes()


def test_words_that_the_model_does_not_see_are_named(here, run):
    code, told = run(
        f"edit in.mp4 {MAKE} --edit 'a Tiger tux' --negative 'red blue red' --preview "
        "--sample-steps 1 --out key.png"
    )
    assert code == 0
    notes = [line for line in told.splitlines() if line.startswith("note: ")]
    assert notes[0] == "note: --edit: the tokenizer does not know 'Tiger', 'tux'"
    assert notes[-1].startswith("note: --negative is ")
    assert notes[-1].endswith(" tokens, the model reads 8: its end is cut off")


EDIT = f"edit in.mp4 {MAKE} {TUNE} {SAMPLE}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{EDIT} --out out.avi", "want a name ending in .mp4 or .gif, or a folder"),
        (f"{EDIT} --out none/out.mp4", "in a folder that exists"),
        (f"{EDIT} --out out.png", "want a name ending in .png for a --preview"),
        (f"{EDIT} --out out.mp4 --preview", "want a name ending in .png for a --preview"),
        (f"{EDIT} --out out.mp4 --windows 4,2 --stream 2", "--windows or --stream, got both"),
        (f"{EDIT} --out out.mp4 --windows 4", "want SIZE,OVERLAP, such as 24,8, got '4'"),
        (f"{EDIT} --out out.mp4 --windows 4,4", "an overlap shorter than they are"),
        (f"{EDIT} --out out.mp4 --stream 2 --norm video", "want norm='frame'"),
        (f"{EDIT} --out out.mp4 --controlnet net1", "got 2 ControlNets, 1 controls (canny) and 2"),
        (f"{EDIT} --out out.mp4 --scale 1 --scale 2", "got 1 ControlNets, 1 controls (canny) and"),
        (f"{EDIT} --out out.mp4 --control edges", "or a video of it, got 'edges', which is none"),
        (f"{EDIT} --out out.mp4 --control canny=1", "want thresholds as canny=LOW,HIGH"),
        (f"{EDIT} --out out.mp4 --frames none", "want a number from 1, or all, got 'none'"),
        (f"{EDIT} --out out.mp4 --frames 13", "want 13 frames, 1 apart, from frame 0 on"),
        (f"{EDIT} --out out.mp4 --key 3", "want key frames in 0..2, got (3,)"),
        (f"{EDIT} --out out.mp4 --height 18", "multiples of 4, got 18 x 16: the nearest are 16"),
        (f"{EDIT} --out out.mp4 --controlnet none", "no folder none, and no name on the Hub"),
        (f"{EDIT} --out out.mp4 --base net0", "want model_index.json in"),
        (f"edit in.mp4 {MODELS} {SAMPLE} --out out.mp4", "want --prompt, got none"),
        (f"edit in.mp4 --prompt a {SAMPLE} --out out.mp4", "want --base, got none"),
        (f"edit none.mp4 {MAKE} {SAMPLE} --out out.mp4", "no video at none.mp4"),
        (f"edit in.mp4 {MAKE} --out out.mp4", "Missing option '--edit'"),
        (f"render in.mp4 --adapter net0 {SAMPLE} --out out.mp4", "that tune or edit left, with"),
        (f"tune in.mp4 {MAKE} --out in.mp4", "want --out to be a folder"),
        ("paint in.mp4", "No such command"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line_and_nothing_is_written(here, run, line, message):
    before = sorted(here.rglob("*"))
    code, told = run(line)
    last = told.splitlines()[-1]
    assert code == 2
    assert last.startswith("refused: ")
    assert message in last
    assert sorted(here.rglob("*")) == before


def test_an_adapter_of_other_models_is_refused(tuned, run):
    one = "--controlnet net0 --control canny --scale 1"
    code, told = run(f"render in.mp4 --adapter out.tuned {SAMPLE} {one} --out out.mp4")
    assert code == 2
    assert "does not go with these models" in told


def test_a_gpu_that_is_not_there_is_refused(here, run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, told = run(f"{EDIT} --device cuda --out out.mp4")
    assert code == 2
    assert "want a GPU for --device cuda" in told


def test_the_command_shows_its_help(capsys):
    assert main([]) == 2
    assert "Tune on a video, and edit it." in capsys.readouterr().out
    for command in ("edit", "tune", "render"):
        assert main([command, "--help"]) == 0
        assert "canny 80, depth 500" in capsys.readouterr().out or command == "render"
