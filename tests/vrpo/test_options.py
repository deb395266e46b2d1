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
        ("--proposal 1,a", "want numbers and commas, such as 3,2,1, got '1,a'"),
        ("--proposal 1,0", "want a proposal of positive numbers"),
        ("--proposal 1,nan", "want a proposal of positive numbers"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line_with_nothing_written(here, capsys, more, said):
    before = sorted(here.rglob("*"))
    assert train(f"--steps 1 {more}") == 2
    told = capsys.readouterr().err
    assert told.startswith("refused: ")
    assert said in told
    assert told.count("\n") == 1
    assert sorted(here.rglob("*")) == before
