import pytest
import torch

from core.vrpo import sorting
from core.vrpo.scoring import Chunks, score


@pytest.fixture(scope="module")
def world():
    return sorting.sorting_world(3, steps=20, batch=16, train=6, held_out=3)


def test_chosen_answers_are_right_and_rejected_ones_wrong(world):
    for pair in world.train + world.held_out:
        assert pair.chosen.tolist() == sorted(pair.prompt.tolist())
        assert pair.rejected.tolist() != pair.chosen.tolist()
        assert len(pair.rejected) == sorting.DIGITS
        assert int(pair.rejected.max()) < 10


def test_a_seed_names_a_world(world):
    again = sorting.sorting_world(3, steps=20, batch=16, train=6, held_out=3)
    assert torch.equal(again.train_sums, world.train_sums)
    other = sorting.sorting_world(4, steps=20, batch=16, train=6, held_out=3)
    assert not torch.equal(other.train_sums, world.train_sums)


def test_the_sums_are_those_of_the_trainers_scores(world):
    pair = world.held_out[0]
    masks = sorting.draw(sorting.Design(4), sorting.DIGITS, 1)
    chunks = Chunks(sorting.MASK, None, torch.device("cpu"))
    S = score(world.reference, chunks([pair], [(masks, masks)]), 1)[0]
    at = (masks.masks.long() << torch.arange(5, -1, -1)).sum(1) - 1
    torch.testing.assert_close(S, world.held_out_sums[0][:, at], rtol=1e-5, atol=1e-5)


def test_training_teaches_to_sort():
    before = sorting.pretrained(0, steps=2, batch=16)
    after = sorting.pretrained(0, steps=80, batch=32)
    assert sorting.solved(before, 0, 64) < 0.02 < sorting.solved(after, 0, 64)


def test_a_reference_that_never_fails_is_refused(world):
    with pytest.raises(ValueError, match="fewer steps"):
        # no model sorts so well; the count of wrong answers is what is short
        sorting.failures(_Sorts(world.reference), 4, 0)  # type: ignore[arg-type]


class _Sorts(torch.nn.Module):
    """Fills in the right digits by looking at the prompt."""

    def __init__(self, model):
        super().__init__()
        self.config, self.inner = model.config, model

    def logits(self, tokens, lengths, *rows):
        rows_of = tokens.view(-1, 2 * sorting.DIGITS)[:, : sorting.DIGITS].sort(dim=1)[0]
        right = torch.cat([rows_of, rows_of], dim=1).flatten()
        found = 100.0 * torch.nn.functional.one_hot(right, sorting.CONFIG.vocab_size)
        return found[rows[0]] if rows else found
