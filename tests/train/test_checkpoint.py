"""A checkpoint is whole or not there, resumes to the bit, and stays with its run."""

import pytest
import torch
from torch import nn

from core.train.checkpoint import check_same, checkpoints, load, save
from core.train.distributed import SINGLE

RUN = {"seed": 3, "data": "abc", "shared": True}


def make(seed=0, frozen=False):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    model[0].requires_grad_(not frozen)
    trained = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)


def train(model, optimizer, first, last):
    for step in range(first, last):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
        model(x).square().mean().backward()
        optimizer.step()


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does_to_the_bit(tmp_path, frozen):
    model, optimizer = make(frozen=frozen)
    train(model, optimizer, 0, 4)
    save(tmp_path, 4, model, optimizer, run=RUN, world=SINGLE)
    again, fresh = make(frozen=frozen)
    step = load(checkpoints(tmp_path)[-1], again, fresh, run=RUN)
    assert step == 4
    # saving left the run alone, and loading gave all of it
    train(model, optimizer, 4, 9)
    train(again, fresh, 4, 9)
    straight, whole = make(frozen=frozen)
    train(straight, whole, 0, 9)
    assert torch.equal(weights(again), weights(straight))
    assert torch.equal(weights(model), weights(straight))


def test_what_goes_on_beside_the_model_is_kept_whole_though_it_is_frozen(tmp_path):
    model, optimizer = make()
    mean, _ = make(1)
    mean.requires_grad_(False)
    save(tmp_path, 1, model, optimizer, run=RUN, world=SINGLE, beside={"mean": mean})
    again, fresh = make(2)
    other, _ = make(3)
    other.requires_grad_(False)
    load(checkpoints(tmp_path)[-1], again, fresh, run=RUN, beside={"mean": other})
    assert torch.equal(weights(other), weights(mean))
    assert torch.equal(weights(again), weights(model))
    assert not torch.equal(weights(other), weights(again))


def test_what_is_frozen_is_not_kept(tmp_path):
    model, optimizer = make(frozen=True)
    train(model, optimizer, 0, 1)
    save(tmp_path, 1, model, optimizer, run=RUN, world=SINGLE)
    kept = torch.load(checkpoints(tmp_path)[0], weights_only=True)
    assert sorted(kept["model"]) == ["2.bias", "2.weight"]


def test_the_last_few_are_kept(tmp_path):
    model, optimizer = make()
    for step in range(1, 5):
        train(model, optimizer, step, step + 1)
        save(tmp_path / "new", step, model, optimizer, run=RUN, world=SINGLE, keep=2)
    assert sorted((tmp_path / "new").iterdir()) == checkpoints(tmp_path / "new")
    assert [path.name for path in checkpoints(tmp_path / "new")] == [
        "step-00000003.pt",
        "step-00000004.pt",
    ]


@pytest.mark.parametrize(
    ("field", "value"), [("seed", 4), ("data", "abd"), ("shared", False), ("more", 1)]
)
def test_a_checkpoint_of_another_run_is_refused_by_the_field_that_differs(tmp_path, field, value):
    model, optimizer = make()
    train(model, optimizer, 0, 1)
    save(tmp_path, 1, model, optimizer, run=RUN, world=SINGLE)
    (path,) = checkpoints(tmp_path)
    other, fresh = make(1)
    before = weights(other)
    with pytest.raises(ValueError, match=rf"step-00000001\.pt is of another run: its {field} is"):
        load(path, other, fresh, run={**RUN, field: value})
    assert torch.equal(weights(other), before)
    assert not fresh.state


def test_a_field_that_only_the_checkpoint_has_differs_too():
    with pytest.raises(ValueError, match="its b is 2, here it is nothing"):
        check_same({"a": 1}, {"a": 1, "b": 2}, "it")
    check_same({"a": 1, "b": 2}, {"b": 2, "a": 1}, "it")


@pytest.mark.parametrize("how", ["cut", "one byte", "empty", "text", "other"])
def test_a_broken_checkpoint_is_refused_by_name_and_changes_nothing(tmp_path, how):
    model, optimizer = make()
    train(model, optimizer, 0, 1)
    save(tmp_path, 1, model, optimizer, run=RUN, world=SINGLE)
    (path,) = checkpoints(tmp_path)
    content = path.read_bytes()
    at = content.index(model.get_parameter("2.weight").detach().numpy().tobytes())
    broken = {
        "cut": content[:-100],
        "one byte": content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
        "empty": b"",
        "text": b"hello",
    }
    if how == "other":
        torch.save({"step": 1}, path)
    else:
        path.write_bytes(broken[how])
    other, fresh = make(1)
    before = weights(other)
    with pytest.raises(ValueError, match=r"step-00000001\.pt is broken, or no checkpoint: remove"):
        load(path, other, fresh, run=RUN)
    assert torch.equal(weights(other), before)


def test_a_checkpoint_that_cannot_be_written_leaves_the_ones_before(tmp_path, monkeypatch):
    model, optimizer = make()
    train(model, optimizer, 0, 1)
    save(tmp_path, 1, model, optimizer, run=RUN, world=SINGLE, keep=1)

    def fails(content, part):
        part.write_text("half of")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match=r"step-00000002\.pt could not be written"):
        save(tmp_path, 2, model, optimizer, run=RUN, world=SINGLE, keep=1)
    assert list(tmp_path.iterdir()) == checkpoints(tmp_path)
    assert load(checkpoints(tmp_path)[0], *make(), run=RUN) == 1


def test_what_a_killed_process_left_half_written_is_swept(tmp_path):
    model, optimizer = make()
    train(model, optimizer, 0, 1)
    (tmp_path / "step-00000001.pt.part.999999999").write_text("half of")
    assert checkpoints(tmp_path) == []
    save(tmp_path, 1, model, optimizer, run=RUN, world=SINGLE)
    assert list(tmp_path.iterdir()) == checkpoints(tmp_path)
