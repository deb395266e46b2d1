"""The command: what it leaves behind, what it refuses, and that a kill costs nothing."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core.train.checkpoint import checkpoints
from core.vrpo.llada import load_llada, save_llada
from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.train import main

CONFIG = Config(
    vocab_size=13, d_model=16, n_layers=1, n_heads=2, mlp_hidden=24, mask_id=12, max_length=24
)
FAST = "--batch 3 --n-t 2 --lr 1e-2 --warmup 2 --device cpu"


def rows(count):
    rng = np.random.default_rng(0)

    def tokens(low):
        return rng.integers(0, 12, rng.integers(low, 8)).tolist()

    return [{"prompt": tokens(0), "chosen": tokens(1), "rejected": tokens(1)} for _ in range(count)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a model and preferences; read only."""
    folder = tmp_path_factory.mktemp("inputs")
    save_llada(MaskedDiffusionLM.initialised(CONFIG, 1), folder / "model")
    save_llada(MaskedDiffusionLM.initialised(CONFIG, 2), folder / "other")
    (folder / "prefs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(7)))
    return folder


@pytest.fixture
def here(inputs, tmp_path, monkeypatch):
    """A folder to be in, with links to the inputs."""
    for path in inputs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(more="", base="--model model --data prefs.jsonl --out out"):
    return main(shlex.split(f"{base} {FAST} {more}"))


def weights(folder):
    model = load_llada(folder)
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


def log(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("seconds") >= 0
    return lines


def everything_in(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_a_run_leaves_model_log_checkpoints_and_what_it_was(here, capsys):
    assert train("--epochs 2 --save-every 2 --keep 2") == 0
    told = capsys.readouterr()
    assert told.out == "done: out/model\n"
    assert "step 6 of 6, loss" in told.err
    out = here / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoints",
        "log.jsonl",
        "model",
        "run.json",
    ]
    assert [p.name for p in checkpoints(out / "checkpoints")] == [
        "step-00000004.pt",
        "step-00000006.pt",
    ]
    lines = log(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in lines] == [0, 0, 0, 1, 1, 1]
    assert lines[0]["loss"] == pytest.approx(np.log(2))  # the policy is its reference
    keys = {"loss", "jackknife", "supervised", "accuracy", "score", "score_variance"}
    assert keys | {"gradient_norm", "learning_rate"} <= set(lines[0])
    run = json.loads((out / "run.json").read_text())
    assert (run["status"], run["steps"], run["done"], run["pairs"]) == ("done", 6, 6, 7)
    assert run["recipe"]["beta"] == 0.2
    assert run["provenance"]["packages"]["torch"] == torch.__version__
    assert not torch.equal(weights(out / "model"), weights(here / "model"))


def test_one_epoch_of_the_papers_recipe_is_the_default(here):
    assert main(shlex.split("--model model --data prefs.jsonl --out out --device cpu")) == 0
    run = json.loads((here / "out" / "run.json").read_text())
    recipe, steps = run["recipe"], run["steps"]
    assert steps == 1
    assert recipe["design"]["n_t"] == 8
    assert recipe["design"]["n_y"] == 1
    assert recipe["design"]["shared"] is True
    found = {key: recipe[key] for key in ("batch", "beta", "supervised", "learning_rate", "warmup")}
    assert found == {
        "batch": 64,
        "beta": 0.2,
        "supervised": 0.05,
        "learning_rate": 5e-7,
        "warmup": 15,
    }
    assert (recipe["betas"], recipe["weight_decay"]) == ([0.9, 0.95], 0.01)


def test_precomputed_scores_give_the_same_weights_without_a_second_model(here, capsys):
    base = "--model model --data prefs.jsonl"
    assert train("--steps 4 --precompute-reference scores", base=base) == 0
    assert capsys.readouterr().out == "done: scores\n"
    assert train("--steps 4") == 0
    scored = f"{base} --reference-scores scores"
    assert train("--steps 4", base=f"{scored} --out scored") == 0
    assert torch.equal(weights(here / "scored" / "model"), weights(here / "out" / "model"))
    assert train("--steps 4 --seed 1", base=f"{scored} --out third") == 2
    assert "scores is of another run: its seed is 0, here it is 1" in capsys.readouterr().err
    assert train("--steps 4 --reference other", base=f"{scored} --out third") == 2
    assert "its reference is" in capsys.readouterr().err
    assert train("--steps 9", base=f"{scored} --out third") == 2
    assert "holds 2 epoch(s), the training has 3" in capsys.readouterr().err
    assert not (here / "third").exists()
    assert train("--steps 4 --precompute-reference scores", base=base) == 2
    assert "scores exists" in capsys.readouterr().err


def test_another_reference_is_another_loss(here):
    assert train("--steps 1 --reference other") == 0
    assert abs(log(here / "out")[0]["loss"] - np.log(2)) > 1e-4


@pytest.mark.parametrize("more", ["--at-once all", "--at-once 4", "--checkpointing"])
def test_memory_is_traded_for_time_and_the_result_stays(here, more):
    assert train("--steps 2 --dtype float64 --n-t 4") == 0
    base = "--model model --data prefs.jsonl --out other-way"
    assert train(f"--steps 2 --dtype float64 --n-t 4 {more}", base=base) == 0
    one, other = weights(here / "out" / "model"), weights(here / "other-way" / "model")
    # Adam's first steps divide a gradient by its size: rounding at 1e-16 over gradients at 1e-6
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("more", "design", "gradient"),
    [
        ("--n-t 2 --n-y 3", {"n_t": 2, "n_y": 3}, "plain"),
        ("--counts systematic", {"counts": "systematic", "sets": 1}, "plain"),
        ("--not-shared --across-pair", {"shared": False, "across_pair": True}, "plain"),
        ("--cross-fitted", {"sets": 1}, "cross-fitted"),
        ("--cross-fitted --counts systematic", {"sets": 2}, "cross-fitted"),
    ],
)
def test_the_design_is_what_was_asked_for(here, more, design, gradient):
    assert train(f"--steps 2 {more}") == 0
    recipe = json.loads((here / "out" / "run.json").read_text())["recipe"]
    assert design.items() <= recipe["design"].items()
    assert recipe["gradient"] == gradient
    assert len(log(here / "out")) == 2


def test_conversations_are_read_with_the_tokenizer_beside_the_model(here):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = {word: i for i, word in enumerate(shlex.split("two is four five user assistant : end"))}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="is"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="end")
    fast.chat_template = (
        "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant : {% endif %}"
    )
    talks = here / "talks"
    save_llada(MaskedDiffusionLM.initialised(CONFIG, 1), talks)
    fast.save_pretrained(talks)
    prompt = [{"role": "user", "content": "two two is"}]
    answers = [[*prompt, {"role": "assistant", "content": x}] for x in ("four", "five")]
    row = dict(zip(("chosen", "rejected"), answers, strict=True))
    (here / "talks.jsonl").write_text(json.dumps(row))
    assert train("--steps 1", base="--model talks --data talks.jsonl --out out") == 0
    assert (here / "out" / "model" / "tokenizer.json").exists()


