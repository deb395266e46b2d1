"""Two gloo ranks train as one process: the same masks to the bit, the same gradient to rounding."""

import json
import os
import shlex
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from core.train.distributed import SINGLE, World, inner, shard
from core.vrpo.draws import Design
from core.vrpo.llada import load_llada, save_llada
from core.vrpo.lora import with_lora
from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.preferences import Preference
from core.vrpo.reference import AdaptersOff, Live
from core.vrpo.scoring import Chunks
from core.vrpo.trainer import Recipe, Trainer

CONFIG = Config(
    vocab_size=13, d_model=16, n_layers=2, n_heads=2, mlp_hidden=24, mask_id=12, max_length=24
)
# five pairs in batches of three: the ranks have two and one, and then one and none
RECIPE = Recipe(steps=4, batch=3, design=Design(n_t=2), learning_rate=1e-3, warmup=1, at_once=3)
BATCHES = (0, 1)
KINDS = (("all", "ddp"), ("all", "fsdp2"), ("adapters", "ddp"))


def tiny(seed):
    return MaskedDiffusionLM.initialised(CONFIG, seed)


def some_pairs(count):
    rng = np.random.default_rng(0)

    def tokens(low):
        return torch.from_numpy(rng.integers(0, 12, rng.integers(low, 8)))

    return [Preference(tokens(0), tokens(2), tokens(2), i) for i in range(count)]


def adapted():
    """A policy with adapters that do something."""
    model, generator = with_lora(tiny(1), rank=2), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.0, 0.1, generator=generator)
    return model


def made(what, kind, world):
    """The policy, and its reference."""
    chunks = Chunks(CONFIG.mask_id, RECIPE.at_once, world.device)
    if what == "adapters":
        policy = shard(adapted(), kind, world)
        return policy, AdaptersOff(policy, chunks)
    model, reference = tiny(1), tiny(2).requires_grad_(False)
    policy = shard(model, kind, world, blocks=model.blocks)
    return policy, Live(shard(reference, kind, world, blocks=reference.blocks), chunks)


def gradients(what, kind, world):
    """Gradient, figures, and this rank's masks of the first two batches."""
    policy, reference = made(what, kind, world)
    trainer = Trainer(
        policy, some_pairs(5), RECIPE, reference=reference, mask_id=CONFIG.mask_id, world=world
    )
    found = []
    for step in BATCHES:
        trainer.done = step
        figures, batch = trainer.gradient(), trainer.batch()
        grads: list[Any] = [p.grad for p in inner(policy).parameters() if p.requires_grad]
        full = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in grads]
        full = torch.cat([g.flatten() for g in full])
        counted = list(zip(batch.pairs, batch.draws, strict=True))[: batch.counted]
        masks = [(p.example, [d.masks for d in drawn.policy]) for p, drawn in counted]
        found.append((full, figures, masks))
    return found


def of_rank(rank, folder):
    """What one of two ranks does; this file is its program."""
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    found = {kinds: gradients(*kinds, World(rank, 2)) for kinds in KINDS}
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_draw_the_masks_and_have_the_gradient_of_one_process(tmp_path):
    started = [subprocess.Popen([sys.executable, __file__, str(r), tmp_path]) for r in (0, 1)]
    assert [rank.wait(100) for rank in started] == [0, 0]
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for kinds in KINDS:
        for step, alone in zip(BATCHES, gradients(kinds[0], "none", SINGLE), strict=True):
            expected, figures, masks = alone
            theirs = [rank[kinds][step] for rank in ranks]
            together = [pair for rank in theirs for pair in rank[2]]
            assert [example for example, _ in together] == [example for example, _ in masks]
            for (_, here), (_, there) in zip(together, masks, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
            for gradient, its_figures, _ in theirs:
                # float32: sums in another order
                assert (gradient - expected).norm() <= 1e-6 * expected.norm()
                for name, value in figures.items():
                    assert its_figures[name] == pytest.approx(value, rel=1e-5, abs=1e-7)


@pytest.mark.slow
def test_the_command_under_torchrun_goes_on_with_what_one_process_began(tmp_path):
    save_llada(tiny(1), tmp_path / "model")
    rows = [[x.tolist() for x in (p.prompt, p.chosen, p.rejected)] for p in some_pairs(5)]
    named = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows]
    (tmp_path / "prefs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))
    asked = shlex.split(
        "-m core.vrpo.train --model model --data prefs.jsonl --device cpu "
        "--batch 3 --n-t 2 --lr 1e-3 --warmup 1 --save-every 2"
    )

    def run(out, *more, ranks=1):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [sys.executable, *(launch if ranks > 1 else []), *asked, "--out", out, *more]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    def weights(out):
        model = load_llada(tmp_path / out / "model")
        return torch.nn.utils.parameters_to_vector(model.parameters()).detach()

    run("alone", "--steps", "4")
    (tmp_path / "both" / "checkpoints").mkdir(parents=True)
    kept = "checkpoints/step-00000002.pt"
    (tmp_path / "both" / kept).write_bytes((tmp_path / "alone" / kept).read_bytes())
    done = run("both", "--steps", "4", "--resume", "--shard", "fsdp2", ranks=2)
    assert done.stdout.count("done: both/model") == 1
    assert done.stderr.count("step 4 of 4") == 1
    log = [json.loads(line) for line in (tmp_path / "both" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [3, 4]
    start, alone, both = weights("."), weights("alone"), weights("both")
    # two steps in another order of sums; Adam divides by the gradient, so small ones say more
    assert (both - alone).norm() <= 1e-4 * (alone - start).norm()


if __name__ == "__main__":
    of_rank(int(sys.argv[1]), sys.argv[2])
