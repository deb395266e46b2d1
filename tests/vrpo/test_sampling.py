"""The sampler against one that follows the description literally, token by token."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from core.vrpo.lora import with_lora
from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.sampling import (
    Sampling,
    _noise,
    _propose,
    _stream,
    end_ids_of,
    generate,
    is_greedy,
)

V, MASK, EOS = 9, 8, 7
SIZE = Config(
    vocab_size=V,
    d_model=16,
    n_layers=2,
    n_heads=2,
    mlp_hidden=24,
    mask_id=MASK,
    eos_id=EOS,
    max_length=64,
)
PROMPTS = [torch.tensor(t, dtype=torch.int64) for t in ([1, 2, 3], [], [5, 5, 4, 0, 1], [2])]
# with nothing but masks every place is equally sure, and rounding would choose among them
TELLING = [prompt for prompt in PROMPTS if len(prompt)]
PLAIN = Sampling(gen_length=12, block_length=4, steps=12, stop_at_eos=False)


def a_model(seed=0, scale=3.0):
    """Sharper than at the start, so that no two confidences are near each other."""
    model = MaskedDiffusionLM.initialised(SIZE, seed).double()
    with torch.no_grad():
        model.ff_out.weight.mul_(scale)
    return model


def probabilities(model, tokens, cfg_scale, prompt_length):
    """Softmax `[L, V]` of one sequence of numbers, the mask token never predicted."""

    def scores(sequence):
        with torch.no_grad():
            return model.logits(torch.tensor(sequence), (len(sequence),)).numpy()

    logits = scores(tokens)
    if cfg_scale:
        blind = scores([MASK] * prompt_length + tokens[prompt_length:])
        logits = blind + (1 + cfg_scale) * (logits - blind)
    logits[:, MASK] = -np.inf
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def literal(model, prompt, how):
    """Greedy, most confident first, from the description, in plain lists."""
    P = len(prompt)
    text = prompt.tolist() + [MASK] * how.gen_length
    n_blocks = how.gen_length // how.block_length
    for block in range(n_blocks):
        ours = range(P + block * how.block_length, P + (block + 1) * how.block_length)
        n_steps = how.steps // n_blocks
        for step in range(n_steps):
            p = probabilities(model, text, how.cfg_scale, P)
            ranked = []
            for place in ours:
                if text[place] == MASK:
                    token = int(p[place].argmax())
                    sure = 0 if how.eos_confidence_zero and token == EOS else p[place, token]
                    ranked.append((-sure, place, token))
            count = how.block_length // n_steps + (step < how.block_length % n_steps)
            for _, place, token in sorted(ranked)[:count]:
                text[place] = token
    return text[P:]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"steps": 6},
        {"steps": 9},  # 4 tokens in 3 steps: 2, 1, 1
        {"steps": 3},
        {"block_length": 12, "steps": 5},
        {"block_length": 1},
        {"cfg_scale": 1.5, "steps": 6},
        {"eos_confidence_zero": True},
        {"eos_confidence_zero": True, "block_length": 12, "steps": 5},
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_text_is_that_of_the_description(changed, seed):
    model, how = a_model(seed), replace(PLAIN, **changed)
    found = generate(model, TELLING, how)
    for prompt, response in zip(TELLING, found, strict=True):
        assert response.tolist() == literal(model, prompt, how)


class Watched(torch.nn.Module):
    """A model that remembers what it was shown."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.seen = model, model.config, []

    def logits(self, tokens, lengths, rows):
        self.seen.append([part.tolist() for part in tokens.split(lengths)])
        return self.model.logits(tokens, lengths, rows)


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("block_length", "steps"), [(4, 9), (12, 7), (3, 4), (6, 12)])
def test_blocks_are_filled_from_the_left_and_nothing_is_taken_back(
    block_length, steps, temperature, remasking
):
    model = Watched(a_model())
    how = replace(
        PLAIN,
        block_length=block_length,
        steps=steps,
        temperature=temperature,
        remasking=remasking,
    )
    found = generate(model, PROMPTS, how)
    assert len(model.seen) == steps
    for b, prompt in enumerate(PROMPTS):
        P = len(prompt)
        shown = [step[b] for step in model.seen] + [prompt.tolist() + found[b].tolist()]
        assert shown[0][P:] == [MASK] * 12
        assert MASK not in shown[-1]
        for before, after in pairwise(shown):
            assert before[:P] == prompt.tolist()
            masks = [place for place, token in enumerate(before) if token == MASK]
            new = [place for place in masks if after[place] != MASK]
            kept = [place for place in range(len(before)) if place not in new]
            assert [before[place] for place in kept] == [after[place] for place in kept]
            assert {(place - P) // block_length for place in new} == {
                (masks[0] - P) // block_length
            }


