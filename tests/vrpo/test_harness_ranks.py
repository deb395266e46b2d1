"""Two processes share an evaluation, and find what one finds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
import torch
from datasets import Dataset
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from core.vrpo.harness import MaskedDiffusionHarness
from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.sampling import Sampling

store, rank, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if world > 1:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world
    )


class Letters:
    def encode(self, text):
        return [ord(letter) - 97 for letter in text]

    def decode(self, tokens):
        return "".join(chr(97 + token) for token in tokens)


size = Config(27, 16, 2, 2, 24, mask_id=26, max_length=32)
model = MaskedDiffusionLM.initialised(size, 0).double()
lm = MaskedDiffusionHarness(model, Letters(), n=15, sampling=Sampling(8, 4, 4))
docs = [{"question": q, "options": ["abc", "dz", "k"], "answer": a}
        for q, a in [("abc", 0), ("p", 1), ("acafe", 2), ("xyz", 1), ("no", 0)]]
same = {"custom_dataset": lambda **_: {"test": Dataset.from_list(docs)}, "test_split": "test",
        "doc_to_text": "{{question}}", "target_delimiter": ""}
choice = {"task": "choice", "output_type": "multiple_choice", "doc_to_choice": "options",
          "doc_to_target": "answer", "metric_list": [{"metric": "acc"}], **same}
text = {"task": "text", "output_type": "generate_until", "doc_to_target": "question",
        "generation_kwargs": {"until": ["zz"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}], **same}
found = simple_evaluate(lm, tasks=[choice, text], bootstrap_iters=0, verbosity="ERROR",
                        task_manager=TaskManager(include_defaults=False))
if rank == 0:
    rows = {task: {s["doc_id"]: s["resps"] for s in found["samples"][task]}
            for task in ("choice", "text")}
    with open(f"{store}.json", "w") as file:
        json.dump([rows, found["results"]["choice"]["acc,none"]], file)
else:
    assert found is None
if world > 1:
    torch.distributed.destroy_process_group()
"""


def run(folder: Path, world: int):
    """What the first of `world` processes finds."""
    store, path = folder / f"store{world}", folder / "program.py"
    path.write_text(PROGRAM)
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, path, store, str(rank), str(world)],
            env=quiet,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    for process in processes:
        _, told = process.communicate(timeout=300)
        assert process.returncode == 0, told
    return json.loads(Path(f"{store}.json").read_text())


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path):
    """Five questions on two ranks: one of them pads. Other packs change the rounding only."""
    (one, accuracy), (two, other) = run(tmp_path, 1), run(tmp_path, 2)
    assert accuracy == other
    first = [{doc: texts[0][0] for doc, texts in rows["text"].items()} for rows in (one, two)]
    assert first[0] == first[1]  # what pads is answered twice
    assert len(one["choice"]) == len(two["choice"]) == 5
    for doc, options in one["choice"].items():
        pairs = zip(options, two["choice"][doc], strict=True)
        assert all(abs(a[0][0] - b[0][0]) < 1e-9 and a[0][1] == b[0][1] for a, b in pairs)
