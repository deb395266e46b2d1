"""A plan serves its model whatever becomes of it: saved, copied, averaged, compiled, sharded.

Each time the groups, the draws and the clipped gradients are those of the plain model.
"""

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from core.mup import Plan
from core.mup.digits import draw
from core.mup.families import FAMILIES

UVIT = FAMILIES["uvit"]
PLAN = UVIT.plan(heads=12, layers=2, head_dim=4)
SETTINGS: dict[str, Any] = {"lr": 2**-7, "weight_decay": 0.1}
CLIP = 0.05


def compiled(model) -> Any:
    return torch.compile(model, backend="eager")


WRAPPERS = {
    "deepcopy": copy.deepcopy,
    "average": AveragedModel,
    "compiled": compiled,
    "compiled average": lambda model: AveragedModel(compiled(model)),
}


def grouped(plan, model):
    """By name: the settings of its group, and whether it is the model's own tensor."""
    own = {id(p) for p in model.parameters()}
    return {
        name: {k: v for k, v in group.items() if k not in ("params", "names")}
        for group in plan.groups(model, **SETTINGS)
        for name, p in zip(group["names"], group["params"], strict=True)
        if id(p) in own
    }


def clipped(plan, model):
    """The norm, and by name the clipped gradients; given gradients are a draw."""
    generator = torch.Generator().manual_seed(5)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
    norm = plan.clip_grad_norm_(model, CLIP)
    return norm, {name: p.grad for name, p in plan.named(model).items()}


def same_treatment(plan, model, plain):
    """Groups, clipping and draws of two models are equal to the bit."""
    assert grouped(plan, model) == grouped(plan, plain)
    assert len(grouped(plan, model)) == len(plan.entries)
    (norm, found), (expected_norm, expected) = clipped(plan, model), clipped(plan, plain)
    assert torch.equal(norm, expected_norm)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for one in (model, plain):
        plan.init_(one, seed=9)
    drawn = plan.named(plain)
    assert all(torch.equal(p, drawn[name]) for name, p in plan.named(model).items())


@pytest.mark.parametrize("how", WRAPPERS)
def test_a_wrapped_model_is_treated_as_the_plain_one(how):
    same_treatment(PLAN, WRAPPERS[how](PLAN.build()), PLAN.build())


@pytest.mark.parametrize("name", ["dit", "mmdit", "flux"])
def test_a_saved_model_and_plan_are_treated_as_before(name, tmp_path):
    plan = FAMILIES[name].plan(heads=12, layers=1)
    model: Any = plan.build(seed=3)
    model.save_pretrained(tmp_path)
    plan.save(tmp_path)
    again, loaded = type(model).from_pretrained(tmp_path), Plan.load(tmp_path)
    batch = draw(0, 0, 4)
    with torch.no_grad():
        expected = FAMILIES[name].predict(model, batch)
        assert torch.equal(FAMILIES[name].predict(again.train(), batch), expected)
    same_treatment(loaded, again, model)


def trained(model, steps=3, rank=0, size=1, each=lambda: None):
    """Train on a rank's part of each batch, in float64; return what the norms were."""
    optimizer, norms = torch.optim.AdamW(PLAN.groups(model, **SETTINGS)), []
    for step in range(steps):
        batch = draw(0, step, 8).to("cpu", torch.float64)
        mine = type(batch)(*(part[rank::size] for part in batch))
        optimizer.zero_grad()
        (model(mine.x_t, mine.t, mine.y) - mine.noise).square().mean().backward()
        norms.append(PLAN.clip_grad_norm_(model, CLIP).item())
        optimizer.step()
        each()
    return norms


def test_compiled_it_trains_the_same():
    plain, other = PLAN.build().double(), PLAN.build().double()
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    assert trained(compiled) == pytest.approx(trained(plain), rel=1e-12)
    for a, b in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def averaged_by_hand(decay, steps):
    """The exponential average of the weights of a run, from its first step on."""
    model = PLAN.build().double()
    states: list[Any] = []
    trained(model, steps, each=lambda: states.append(copy.deepcopy(model.state_dict())))
    average = states[0]
    for state in states[1:]:
        average = {k: decay * v + (1 - decay) * state[k] for k, v in average.items()}
    return average


