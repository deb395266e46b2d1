"""What the command is asked: how it is read, what is refused, and what is told of it."""

import json
import shlex

import pytest

from core.vrpo.llada import save_llada
from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.train import main

CONFIG = Config(
    vocab_size=13, d_model=8, n_layers=1, n_heads=2, mlp_hidden=12, mask_id=12, max_length=24
)
FAST = "--model model --data prefs.jsonl --batch 3 --lr 1e-2 --warmup 1 --device cpu"
GOOD = {"prompt": [1], "chosen": [2, 3, 5, 6], "rejected": [4, 3]}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to be in, with a model and preferences."""
    save_llada(MaskedDiffusionLM.initialised(CONFIG, 1), tmp_path / "model")
    (tmp_path / "prefs.jsonl").write_text(3 * (json.dumps(GOOD) + "\n"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(more, out="out"):
    return main(shlex.split(f"{FAST} --out {out} {more}"))


def recipe():
    with open("out/run.json") as file:
        return json.load(file)["recipe"]


def first_line(out="out"):
    with open(f"{out}/log.jsonl") as file:
        return json.loads(file.readline())


@pytest.mark.parametrize(("more", "known"), [("", False), ("--sets 2", True)])
def test_two_sets_of_systematic_counts_tell_jackknife_and_variance(here, more, known):
    assert train(f"--steps 1 --n-t 4 --counts systematic {more}") == 0
    assert recipe()["design"]["sets"] == (2 if known else 1)
    line = first_line()
    assert (line["jackknife"] is not None) == (line["score_variance"] is not None) == known


def test_a_proposal_reaches_the_masks(here):
    assert train("--steps 1 --n-t 4 --seed 3") == 0
    assert train("--steps 1 --n-t 4 --seed 3 --proposal 1,1,1", out="flat") == 0
    assert train("--steps 1 --n-t 4 --seed 3 --proposal 9,0.5,1", out="steep") == 0
    plain, flat, steep = (first_line(out)["supervised"] for out in ("out", "flat", "steep"))
    # equal bins are no proposal at all, to rounding
    assert flat == pytest.approx(plain, rel=1e-6)
    assert abs(steep - plain) > 1e-3
    with open("steep/run.json") as file:
        assert json.load(file)["recipe"]["design"]["proposal"] == [9, 0.5, 1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--sets 2", "want --sets with --counts systematic"),
        ("--counts systematic --sets 0", "want sets >= 1"),
        ("--counts systematic --sets 3", "want n_t that splits into 3 equal sets"),
        ("--counts systematic --sets 1 --cross-fitted", "wants two independent halves"),
        ("--proposal 1,0", "want a proposal of positive numbers"),
        ("--proposal 1,nan", "want a proposal of positive numbers"),
        ("--lora-alpha 4", "want --lora-alpha with --lora, got --lora-alpha 4.0 without"),
        ("--lora 2 --lora-alpha 0", "want --lora-alpha > 0, got 0.0"),
        ("--lora 2 --lora-alpha nan", "want --lora-alpha > 0, got nan"),
        ("--eos 13", "want --eos among the model's 13 tokens"),
        ("--eos 12", "and not the mask token (12), got 12"),
        ("--out prefs.jsonl/run", "got prefs.jsonl/run: "),
        ("--out model/config.json/a/b", "model/config.json is a file"),
        ("--data same.jsonl", "same.jsonl:1: want two responses that differ"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line_with_nothing_written(here, capsys, more, said):
    (here / "same.jsonl").write_text(json.dumps({**GOOD, "rejected": GOOD["chosen"]}))
    before = sorted(here.rglob("*"))
    assert train(f"--steps 1 {more}") == 2
    told = capsys.readouterr().err
    assert told.startswith("refused: ")
    assert said in told
    assert told.count("\n") == 1
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--proposal 1,a", "want numbers and commas, such as 3,2,1, got '1,a'"),
        ("--at-once 0", "want a number from 1, or all, got '0'"),
        ("--at-once none", "want a number from 1, or all, got 'none'"),
        ("--eos end", "want tokenizer, none, or a token's number, got 'end'"),
    ],
)
def test_what_is_no_value_of_an_option_is_said_with_the_usage(here, capsys, more, said):
    assert train(f"--steps 1 {more}") == 2
    usage, *_, last = capsys.readouterr().err.splitlines()
    assert usage == "Usage: python -m core.vrpo.train [OPTIONS]"
    assert last.startswith("Error: Invalid value for '--")
    assert last.endswith(said)


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_loaded(here, capsys):
    assert train("--model none --data none", out="prefs.jsonl/run") == 2
    assert "want --out to be a folder" in capsys.readouterr().err


@pytest.mark.parametrize(("warmup", "told"), [(1, False), (4, False), (5, True)])
def test_a_warmup_that_never_ends_is_told(here, capsys, warmup, told):
    assert train(f"--steps 4 --n-t 1 --warmup {warmup} --lr 0.01") == 0
    said = capsys.readouterr().err
    note = "note: 4 step(s) end within --warmup 5: the learning rate gets to 0.008, never to 0.01"
    assert (note in said) == told
    assert ("note:" in said) == told
    with open("out/log.jsonl") as log:
        rates = [json.loads(line)["learning_rate"] for line in log]
    assert max(rates) == pytest.approx(0.008 if told else 0.01)
    assert train(f"--steps 4 --n-t 1 --warmup {warmup} --lr 0.01 --resume") == 0
    assert "note:" not in capsys.readouterr().err  # that was done


@pytest.mark.parametrize(
    "said",
    [
        "paper's timesteps",
        "2 keep its halves independent",
        "of a bfloat16 one the adapters are float32",
        "on a GPU if there is one",
        "repeat its other options",
    ],
)
def test_help_explains(capsys, said):
    assert main(["--help"]) == 0
    assert said in " ".join(capsys.readouterr().out.split())


def test_what_no_utf8_holds_is_left_out_and_listed(here):
    odd = json.dumps({**GOOD, "\ud800": 1})
    (here / "data").mkdir()
    (here / "data" / "odd\udc80.jsonl").write_text(json.dumps(GOOD) + "\n" + odd)
    assert train("--steps 1 --n-t 1 --skip-bad --data data") == 0
    (line,) = (here / "out" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["where"] == "odd\udc80.jsonl:2"