@pytest.mark.parametrize("block_length", [1, 3, 5, 8])
def test_the_steps_of_a_block_keep_all_its_tokens(block_length):
    for steps in range(1, block_length + 1):
        kept = Sampling(2 * block_length, block_length, 2 * steps).kept
        assert len(kept) == steps
        assert sum(kept) == block_length
        assert max(kept) - min(kept) <= 1
        assert kept == sorted(kept, reverse=True)


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
@pytest.mark.parametrize("stop_at_eos", [False, True])
def test_a_response_does_not_depend_on_its_batch(remasking, stop_at_eos):
    model = a_model(scale=1.0)
    how = replace(PLAIN, temperature=0.8, remasking=remasking, stop_at_eos=stop_at_eos)
    together = generate(model, PROMPTS, how, seed=3)
    for key, prompt in enumerate(PROMPTS):
        (alone,) = generate(model, [prompt], how, seed=3, keys=[key])
        assert torch.equal(together[key], alone)


@pytest.mark.parametrize("cfg_scale", [0.0, 0.7])
def test_a_large_batch_is_proposed_in_parts(monkeypatch, cfg_scale):
    how = replace(PLAIN, temperature=0.8, cfg_scale=cfg_scale)
    whole = generate(a_model(), PROMPTS, how)
    monkeypatch.setattr("core.vrpo.sampling.AT_ONCE", 2 * 4 * V)
    parts = generate(a_model(), PROMPTS, how)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_random_numbers_are_named_by_seed_and_key():
    model, how = a_model(scale=1.0), replace(PLAIN, temperature=1.0)
    one = generate(model, PROMPTS[:1] * 2, how, seed=3)
    same = generate(model, PROMPTS[:1] * 2, how, seed=3)
    other = generate(model, PROMPTS[:1] * 2, how, seed=4)
    assert torch.equal(torch.stack(one), torch.stack(same))
    assert not torch.equal(torch.stack(one), torch.stack(other))
    assert not torch.equal(one[0], one[1])