def test_adapters_are_trained_and_the_reference_is_without_them(here):
    pytest.importorskip("peft")
    assert train("--steps 4 --lora 2 --save-every 3") == 0
    out = here / "out"
    assert log(out)[0]["score"] == 0.0
    assert log(out)[-1]["score"] != 0.0
    adapters = load_file(out / "adapters" / "adapter_model.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in adapters.items() if "lora_B" in name)
    kept = torch.load(checkpoints(out / "checkpoints")[-1], weights_only=True)
    assert all("lora" in name for name in kept["model"])


@pytest.mark.parametrize("more", ["", "--lora 2"])
def test_a_resumed_run_is_the_same_to_the_bit_in_process(here, more, monkeypatch):
    if more:
        pytest.importorskip("peft")
    assert train(f"--steps 5 {more}") == 0
    base = "--model model --data prefs.jsonl --out again"
    from core.vrpo.trainer import Trainer

    step = Trainer.step

    def stops(self):
        if self.done == 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "step", stops)
    assert train(f"--steps 5 --save-every 2 {more}", base=base) == 130
    monkeypatch.setattr(Trainer, "step", step)
    assert [line["step"] for line in log(here / "again")] == [1, 2, 3]
    with (here / "again" / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "los')  # a kill cuts a line
    assert train(f"--steps 5 --save-every 2 --resume {more}", base=base) == 0
    assert log(here / "again") == log(here / "out")
    name = "adapters/adapter_model.safetensors" if more else "model/model.safetensors"
    straight, resumed = (load_file(here / folder / name) for folder in ("out", "again"))
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_resume_begins_where_there_is_nothing_and_leaves_alone_what_is_done(here, capsys):
    assert train("--steps 2 --resume") == 0
    before = {path: path.stat().st_mtime_ns for path in (here / "out").rglob("*")}
    capsys.readouterr()
    assert train("--steps 2 --resume") == 0
    assert capsys.readouterr().out == "done: out/model\n"
    assert {path: path.stat().st_mtime_ns for path in (here / "out").rglob("*")} == before


def test_a_run_killed_between_its_result_and_its_last_word_says_it_at_the_next_start(here):
    assert train("--steps 2") == 0
    path, before = here / "out" / "run.json", weights(here / "out" / "model")
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "running"}))
    assert train("--steps 2 --resume") == 0
    assert json.loads(path.read_text())["status"] == "done"
    assert torch.equal(weights(here / "out" / "model"), before)
    assert [line["step"] for line in log(here / "out")] == [1, 2]


