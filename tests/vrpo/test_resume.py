"""What is in a run's folder stays what it was: nothing of others is lost, no other run gone on."""

import dataclasses
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from core.train.checkpoint import checkpoints
from core.vrpo.llada import save_llada
from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.train import main
from core.vrpo.trainer import Trainer

CONFIG = Config(
    vocab_size=13, d_model=8, n_layers=1, n_heads=2, mlp_hidden=12, mask_id=12, max_length=24
)
FAST = "--batch 3 --n-t 2 --lr 1e-2 --warmup 1 --device cpu"
ROWS = [{"prompt": [1], "chosen": [2, 3], "rejected": [4]}] * 3


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with models and preferences; read only."""
    folder = tmp_path_factory.mktemp("inputs")
    sizes = {
        "model": {},
        "other": {},
        "short": {"max_length": 2},
        "masked": {"mask_id": 11},
        "wide": {"vocab_size": 14},
    }
    for seed, (name, size) in enumerate(sizes.items()):
        model = MaskedDiffusionLM.initialised(dataclasses.replace(CONFIG, **size), seed)
        save_llada(model, folder / name)
    write(folder / "prefs.jsonl", *ROWS)
    write(folder / "others.jsonl", *ROWS[1:], {**ROWS[0], "prompt": [5]})
    return folder


@pytest.fixture
def here(inputs, tmp_path, monkeypatch):
    """A folder to be in, with links to the inputs."""
    for path in inputs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(more="", base="--model model --data prefs.jsonl --out out"):
    return main(shlex.split(f"{base} {FAST} {more}"))


def contents(folder):
    """Every file of a folder, with what it holds."""
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refused(capsys, more, said, **how):
    capsys.readouterr()
    assert train(more, **how) == 2
    told = capsys.readouterr().err
    assert told.startswith("refused: ")
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("name", ["log.jsonl", "skipped.jsonl"])
@pytest.mark.parametrize("more", ["", "--resume"])
def test_a_file_of_another_origin_is_not_written_over(here, capsys, name, more):
    write(here / "out" / name, {"mine": 1})
    before = contents(here)
    refused(capsys, f"--steps 1 {more}", f"out holds {name} and no run that this is of")
    assert contents(here) == before


def test_only_what_a_killed_run_left_is_removed(here):
    out = here / "out"
    dead = f"part.{999_999_999}"
    ours = [f"run.json.{dead}", f"log.jsonl.{dead}", f"checkpoints/step-00000001.pt.{dead}"]
    mine = ["a.part.txt", f"book.{dead}", "run.json.part.old", f"checkpoints/step-1.pt.{dead}"]
    for name in (*ours, *mine):
        write(out / name, 1)
    (out / "x.part.dir").mkdir()
    (out / f"model.{dead}").mkdir()
    (out / "model.part.mine").mkdir()
    assert train("--steps 1") == 0
    assert not any((out / name).exists() for name in (*ours, f"model.{dead}"))
    assert all((out / name).exists() for name in (*mine, "x.part.dir", "model.part.mine"))


@pytest.mark.parametrize(
    "line", ['{"epoch": 1}', "nonsense", "[1]", '{"step": ' + "1" * 5000 + "}"]
)
def test_a_log_that_is_none_is_refused_by_file_and_line(here, capsys, line):
    assert train("--steps 1") == 0
    path = here / "out" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "running"}))
    with (here / "out" / "log.jsonl").open("a") as log:
        log.write(line + "\n")
    before = contents(here)
    refused(capsys, "--steps 1 --resume", "out/log.jsonl:2 is no line of a run's log")
    assert contents(here) == before


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"status": "done"}', '{"command": "core.vrpo.train"}']
)
def test_a_record_of_something_else_is_refused(here, capsys, content):
    write(here / "out" / "run.json")
    (here / "out" / "run.json").write_text(content)
    refused(capsys, "--steps 1 --resume", "out/run.json is not what this command writes")


def test_a_result_of_something_else_is_refused_before_training(here, capsys):
    shutil.copytree(here / "other", here / "out" / "model")
    before = contents(here)
    refused(capsys, "--steps 2 --resume", "out holds model and no run that this is of")
    assert contents(here) == before
    assert train("--steps 2 --save-every 1", base="--model model --data prefs.jsonl --out run") == 0
    # a run that was stopped after its first step, and a result from elsewhere
    checkpoints(here / "run" / "checkpoints")[-1].unlink()
    path = here / "run" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "running"}))
    before = contents(here)
    base = "--model model --data prefs.jsonl --out run --resume --save-every 1"
    refused(capsys, "--steps 2", "run/model is there, and the run has done 1 of 2", base=base)
    assert contents(here) == before


OTHERS = [
    ("--beta 0.3", "recipe.beta is 0.2, here it is 0.3"),
    ("--data others.jsonl", "data is"),
    ("--model other", "model is"),
    ("--reference other", "reference is"),
    ("--steps 3", "recipe.steps is 2, here it is 3"),
    ("--dtype float64", "dtype is"),
]


@pytest.mark.parametrize("kept", ["checkpoints", "run.json"])
@pytest.mark.parametrize(("more", "said"), OTHERS)
def test_another_request_does_not_go_on_with_a_run_by_checkpoint_or_record(
    here, capsys, kept, more, said
):
    assert train("--steps 2 --save-every 1") == 0
    for name in {"checkpoints", "run.json"} - {kept}:
        path = here / "out" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = contents(here)
    refused(capsys, f"--steps 2 --resume {more}", f"is of another run: its {said}")
    assert contents(here) == before


@pytest.mark.parametrize("kept", ["checkpoints", "run.json"])
def test_other_adapters_do_not_go_on_with_a_run(here, capsys, kept):
    pytest.importorskip("peft")
    assert train("--steps 1 --lora 2") == 0
    for name in {"checkpoints", "run.json"} - {kept}:
        path = here / "out" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(capsys, "--steps 1 --resume --lora 3", "its lora.rank is 2, here it is 3")
    said = "its lora.alpha is 4, here it is 5.0"
    refused(capsys, "--steps 1 --resume --lora 2 --lora-alpha 5", said)
    refused(capsys, "--steps 1 --resume", "its lora.rank is 2, here it is 0")
    assert train("--steps 1 --resume --lora 2 --lora-alpha 4") == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("masked", "want a reference of the model's mask_id, 12, got 11"),
        ("wide", "want a reference of the model's vocab_size, 13, got 14"),
        ("short", "reads the longest pair, 3 tokens, got one that reads 2 (the model reads 24)"),
    ],
)
def test_a_reference_that_reads_otherwise_is_refused(here, capsys, name, said):
    before = contents(here)
    refused(capsys, f"--steps 1 --reference {name}", said)
    base = "--model model --data prefs.jsonl --precompute-reference scores"
    refused(capsys, f"--steps 1 --reference {name}", said, base=base)
    assert contents(here) == before


def test_precomputed_scores_know_the_mask_token_they_are_of(here, capsys):
    assert train("--precompute-reference scores", base="--model model --data prefs.jsonl") == 0
    shutil.copytree(here / "model", here / "moved")
    path = here / "moved" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "mask_token_id": 11}))
    base = "--model moved --data prefs.jsonl --out out --reference-scores scores"
    refused(capsys, "", "scores is of another run: its reference is", base=base)


def told(out):
    record = json.loads((out / "run.json").read_text())
    return record["status"], record["done"], record["reason"]


@pytest.mark.parametrize(
    ("error", "code", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted", "interrupted: --resume goes on"),
        (ValueError("no\nnumber"), 1, "failed", "failed: no"),
        (
            OSError(28, "No space left"),
            1,
            "failed",
            "failed: [Errno 28] No space left: mend that, and --resume goes on",
        ),
    ],
)
def test_a_run_that_stops_says_how_and_goes_on(
    here, capsys, monkeypatch, error, code, status, said
):
    step = Trainer.step

    def stops(self):
        if self.done == 2:
            raise error
        return step(self)

    monkeypatch.setattr(Trainer, "step", stops)
    assert train("--steps 3 --save-every 1") == code
    assert said in capsys.readouterr().err
    reason = (str(error) or "KeyboardInterrupt").splitlines()[0]
    assert told(here / "out") == (status, 2, reason)
    monkeypatch.setattr(Trainer, "step", step)
    assert train("--steps 3 --save-every 1 --resume") == 0
    assert told(here / "out") == ("done", 3, None)


def test_a_run_whose_scores_are_no_numbers_has_failed(here):
    assert train("--steps 9 --lr 1e30") == 1
    status, _, reason = told(here / "out")
    assert status == "failed"
    assert reason.startswith("want ")


def test_a_sigterm_interrupts_a_run_that_can_go_on(here):
    asked = f"--model model --data prefs.jsonl --out out {FAST} --save-every 1 --steps"
    command = [sys.executable, "-m", "core.vrpo.train", *shlex.split(asked)]
    process = subprocess.Popen([*command, "5000"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not checkpoints(here / "out" / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted: --resume goes on from the last checkpoint"
    status, done, reason = told(here / "out")
    assert (status, reason) == ("interrupted", "KeyboardInterrupt")
    assert 0 < done < 5000