def test_torchs_average_of_a_run_is_that_of_the_weights():
    model = PLAN.build().double()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    trained(model, 4, each=lambda: average.update_parameters(model))
    expected = averaged_by_hand(0.9, 4)
    for name, p in PLAN.named(average).items():
        torch.testing.assert_close(p.detach(), expected[name], rtol=0, atol=1e-14)


def test_diffusers_average_is_saved_and_planned_as_the_model(tmp_path):
    from diffusers.training_utils import EMAModel

    family = FAMILIES["dit"]
    plan = family.plan(heads=12, layers=1)
    model: Any = plan.build(seed=1)
    average = EMAModel(
        model.parameters(), decay=0.5, model_cls=type(model), model_config=model.config
    )
    optimizer = torch.optim.AdamW(plan.groups(model, **SETTINGS))
    for step in range(3):
        optimizer.zero_grad()
        family.loss(model, draw(0, step, 4)).backward()
        optimizer.step()
        average.step(model.parameters())
    average.save_pretrained(str(tmp_path))
    plan.save(tmp_path)
    again: Any = type(model).from_pretrained(tmp_path)
    for a, b in zip(average.shadow_params, again.parameters(), strict=True):
        assert torch.equal(a, b)
    average.copy_to(model.parameters())
    same_treatment(Plan.load(tmp_path), again, model)


def spread(kind, model):
    """Spread a model over the ranks."""
    if kind == "ddp":
        return DistributedDataParallel(model)
    for block in (*model.in_blocks, model.mid_block, *model.out_blocks):
        fully_shard(block)
    return fully_shard(model)


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def of_rank(rank, folder):
    """What one of two ranks does; this file is its program."""
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for kind in ("ddp", "fsdp2"):
        model = spread(kind, PLAN.build(seed=1).double())
        groups = grouped(PLAN, model)
        norms = trained(model, rank=rank, size=2)
        weights = {name: whole(p.detach()).clone() for name, p in PLAN.named(model).items()}
        said = ""
        try:
            PLAN.init_(model, seed=2)
        except ValueError as refused:
            said = str(refused)
        drawn = {name: whole(p.detach()).clone() for name, p in PLAN.named(model).items()}
        found[kind] = groups, norms, weights, said, drawn
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_train_and_clip_as_one_process_with_ddp_and_fsdp2(tmp_path):
    started = [subprocess.Popen([sys.executable, __file__, str(r), tmp_path]) for r in (0, 1)]
    assert [rank.wait(200) for rank in started] == [0, 0]
    plain = PLAN.build(seed=1).double()
    groups, norms = grouped(PLAN, plain), trained(plain)
    assert min(norms) > CLIP  # it does clip
    expected = {name: p.detach().clone() for name, p in plain.named_parameters()}
    PLAN.init_(plain, seed=2)
    for rank in (0, 1):
        for kind, found in torch.load(tmp_path / f"{rank}.pt").items():
            its_groups, its_norms, weights, said, drawn = found
            assert its_groups == groups
            assert its_norms == pytest.approx(norms, rel=1e-12)
            for name, p in expected.items():
                # float64: sums in another order
                torch.testing.assert_close(weights[name], p, rtol=0, atol=1e-12)
            if kind == "fsdp2":
                assert "init_ first, then fully_shard" in said
            else:
                assert all(torch.equal(drawn[n], p) for n, p in plain.named_parameters())


def test_a_model_with_a_part_called_module_keeps_its_names():
    class Net(nn.Module):
        def __init__(self, dim=4):
            super().__init__()
            self.module = nn.Linear(dim, dim)

    from core.mup import plan

    made = plan(Net, {"dim": 12}, base={"dim": 4})
    assert set(made.named(AveragedModel(Net(12)))) == {"module.weight", "module.bias"}
    same_treatment(made, AveragedModel(Net(12)), Net(12))


if __name__ == "__main__":
    of_rank(int(sys.argv[1]), sys.argv[2])