def test_a_folder_that_holds_a_run_is_refused_unless_it_is_that_run(here, capsys):
    assert train("--steps 2 --save-every 1") == 0
    before = everything_in(here)
    capsys.readouterr()
    assert train("--steps 2") == 2
    assert "refused: out holds a run already: go on with it (--resume)" in capsys.readouterr().err
    assert train("--steps 2 --resume --beta 0.3") == 2
    assert "is of another run: its recipe.beta is 0.2, here it is 0.3" in capsys.readouterr().err
    assert train("--steps 2 --resume --reference other") == 2
    assert "is of another run: its reference is" in capsys.readouterr().err
    newest = checkpoints(here / "out" / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:-50])
    assert train("--steps 2 --resume") == 2
    assert "step-00000002.pt is broken, or no checkpoint: remove it" in capsys.readouterr().err
    assert everything_in(here) == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--n-t 0", "want n_t >= 1, a whole number, got 0"),
        ("--n-y 0", "want n_y >= 1"),
        ("--batch 0", "want batch >= 1"),
        ("--steps 0", "want steps >= 1"),
        ("--epochs 0", "want --epochs >= 1, got 0"),
        ("--steps 1 --epochs 1", "want --steps or --epochs, got both"),
        ("--beta 0", "want beta > 0"),
        ("--beta nan", "want beta > 0"),
        ("--n-t 3 --cross-fitted", "wants two independent halves"),
        ("--save-every 0", "want --save-every >= 1"),
        ("--max-length 0", "want --max-length >= 1"),
        ("--lora 0", "want --lora >= 1"),
        ("--lora 2 --shard fsdp2", "want --shard ddp with --lora"),
        ("--dtype bfloat16 --shard ddp", "want --shard fsdp2 with --dtype bfloat16"),
        ("--max-length 3", "too long: want at most 3 tokens"),
        ("--model none", "none/config.json"),
        ("--data none", "found nothing at none"),
        ("--reference none", "none"),
        ("--reference-scores none", "found nothing at none"),
        ("--tokenizer none --data words.jsonl", "found nothing at none"),
        ("--data words.jsonl", "model holds no tokenizer"),
        ("--data bad.jsonl", "refused: bad.jsonl:2: field 'chosen': want no mask token (12)"),
        ("--out prefs.jsonl", "want --out to be a folder"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line_with_nothing_written(here, capsys, more, said):
    words = {"prompt": "a", "chosen": "b", "rejected": "c"}
    (here / "words.jsonl").write_text(json.dumps(words))
    (here / "bad.jsonl").write_text(
        json.dumps(rows(1)[0]) + '\n{"prompt": [1], "chosen": [12], "rejected": [2]}\n'
    )
    before = everything_in(here)
    assert train(more) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.startswith("refused: ")
    assert told.count("\n") == 1
    assert everything_in(here) == before


def test_bad_lines_are_left_out_counted_and_listed(here, capsys):
    bad = ["{", json.dumps({"prompt": [1], "chosen": []}), json.dumps({"chosen": [1]})]
    lines = [json.dumps(row) for row in rows(3)]
    (here / "mixed.jsonl").write_text("\n".join([lines[0], *bad, *lines[1:]]))
    assert train("--steps 1 --skip-bad --data mixed.jsonl") == 0
    told = capsys.readouterr().err
    assert "left out 3 of 6:" in told
    for line, why in ((2, "broken line"), (3, "'rejected' is missing"), (4, "'rejected' is miss")):
        assert f"mixed.jsonl:{line}: " in told
        assert why in told
    listed = (here / "out" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["where"] for line in listed] == [f"mixed.jsonl:{i}" for i in (2, 3, 4)]
    assert json.loads((here / "out" / "run.json").read_text())["skipped"] == 3


def test_scores_that_are_no_numbers_end_the_run_with_the_last_checkpoint_whole(here, capsys):
    # a learning rate that ruins the model in its first steps
    assert train("--steps 9 --lr 1e30 --save-every 1") == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("failed: want ")
    assert "nan or infinity" in told or "finite gradient" in told
    assert not (here / "out" / "model").exists()
    for path in checkpoints(here / "out" / "checkpoints"):
        torch.load(path, weights_only=True)


def test_bfloat16_keeps_float32_weights(here):
    assert train("--steps 2 --lr 1e-6 --dtype bfloat16") == 0
    start, end = weights(here / "model"), weights(here / "out" / "model")
    assert end.dtype == torch.float32
    moved = (end - start).abs()
    # a step of Adam moves a weight by its learning rate: far below what bfloat16 resolves
    assert 0.3e-6 < moved.median() < 3e-6
    assert log(here / "out")[0]["score"] == 0.0


def test_help_names_the_paper_and_every_default(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "2505.19223" in told
    assert "[default: 5e-07]" in told


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_bit(here):
    def command(out: str) -> list[str]:
        asked = f"{FAST} --model model --data prefs.jsonl --steps 60 --save-every 3 --out {out}"
        return [sys.executable, "-m", "core.vrpo.train", *shlex.split(asked)]

    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # sums differ with the number of threads
    process = subprocess.Popen(command("killed"), env=alone, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not checkpoints(here / "killed" / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    (newest,) = checkpoints(here / "killed" / "checkpoints")[-1:]
    assert 0 < int(newest.stem.removeprefix("step-")) < 60
    assert json.loads((here / "killed" / "run.json").read_text())["status"] == "running"
    subprocess.run([*command("killed"), "--resume"], env=alone, check=True)
    subprocess.run(command("out"), env=alone, check=True)
    assert torch.equal(weights(here / "killed" / "model"), weights(here / "out" / "model"))
    assert log(here / "killed") == log(here / "out")