def test_greedy_text_needs_no_random_numbers():
    model = a_model()
    one, two = (generate(model, PROMPTS, PLAIN, seed=seed) for seed in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_noise_draws_from_the_tempered_softmax(temperature):
    """20,000 draws: a count's deviation is at most sqrt(n p (1 - p)); allow four."""
    n, logits = 20_000, torch.tensor([1.0, 0.0, -2.0, 0.5], dtype=torch.float64)
    shape = logits.expand(1, n, 4)
    noise = _noise(shape, temperature, [_stream(0, 0, torch.device("cpu"))])
    counts = torch.bincount((shape + noise).argmax(-1)[0], minlength=4)
    p = (logits / temperature).softmax(0)
    assert ((counts - n * p).abs() < 4 * (n * p * (1 - p)).sqrt()).all()


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_a_model_is_as_sure_of_a_token_as_without_the_noise_that_drew_it(temperature):
    scores = torch.randn(1, 3, 50, V, generator=torch.Generator().manual_seed(0))
    streams = [_stream(0, key, torch.device("cpu")) for key in range(3)]
    token, sure = _propose(scores, replace(PLAIN, temperature=temperature), (), streams)
    logp = scores[0].double().log_softmax(-1)
    assert ((token == logp.argmax(-1)).all() == (temperature == 0)).item()
    assert (sure - logp.gather(-1, token[..., None])[..., 0]).abs().max() < 1e-12


def test_of_drawn_tokens_those_of_the_largest_probability_are_kept():
    """The same draws with one step and with two: what the first keeps is the surer half."""
    model = a_model(scale=1.0)
    for key in range(20):
        how = Sampling(8, 8, 1, temperature=1.5, stop_at_eos=False)
        (drawn,) = generate(model, [PROMPTS[2]], how, keys=[key])
        watched = Watched(model)
        generate(watched, [PROMPTS[2]], replace(how, steps=2), keys=[key])
        after = torch.tensor(watched.seen[1][0][5:])
        p = probabilities(model, PROMPTS[2].tolist() + [MASK] * 8, 0.0, 5)[5:]
        surest = np.argsort(-p[np.arange(8), drawn.numpy()])[:4]
        kept = (after != MASK).nonzero().flatten()
        assert sorted(surest.tolist()) == kept.tolist()
        assert torch.equal(after[kept], drawn[kept])


def test_one_token_is_drawn_from_the_model():
    """Through the whole sampler: 3,000 responses of one token against the model's softmax."""
    model, n = a_model(scale=1.0), 3000
    how = Sampling(1, 1, 1, temperature=1.0, stop_at_eos=False)
    found = torch.cat(generate(model, [PROMPTS[0]] * n, how, seed=1))
    p = probabilities(model, [*PROMPTS[0].tolist(), MASK], 0.0, 3)[-1]
    for token in range(V):
        count = int((found == token).sum())
        assert abs(count - n * p[token]) <= 4 * math.sqrt(n * p[token] * (1 - p[token]))


def likes_to_end():
    """A model that would end often: twice the score of token 0, where that is above zero."""
    model = a_model()
    with torch.no_grad():
        model.ff_out.weight[EOS] = 2 * model.ff_out.weight[0]
    return model


def test_the_response_is_cut_before_its_first_end_token():
    model = a_model()
    for how in (PLAIN, replace(PLAIN, end_ids=(3,)), replace(PLAIN, end_ids=(0, EOS, 4))):
        whole = generate(model, PROMPTS, how)
        cut = generate(model, PROMPTS, replace(how, stop_at_eos=True))
        ends = how.end_ids or (EOS,)
        for a, b in zip(whole, cut, strict=True):
            tokens = a.tolist()
            first = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
            assert b.tolist() == tokens[:first]


def test_no_block_is_written_after_an_end():
    model = Watched(likes_to_end())
    how = replace(PLAIN, stop_at_eos=True)
    found = generate(model, PROMPTS, how)
    blocks = [len(response) // 4 + 1 for response in found]
    assert min(blocks) < 3
    shown = [sum(1 for step in model.seen if len(step) > b) for b in range(len(PROMPTS))]
    assert sum(shown) == sum(4 * min(n, 3) for n in blocks)  # one token a step


def test_an_end_token_of_no_confidence_is_kept_last():
    """Of each block: before an end token is kept, no other token is proposed for what is left."""
    model = Watched(likes_to_end())
    how = replace(PLAIN, block_length=12, eos_confidence_zero=True)
    (found,) = generate(model, PROMPTS[:1], how)
    assert EOS in found
    shown = [step[0] for step in model.seen] + [PROMPTS[0].tolist() + found.tolist()]
    for before, after in pairwise(shown):
        new = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        if EOS in [after[i] for i in new]:
            p = probabilities(model.model, before, 0.0, 3)
            left = [i for i, token in enumerate(before) if token == MASK]
            assert {int(p[i].argmax()) for i in left} == {EOS}


def test_the_mask_token_is_never_written():
    model = a_model()
    with torch.no_grad():
        model.ff_out.weight[MASK] = 20 * model.ff_out.weight[0]
    assert MASK not in torch.cat(generate(model, PROMPTS, PLAIN))


def test_a_model_with_adapters_is_sampled_with_them():
    plain, policy = a_model(), with_lora(a_model(), rank=2)
    assert torch.equal(*(torch.cat(generate(m, TELLING, PLAIN)) for m in (plain, policy)))
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))
    merged = [torch.cat(generate(policy, TELLING, PLAIN))]
    merged += [torch.cat(generate(policy.merge_and_unload(), TELLING, PLAIN))]
    assert torch.equal(*merged)
    assert not torch.equal(merged[0], torch.cat(generate(plain, TELLING, PLAIN)))


