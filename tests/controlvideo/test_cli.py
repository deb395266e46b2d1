"""The command line, end to end on a tiny random checkpoint, against the library and the files."""

import errno
import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from PIL import Image

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


def weights(folder):
    return (folder / "adapter" / "diffusion_pytorch_model.safetensors").read_bytes()


def test_an_edit_is_a_film_and_its_adapter_renders_it_again(here, cli):
    assert cli(f"edit in.mp4 {MAKE} {TUNE} {SAMPLE} --out out.mp4")[0] == 0
    with av.open("out.mp4") as film:
        frames = list(film.decode(video=0))
        # 3 of 12 frames, 4 apart, that last as long
        assert film.streams.video[0].average_rate == 24 / 4
    assert [(frame.height, frame.width) for frame in frames] == [(16, 16)] * 3
    log = [json.loads(line) for line in (here / "out.tuned/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2]
    assert json.loads((here / "out.tuned/run.json").read_text())["status"] == "done"
    assert cli(f"render in.mp4 --adapter out.tuned {SAMPLE} --out again.mp4")[0] == 0
    assert (here / "again.mp4").read_bytes() == (here / "out.mp4").read_bytes()
    assert cli(f"render in.mp4 --adapter out.tuned {SAMPLE} --edit a --out other.mp4")[0] == 0
    assert (here / "other.mp4").read_bytes() != (here / "out.mp4").read_bytes()


def test_an_edit_is_what_the_library_makes(here, cli):
    line = f"edit in.mp4 {MAKE} {TUNE} {SAMPLE} --out out --scale 0.5 --norm video --negative red"
    assert cli(f"{line} --key 1 --guidance 3")[0] == 0
    source = read("in.mp4", Pick(3), size=(16, 16)).frames
    pipe, control = load("base", ["net0"]), canny(source)
    recipe = Recipe(steps=2, learning_rate=1e-2, norm="video", keys=(1,))
    losses = tune(pipe, source, "a red", control, recipe, control_scale=0.5)
    log = (here / "out.tuned/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in log] == losses
    pipe.adapter.half().float()  # as it is kept
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


def test_a_full_disk_leaves_the_edit_that_was_there(here, cli, monkeypatch):
    (here / "out.mp4").write_bytes(b"an earlier edit")

    def full(path, content):
        path.write_text("half of")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    code, told = cli(f"edit in.mp4 {MAKE} {TUNE} {ONE_STEP} --out out.mp4")
    assert code == 1
    assert told.splitlines()[-1] == (
        "failed: [Errno 28] No space left on device; it is tuned: --resume edits, and does not "
        "tune again"
    )
    assert (here / "out.mp4").read_bytes() == b"an earlier edit"
    assert not list(here.glob("*.part.*"))
    monkeypatch.undo()
    assert weights(here / "out.tuned")


@pytest.fixture
def tuned(here, cli, request):
    """A folder in which `out.tuned` is an adapter of two ControlNets."""
    make = f"{MAKE} --controlnet net1 --control canny --control canny=50,150 --scale 1 --scale 0.5"
    trained = getattr(request, "param", "both")
    assert cli(f"tune in.mp4 {make} {TUNE} --trained {trained} --out out.tuned")[0] == 0
    return here


without_branches = pytest.mark.parametrize("tuned", ["projections"], indirect=True)


def test_an_adapter_renders_what_else_is_asked(tuned, cli):
    line = f"render in.mp4 --adapter out.tuned {ONE_STEP}"
    assert cli(f"{line} --frames all --windows 6,2 --out windows.gif")[0] == 0
    found = read("windows.gif")
    assert (found.frames.shape, found.rate) == ((12, 3, 16, 16), 24)
    assert cli(f"{line} --height 16 --width 32 --fit pad --dtype bfloat16 --out wide.mp4")[0] == 0
    assert read("wide.mp4").frames.shape == (3, 3, 16, 32)
    code, told = cli(f"{line} --frames 4 --stream 2 --out stream")
    assert code == 2
    assert "tuned with --trained projections for a --stream" in told


@without_branches
def test_a_stream_is_the_whole_without_branches_and_a_preview_its_key_frame(tuned, cli):
    line = f"render in.mp4 --adapter out.tuned/adapter {ONE_STEP}"
    assert cli(f"{line} --stream 1 --out one")[0] == 0
    assert cli(f"{line} --stream 3 --out three")[0] == 0
    assert (read("one").frames - read("three").frames).abs().max() <= 1.01 / 255
    assert cli(f"{line} --frames 4 --stream 2 --out four --rate 12.5")[0] == 0
    assert (read("four").frames.shape, read("four").rate) == ((4, 3, 16, 16), Fraction(25, 2))
    assert cli(f"{line} --stream 3 --preview --out key.png")[0] == 0
    with Image.open("key.png") as image:
        key = np.asarray(image)
    with Image.open("three/00000.png") as image:
        assert np.abs(key.astype(int) - np.asarray(image)).max() <= 1


def test_a_preview_of_an_edit_does_not_tune(here, cli):
    assert cli(f"edit in.mp4 {MAKE} {ONE_STEP} --preview --out key.png")[0] == 0
    assert sorted(path.name for path in here.iterdir()) == [
        "base",
        "in.mp4",
        "key.png",
        "net0",
        "net1",
    ]


def test_a_control_may_be_a_video_of_all_frames_or_of_those_picked(here, cli):
    source = read("in.mp4", size=(16, 16))
    write("all", Video(canny(source.frames), Fraction(24)))
    write("picked", Video(canny(source.frames[::4]), Fraction(6)))
    write("other", Video(canny(source.frames[:5]), Fraction(6)))
    line = f"tune in.mp4 {MAKE} {TUNE}"
    for control in ("canny", "all", "picked"):
        assert cli(f"{line} --control {control} --out by_{control}")[0] == 0
    assert weights(here / "by_all") == weights(here / "by_canny") == weights(here / "by_picked")
    code, told = cli(f"{line} --control other --out out")
    assert code == 2
    assert "want a control video of 12 frames, as " in told
    assert told.endswith("or of the 3 that are picked, got 5 in " + str(here / "other") + "\n")


@pytest.mark.parametrize("several", [False, True])
def test_a_saved_pipeline_is_a_base(here, cli, several):
    pipe = load("base", ["net0"])
    if several:  # of one
        pipe.register_modules(controlnet=MultiControlNetModel([pipe.controlnet]))
    pipe.save_pretrained("saved")
    make = MAKE.replace(MODELS, "--base saved")
    assert cli(f"edit in.mp4 {make} {TUNE} {ONE_STEP} --out out.mp4")[0] == 0
    assert cli(f"edit in.mp4 {MAKE} {TUNE} {ONE_STEP} --out same.mp4")[0] == 0
    assert (here / "out.mp4").read_bytes() == (here / "same.mp4").read_bytes()
    make = f"{MAKE.replace('net0', 'saved/controlnet')}"
    assert cli(f"edit in.mp4 {make} {TUNE} {ONE_STEP} --out other.mp4")[0] == 0
    assert (here / "other.mp4").read_bytes() == (here / "same.mp4").read_bytes()


def test_words_that_the_model_does_not_see_are_named_once_before_the_work(here, cli):
    line = f"edit in.mp4 {MODELS} --frames 2 --device cpu {TUNE} --sample-steps 1"
    long = "red blue red blue red blue disc a"  # of which 6 go between a start and an end
    code, told = cli(f"{line} --prompt 'a Tiger' --edit 'a red tux' --negative '{long}' --out out")
    assert code == 0
    notes = [line for line in told.splitlines() if line.startswith("note: ")]
    assert told.rindex("note: ") < told.index("step ")
    for note, prompt, lost in zip(
        notes,
        ("a Tiger", "a red tux", long),
        ("Tiger", "tux", "disc, a"),
        strict=True,
    ):
        assert note.startswith(f"note: of '{prompt}' the model does not see {lost}: ")


def test_prompts_that_the_model_sees_need_no_note(here, cli):
    code, told = cli(f"edit in.mp4 {MAKE} {ONE_STEP} --preview --out key.png")
    assert code == 0
    assert "note" not in told


def test_a_norm_or_a_preview_that_will_differ_is_noted(tuned, cli):
    line = f"render in.mp4 --adapter out.tuned {ONE_STEP}"
    code, told = cli(f"{line} --norm video --preview --out key.png")
    assert code == 0
    assert "note: the adapter was tuned with norm 'frame', and is used with 'video'" in told
    assert "because of norms over the video, tuned temporal branches" in told
    assert "note: " not in cli(f"{line} --out out.mp4")[1]


def test_kinds_of_control_are_no_paths_and_what_follows_them_is(here, cli):
    for name in ("canny", "100,200", "depth", "weights"):
        (here / name).mkdir()
    line = f"tune in.mp4 {MAKE} {TUNE}"
    assert cli(f"{line} --control canny --out by_kind")[0] == 0
    assert cli(f"{line} --control canny=100,200 --out by_thresholds")[0] == 0
    kept = [
        json.loads((here / f"by_{x}/adapter/edit.json").read_text()) for x in ("kind", "thresholds")
    ]
    assert [each["controls"] for each in kept] == [["canny"], ["canny=100,200"]]
    code, told = cli(f"{line} --control depth=weights --out out")
    assert code == 2
    assert f"no weights for depth at '{here / 'weights'}'" in told
    code, told = cli(f"{line} --control ./canny --out out")
    assert code == 2
    assert f"want images (.png, .jpg, .jpeg, .webp, .bmp, .tif, .tiff, .ppm) in {here}" in told


def test_what_is_read_is_not_written_over(here, cli):
    (here / "link.mp4").symlink_to(here / "in.mp4")
    write("frames", read("in.mp4", size=(16, 16)))
    (here / "its.tuned").symlink_to(here / "frames")
    write("seen", Video(canny(read("frames").frames), Fraction(24)))
    kept = sorted((path, path.stat().st_mtime_ns) for path in here.rglob("*"))
    make = f"{MAKE} --control seen"
    for line, out in (
        (f"edit in.mp4 {MAKE} {ONE_STEP}", "link.mp4"),
        (f"edit link.mp4 {MAKE} {ONE_STEP}", "in.mp4"),
        (f"edit in.mp4 {make} {ONE_STEP}", "seen"),
        (f"edit frames {make} {ONE_STEP}", "frames"),
        (f"edit frames {make} {ONE_STEP}", "its.mp4"),
        (f"tune frames {make}", "frames"),
        (f"tune in.mp4 {make}", "seen"),
    ):
        code, told = cli(f"{line} --out {out}")
        assert code == 2
        place = "its.tuned" if out == "its.mp4" else out
        assert f"want another place to write to than what is read, got {place}" in told
    code, told = cli(f"edit frames {make} {ONE_STEP} --preview --out frames/00012.png")
    assert code == 2
    assert "outside of the frames that are read" in told
    assert sorted((path, path.stat().st_mtime_ns) for path in here.rglob("*")) == kept


EDIT = f"edit in.mp4 {MAKE} {TUNE} {SAMPLE}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{EDIT} --out out.avi", "want a name ending in .mp4 or .gif, or a folder"),
        (f"{EDIT} --out none/out.mp4", "in a folder that exists"),
        (f"{EDIT} --out in.mp4/out.mp4", "in a folder that exists"),
        (f"{EDIT} --out out.gif --rate 51", "want at most 50 frames a second in a gif, got 51"),
        (f"{EDIT} --out out.mp4 --rate inf", "want a finite number, got inf"),
        (f"{EDIT} --out out.mp4 --rate nan", "want a finite number, got nan"),
        (f"{EDIT} --out out.mp4 --rate 1e-9", "want 0.01 to 1000 frames a second"),
        (f"{EDIT} --out out.mp4 --scale nan", "want a finite number, got nan"),
        (f"{EDIT} --out out.mp4 --guidance inf", "want a finite number, got inf"),
        (f"{EDIT} --out out.mp4 --sample-steps 1000", "want at most 999 --sample-steps"),
        (f"{EDIT} --out out.png", "want a name ending in .png for a --preview"),
        (f"{EDIT} --out out.mp4 --preview", "want a name ending in .png for a --preview"),
        (f"{EDIT} --out out.mp4 --windows 4,2 --stream 2", "--windows or --stream, got both"),
        (f"{EDIT} --out out.mp4 --windows 4", "want SIZE,OVERLAP, such as 24,8, got '4'"),
        (f"{EDIT} --out out.mp4 --windows 4,4", "an overlap shorter than they are"),
        (f"{EDIT} --out out.mp4 --stream 2 --norm video", "want norm='frame'"),
        (f"{EDIT} --out out.mp4 --stream 2 --trained both", "got one with both: tune another"),
        (f"{EDIT} --out out.mp4 --windows 2,1 --key 1", "want --key 0 with --windows, whose"),
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
        (f"{EDIT} --edit '' --out out.mp4", "want --edit, what the video is to show, got nothing"),
        ("paint in.mp4", "No such command"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line_and_nothing_is_written(here, cli, line, message):
    before = sorted(here.rglob("*"))
    code, told = cli(line)
    last = told.splitlines()[-1]
    assert code == 2
    assert last.startswith(("refused: ", "Error: "))  # the second with click's usage above it
    assert message in last
    assert sorted(here.rglob("*")) == before


def test_without_its_library_a_film_is_refused_and_a_folder_is_written(here, cli, monkeypatch):
    write("frames", read("in.mp4", size=(16, 16)))
    monkeypatch.setitem(sys.modules, "av", None)
    line = f"edit frames {MAKE} {TUNE} {ONE_STEP}"
    code, told = cli(f"{line} --out out.mp4")
    assert code == 2
    assert "want PyAV for mp4 and gif" in told
    assert not (here / "out.tuned").exists()
    assert cli(f"{line} --out out")[0] == 0


def test_an_adapter_of_other_models_is_refused(tuned, cli):
    one = "--controlnet net0 --control canny --scale 1"
    code, told = cli(f"render in.mp4 --adapter out.tuned {SAMPLE} {one} --out out.mp4")
    assert code == 2
    assert "does not go with these models" in told


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        (f"edit in.mp4 {MAKE} {ONE_STEP} --preview", "once it is tuned, --resume with --dtype"),
        (f"render in.mp4 --adapter out.tuned {ONE_STEP} --preview", "--windows, or --dtype"),
    ],
)
def test_where_sampling_is_short_of_memory_there_is_advice(tuned, cli, monkeypatch, line, advice):
    def short(*_, **__):
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(ControlVideoPipeline, "__call__", short)
    code, told = cli(f"{line} --out out.png")
    assert code == 1
    assert told.splitlines()[-1].startswith("failed: no more: take fewer --frames")
    assert told.endswith(f"{advice} bfloat16\n")


def test_a_gpu_that_is_not_there_is_refused(here, cli, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, told = cli(f"{EDIT} --device cuda --out out.mp4")
    assert code == 2
    assert "want a GPU for --device cuda" in told


def test_the_command_shows_its_help(capsys):
    assert main([]) == 2
    assert "Tune on a video, and edit it." in capsys.readouterr().err
    for command in ("edit", "tune", "render"):
        assert main([command, "--help"]) == 0
        assert "canny 80, depth 500" in capsys.readouterr().out or command == "render"
