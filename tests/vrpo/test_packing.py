"""Packs against a literal assembly, token by token, and what they refuse."""

import pytest
import torch
import worlds
from worlds import brute_force, pair, tiny_model

from core.vrpo.draws import Design, draw
from core.vrpo.packing import layout, pack

MASK = 99


def sequences(shapes, seed=0):
    """Prompts, responses and masks of the shapes (P, L), drawn token by token."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(0, 90, (P,), generator=generator) for P, _ in shapes]
    responses = [torch.randint(0, 90, (L,), generator=generator) for _, L in shapes]
    masks = [torch.rand(L, generator=generator) < 0.5 for _, L in shapes]
    for mask in masks:
        mask[0] = True
    return prompts, responses, masks


def literal(prompts, responses, masks):
    """The same, one Python list at a time."""
    tokens, lengths, rows, targets, owner = [], [], [], [], []
    for s, (prompt, response, mask) in enumerate(zip(prompts, responses, masks, strict=True)):
        tokens += prompt.tolist()
        for token, masked in zip(response.tolist(), mask.tolist(), strict=True):
            if masked:
                rows.append(len(tokens))
                targets.append(token)
                owner.append(s)
            tokens.append(MASK if masked else token)
        lengths.append(len(prompt) + len(response))
    return tokens, tuple(lengths), rows, targets, owner


@pytest.mark.parametrize(
    "shapes", [[(0, 1)], [(3, 5)], [(3, 5), (0, 2), (7, 1)], [(2, 4)] * 5, [(0, 3), (1, 2)]]
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_pack_is_its_sequences_end_to_end(shapes, dtype):
    prompts, responses, masks = sequences(shapes)
    found = pack(
        [x.to(dtype) for x in prompts], [x.to(dtype) for x in responses], masks, mask_id=MASK
    )
    tokens, lengths, rows, targets, owner = literal(prompts, responses, masks)
    assert found.tokens.tolist() == tokens
    assert found.lengths == lengths
    assert found.rows.tolist() == rows
    assert found.targets.tolist() == targets
    assert found.owner.tolist() == owner
    assert {x.dtype for x in (found.tokens, found.rows, found.targets)} == {torch.int64}


def test_packing_leaves_the_data_alone():
    prompts, responses, masks = sequences([(3, 5)])
    before = responses[0].clone()
    pack(prompts, responses, masks, mask_id=MASK)
    assert torch.equal(responses[0], before)


def test_one_response_may_stand_under_many_masks():
    (prompt,), (response,), _ = sequences([(2, 3)])
    masks = torch.tensor([[True, False, False], [True, True, True]])
    found = pack([prompt] * 2, [response] * 2, list(masks), mask_id=MASK)
    assert found.owner.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("empty", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_a_mask_without_a_masked_token_is_a_sequence_with_a_sum_of_zero(empty):
    """Others have the sums that they have without it, rounding apart."""
    x, (y, _) = pair(4)
    masks = torch.tensor([[True, False, True, False], [True] * 4, [False, True, False, False]])
    masks[empty] = False
    found = pack([x] * 3, [y] * 3, list(masks), mask_id=worlds.MASK)
    assert set(found.owner.tolist()) == set(range(3)) - set(empty)
    assert found.lengths == (6, 6, 6)
    model = tiny_model()
    S = model(found)
    for s in range(3):
        expected = 0.0 if s in empty else brute_force(model, x, y, masks[s])
        assert S[s].item() == pytest.approx(expected, rel=1e-12, abs=0)
    S.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_pack_may_have_no_masked_token_at_all():
    prompts, responses, masks = sequences([(2, 3), (0, 1)])
    found = pack(prompts, responses, [torch.zeros_like(m) for m in masks], mask_id=MASK)
    assert found.tokens.tolist() == torch.cat([prompts[0], responses[0], responses[1]]).tolist()
    assert {(len(x), x.dtype) for x in found[2:]} == {(0, torch.int64)}


def test_masks_of_the_time_form_can_be_packed():
    x, (y, _) = pair(3)
    masks = draw(Design(64, form="time", eps=0.01), 3, 0).masks
    assert not masks.any(1).all()
    S = tiny_model()(pack([x] * 64, [y] * 64, list(masks), mask_id=worlds.MASK))
    assert torch.equal(S < 0, masks.any(1))


def test_a_pack_moves_whole():
    found = pack(*sequences([(3, 5)]), mask_id=MASK).to("meta")
    tensors = (found.tokens, found.rows, found.targets, found.owner)
    assert {x.device.type for x in tensors} == {"meta"}


def broken(**changed):
    prompts, responses, masks = sequences([(2, 3), (4, 2)])
    given = {"prompts": prompts, "responses": responses, "masks": masks}
    for name, value in changed.items():
        given[name][1] = value
    return given


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompts": torch.tensor([1, MASK])}, "sequence 1: .*mask token 99.*prompt at 1"),
        ({"responses": torch.tensor([MASK, 3])}, "sequence 1: .*mask token 99.*response at 0"),
        ({"responses": torch.tensor([], dtype=torch.long)}, "sequence 1: .*at least one token"),
        ({"masks": torch.tensor([True])}, "sequence 1: want a mask of the response's 2 .*got 1"),
        ({"masks": torch.tensor([1, 0])}, "sequence 1: .*dtype bool.*int64"),
        ({"responses": torch.tensor([1.0, 2.0])}, "sequence 1: want integer tokens"),
        ({"prompts": torch.ones(1, 2).long()}, r"sequence 1: want a prompt \[P\].*got \[1, 2\]"),
    ],
)
def test_what_cannot_be_packed_is_refused_by_its_place(changed, message):
    with pytest.raises(ValueError, match=message):
        pack(**broken(**changed), mask_id=MASK)


@pytest.mark.parametrize(("prompts", "masks"), [(0, 0), (0, 1), (1, 0)])
def test_a_pack_needs_as_many_prompts_as_responses_and_masks(prompts, masks):
    one = sequences([(2, 3)])
    with pytest.raises(ValueError, match="at least one sequence"):
        pack(one[0] * prompts, one[1] * prompts * masks, one[2] * masks, mask_id=MASK)


@pytest.mark.parametrize("lengths", [(3,), (2, 2), (1, 2, 2), (5, 2, 5, 1, 2), (3, 1)])
def test_a_layout_is_an_order_in_which_equal_lengths_stand_together(lengths):
    found = layout(lengths, torch.device("cpu"))
    spans = [list(range(sum(lengths[:s]), sum(lengths[: s + 1]))) for s in range(len(lengths))]
    by_length = sorted(spans, key=len)  # Python's sort keeps the order of equals
    order = [place for span in by_length for place in span]
    if found.order is None:
        assert order == list(range(sum(lengths)))
    else:
        assert found.inverse is not None
        assert found.order.tolist() == order
        assert found.order[found.inverse].tolist() == list(range(sum(lengths)))
    assert found.positions.tolist() == [i for span in by_length for i in range(len(span))]
    ends = [sum(len(span) for span in by_length[:s]) for s in range(len(lengths) + 1)]
    assert found.bounds.tolist() == ends
    assert [length for count, length in found.groups for _ in range(count)] == sorted(lengths)