@pytest.mark.parametrize("L", [1, 4])
def test_greedy_is_what_the_sampler_writes_one_token_a_step(L):
    model = a_model()
    how = Sampling(L, L, L, stop_at_eos=False)
    for prompt in PROMPTS:
        (own,) = generate(model, [prompt], how)
        assert is_greedy(model, prompt, own)
        for place in range(L):
            other = own.clone()
            other[place] = (own[place] + 1) % EOS
            assert not is_greedy(model, prompt, other)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gen_length": 10}, "multiple of block_length, got 10 and 4: take gen_length = 8"),
        ({"steps": 10}, "want steps to be a multiple of the 3 blocks"),
        ({"steps": 24}, "at most gen_length = 12 .*wasted"),
        ({"steps": 0}, "want steps >= 1"),
        ({"temperature": -1.0}, "want temperature and cfg_scale >= 0"),
        ({"cfg_scale": float("nan")}, "want temperature and cfg_scale >= 0"),
        ({"remasking": "entropy"}, "want remasking low_confidence or random, got 'entropy'"),
    ],
)
def test_a_way_to_sample_that_cannot_be_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **changed)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "at least one prompt"),
        ([torch.tensor([1]), torch.tensor([2, MASK])], "prompt 1: .*without the mask token 8"),
        ([torch.tensor([[1]])], r"prompt 0: want integer tokens \[P\], got \[1, 1\]"),
        ([torch.tensor([0.5])], "prompt 0: want integer tokens"),
        ([torch.zeros(53).long()], r"max_length = 64 tokens, got 53 \+ 12: cut the prompt"),
        ([torch.tensor([9])], r"want tokens in \[0, 9\), got 9"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(prompts, message):
    with pytest.raises(ValueError, match=message):
        generate(a_model(), prompts, PLAIN)


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
def test_scores_that_are_no_numbers_write_no_text(remasking):
    model = a_model()
    with torch.no_grad():
        model.wte.weight[3] = torch.nan  # the third token of the first prompt
    with pytest.raises(ValueError, match="got nan"):
        generate(model, PROMPTS, replace(PLAIN, remasking=remasking))
    with pytest.raises(ValueError, match="got nan"):
        is_greedy(model, PROMPTS[0], torch.tensor([1]))


class Vocabulary:
    """As much of a tokenizer as is looked at."""

    def __init__(self, eos, **names):
        self.eos_token_id, self.names = eos, names

    def get_vocab(self):
        return self.names


def test_a_response_ends_as_the_model_the_tokenizer_and_the_chat_template_say():
    public = replace(SIZE, vocab_size=126_464, eos_id=126_081)
    assert end_ids_of(public, object()) == (126_081,)
    named = Vocabulary(126_081, **{"<|eot_id|>": 126_348, "hello": 3})
    assert end_ids_of(public, named) == (126_081, 126_348)
    assert end_ids_of(SIZE, named) == (EOS,)  # what the model cannot write ends nothing
    assert end_ids_of(replace(SIZE, eos_id=None), Vocabulary(2)) == (2,)
    assert end_ids_of(replace(SIZE, eos_id=None), Vocabulary(None)) == ()


def test_end_tokens_of_no_confidence_must_be_known():
    model = MaskedDiffusionLM.initialised(replace(SIZE, eos_id=None), 0)
    how = replace(PLAIN, eos_confidence_zero=True)
    with pytest.raises(ValueError, match="give end_ids"):
        generate(model, PROMPTS, how)
    generate(model, PROMPTS, replace(how, end_ids=(EOS,)))


def test_a_key_belongs_to_a_prompt():
    with pytest.raises(ValueError, match="want a key a prompt, got 1 and 4"):
        generate(a_model(), PROMPTS, PLAIN, keys=[0])
