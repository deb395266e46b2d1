"""Scores computed before training are those of the reference in it, and know what they are of."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from core.train.distributed import SINGLE
from core.vrpo import reference as room
from core.vrpo.draws import Design
from core.vrpo.lora import with_lora
from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.packing import pack
from core.vrpo.preferences import Preference
from core.vrpo.reference import AdaptersOff, Live, Precomputed, fingerprint, precompute, source_of
from core.vrpo.scoring import Chunks, batch_at
from core.vrpo.trainer import Recipe, Trainer

CONFIG = Config(vocab_size=13, d_model=16, n_layers=1, n_heads=2, mlp_hidden=24, mask_id=12)
DESIGN, SEED, EPOCHS = Design(n_t=2), 4, 2
CHUNKS = Chunks(CONFIG.mask_id, 3, torch.device("cpu"))
HOW = {"design": DESIGN, "seed": SEED, "size": 3, "epochs": EPOCHS, "world": SINGLE}


def tiny(seed, dtype=torch.float32):
    return MaskedDiffusionLM.initialised(CONFIG, seed).to(dtype)


def some_pairs(count):
    rng = np.random.default_rng(0)

    def tokens(low, high):
        return torch.from_numpy(rng.integers(0, 12, rng.integers(low, high)))

    # numbers with gaps, as where lines were left out
    return [Preference(tokens(0, 5), tokens(2, 8), tokens(2, 8), 2 * i) for i in range(count)]


PAIRS = some_pairs(7)


def source(model=None, data=PAIRS, design=DESIGN, seed=SEED):
    return source_of(tiny(2) if model is None else model, data, design, seed)


@pytest.fixture
def path(tmp_path):
    """Scores of the reference tiny(2)."""
    path = tmp_path / "scores.safetensors"
    precompute(path, Live(tiny(2), CHUNKS), PAIRS, source(), **HOW)
    return path


def trained(reference, design=DESIGN, dtype=torch.float32):
    policy = tiny(1, dtype)
    recipe = Recipe(
        steps=6, batch=3, design=design, learning_rate=1e-2, warmup=1, seed=SEED, at_once=3
    )
    trainer = Trainer(policy, PAIRS, recipe, reference=reference, mask_id=CONFIG.mask_id)
    figures = [trainer.step() for _ in range(6)]
    return figures, torch.nn.utils.parameters_to_vector(policy.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shared", [True, False])
def test_training_with_precomputed_scores_is_training_with_the_reference_to_the_bit(
    tmp_path, dtype, shared
):
    design = dataclasses.replace(DESIGN, shared=shared)
    model, path = tiny(2, dtype), tmp_path / "scores"
    origin = source_of(model, PAIRS, design, SEED)
    precompute(path, Live(model, CHUNKS), PAIRS, origin, **{**HOW, "design": design})
    replayed = Precomputed(path, PAIRS, origin, epochs=EPOCHS)
    live_figures, live = trained(Live(model, CHUNKS), design, dtype)
    figures, weights = trained(replayed, design, dtype)
    assert figures == live_figures
    assert torch.equal(weights, live)


def test_the_file_holds_the_scores_of_every_pair_at_its_masks(path):
    with safe_open(path, "pt") as file:
        scores = file.get_tensor("scores")
    assert scores.shape == (EPOCHS, len(PAIRS), 2, DESIGN.n)
    batch = batch_at(PAIRS, 4, size=3, design=DESIGN, seed=SEED, world=SINGLE)
    assert batch.epoch == 1
    pair, drawn = batch.pairs[1], batch.draws[1].reference[1]
    with torch.no_grad():
        read = pack([pair.prompt] * 2, [pair.rejected] * 2, list(drawn.masks), mask_id=12)
        expected = tiny(2)(read)
    # another pack: equal to rounding of float32
    found = scores[1, PAIRS.index(pair), 1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_the_adapters_off_are_the_model_before(path):
    pytest.importorskip("peft")
    policy = with_lora(tiny(2), rank=2)
    off = AdaptersOff(policy, CHUNKS)
    batch = batch_at(PAIRS, 0, size=3, design=DESIGN, seed=SEED, world=SINGLE)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    expected = Live(tiny(2), CHUNKS)(batch)
    assert torch.equal(off(batch), expected)
    assert not torch.equal(Live(policy, CHUNKS)(batch), expected)


def test_a_policy_without_adapters_has_none_to_switch_off():
    with pytest.raises(ValueError, match="want a policy with adapters"):
        AdaptersOff(tiny(1), CHUNKS)


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("data", {"data": PAIRS[:6]}),
        ("design", {"design": Design(n_t=2, counts="systematic")}),
        ("seed", {"seed": 5}),
        ("dtype", {"model": tiny(2, torch.float64)}),
        ("reference", {"model": tiny(3)}),
    ],
)
def test_scores_of_something_else_are_refused_by_the_field_that_differs(path, field, other):
    with pytest.raises(ValueError, match=rf"scores\.safetensors is of another run: its {field} is"):
        Precomputed(path, PAIRS, source(**other), epochs=EPOCHS)


def test_fewer_epochs_are_refused_and_more_are_no_harm(path):
    with pytest.raises(ValueError, match=r"holds 2 epoch\(s\), the training has 3"):
        Precomputed(path, PAIRS, source(), epochs=3)
    Precomputed(path, PAIRS, source(), epochs=1)


def test_what_is_no_file_of_scores_is_refused(tmp_path, path):
    with pytest.raises(ValueError, match="found nothing at"):
        Precomputed(tmp_path / "none", PAIRS, source(), epochs=1)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="not precomputed scores"):
        Precomputed(path, PAIRS, source(), epochs=1)
    save_file({"other": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="not precomputed scores"):
        Precomputed(path, PAIRS, source(), epochs=1)
    save_file({"scores": torch.full((2, 7, 2, 2), torch.nan)}, path, source())
    with pytest.raises(ValueError, match="nan or infinite"):
        Precomputed(path, PAIRS, source(), epochs=1)


def test_a_precomputation_that_stops_is_taken_up_where_it_stopped(tmp_path, path, monkeypatch):
    monkeypatch.setattr(room, "SAVE_EVERY", 2)
    again, calls = tmp_path / "again", []
    live = Live(tiny(2), CHUNKS)

    def stops(batch):
        calls.append(batch)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return live(batch)

    with contextlib.suppress(KeyboardInterrupt):
        precompute(again, stops, PAIRS, source(), **HOW)
    assert [file.name for file in tmp_path.glob("again*")] == ["again.part"]
    with pytest.raises(ValueError, match=r"again\.part is of another run: its seed"):
        precompute(again, live, PAIRS, source(seed=9), **{**HOW, "seed": 9})
    precompute(again, stops, PAIRS, source(), **HOW)
    assert len(calls) == 5 + 2  # six batches, four of them kept
    assert torch.equal(load_file(again)["scores"], load_file(path)["scores"])
    assert not (tmp_path / "again.part").exists()


def test_a_reference_that_gives_no_number_is_refused_and_writes_nothing(tmp_path):
    model = tiny(2)
    with torch.no_grad():
        model.ln_f.weight[0] = torch.nan
    with pytest.raises(ValueError, match="nan or infinity from the reference"):
        precompute(tmp_path / "scores", Live(model, CHUNKS), PAIRS, source(model), **HOW)
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_sees_every_weight():
    model, found = tiny(1), {fingerprint(tiny(1)), fingerprint(tiny(2))}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.view(-1)[-1] += 1e-3
            found.add(fingerprint(model))
    assert len(found) == 2 + len(list(model.parameters()))
    assert fingerprint(tiny(1)) == fingerprint(tiny(1)) != fingerprint(tiny(1).bfloat16())
