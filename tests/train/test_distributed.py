"""Two ranks are one process: what each gets, what they sum to, and the gradient of a plain model.

That masks, scores and updates of VRPO agree over ranks is in `tests/vrpo/test_distributed.py`.
"""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import distributed, nn

from core.train.distributed import (
    SINGLE,
    World,
    gradient_norm,
    gradient_scale,
    held_back,
    inner,
    shard,
    share,
    start,
    total,
)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_shares_make_up_the_batch_in_order_and_are_equally_long(count, size):
    items = list(range(count))
    shares = [share(items, World(rank, size)) for rank in range(size)]
    assert [x for mine, counted in shares for x in mine[:counted]] == items
    assert len({len(mine) for mine, _ in shares}) == 1
    assert all(set(mine[counted:]) <= {0} for mine, counted in shares)


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="at least one item"):
        share([], SINGLE)


def test_without_torchrun_there_is_one_process_and_no_group(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with start("cpu") as world:
        assert world == SINGLE
        assert world.first
        assert not distributed.is_initialized()
        assert total(torch.ones(2), world).tolist() == [1, 1]


def test_one_process_can_be_a_group_of_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with start("cpu", group=True) as world:
        assert distributed.get_world_size() == world.size == 1
    assert not distributed.is_initialized()


@pytest.mark.parametrize(
    ("device", "said"), [("tpu", "want device 'auto'"), ("cuda", "want a GPU for each process")]
)
def test_a_device_that_is_not_there_is_refused(monkeypatch, device, said):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=said), start(device):
        pass


@pytest.mark.parametrize(
    ("kind", "world", "options", "said"),
    [
        ("both", SINGLE, {}, "want shard 'none', 'ddp' or 'fsdp2', got 'both'"),
        ("none", World(0, 2), {}, "want 'ddp' or 'fsdp2' for 2 processes"),
        ("ddp", SINGLE, {"compute": torch.bfloat16}, "want 'fsdp2' to run in torch.bfloat16"),
    ],
)
def test_what_does_not_go_together_is_refused(kind, world, options, said):
    with pytest.raises(ValueError, match=said):
        shard(nn.Linear(1, 1), kind, world, **options)


def test_the_norm_of_the_gradient_is_returned_as_it_was_before_clipping():
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert gradient_norm(model) == 5.0
    assert model.weight.grad.tolist() == [[3.0, 4.0]]
    assert gradient_norm(model, clip=0.5) == 5.0
    # torch divides by norm + 1e-6
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.3, 0.4]]), rtol=1e-6, atol=0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.head = nn.Linear(6, 1)

    def forward(self, x):
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.head(x).squeeze(1)


def gradient_of(kind, world, x):
    """The gradient of the mean of squares over all of x, in pieces of two rows, and its norm."""
    torch.manual_seed(0)
    net = Net()
    model = shard(net, kind, world, blocks=net.blocks)
    mine, counted = share(list(x), world)
    weight = torch.zeros(len(mine)).index_fill_(0, torch.arange(counted), 1 / len(x))
    with torch.no_grad():
        model(torch.stack(mine))  # a pass without gradient comes first, as in training
    for at in range(0, len(mine), 2):
        with held_back(model, last=at + 2 >= len(mine)):
            squares = model(torch.stack(mine[at : at + 2])).square()
            (gradient_scale(world) * weight[at : at + 2] * squares).sum().backward()
    norm = gradient_norm(model)
    grads: list[Any] = [p.grad for p in inner(model).parameters()]
    full = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in grads]
    return torch.cat([g.flatten() for g in full]), norm


def some_rows():
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(1))  # five, for two ranks


def of_rank(rank, folder):
    """What one of two ranks does; this file is its program."""
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    world, x = World(rank, 2), some_rows()
    found = {kind: gradient_of(kind, world, x) for kind in ("ddp", "fsdp2")}
    summed = total(torch.tensor([1.0, rank]), world)
    torch.save({**found, "sum": summed}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_gradient_of_one_process_with_ddp_and_fsdp2(tmp_path):
    ranks = [subprocess.Popen([sys.executable, __file__, str(r), tmp_path]) for r in (0, 1)]
    assert [rank.wait(100) for rank in ranks] == [0, 0]
    expected, norm = gradient_of("none", SINGLE, some_rows())
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        for kind in ("ddp", "fsdp2"):
            gradient, its_norm = found[kind]
            # float32: sums in another order
            assert (gradient - expected).norm() <= 1e-6 * expected.norm()
            assert its_norm == pytest.approx(norm, rel=1e-6)
        assert found["sum"].tolist() == [2.0, 1.0]


if __name__ == "__main__":
    of_rank(int(sys.argv[1]), sys.argv[2])
