"""The adapter: likelihoods against every mask there is, text against the sampler, whole tasks."""

import builtins
import importlib
import logging
import sys
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance

from core.vrpo.draws import Design
from core.vrpo.harness import MaskedDiffusionHarness, masks_of
from core.vrpo.lora import with_lora
from core.vrpo.model import Config, MaskedDiffusionLM
from core.vrpo.sampling import Sampling, generate, is_greedy

LETTERS = "abcdefghijklmnop .?"
END, MASK = len(LETTERS), len(LETTERS) + 1
SIZE = Config(
    vocab_size=MASK + 1,
    d_model=16,
    n_layers=2,
    n_heads=2,
    mlp_hidden=24,
    mask_id=MASK,
    eos_id=END,
    max_length=48,
)


class Letters:
    """A tokenizer of single letters; its special tokens are written <end> and <mask>."""

    def encode(self, text):
        return [LETTERS.index(letter) for letter in text]

    def decode(self, tokens, skip_special_tokens=False):
        kept = [token for token in tokens if token < END or not skip_special_tokens]
        return "".join([*LETTERS, "<end>", "<mask>"][token] for token in kept)


def a_model(seed=0):
    """Sharper than at the start, so that answers differ."""
    model = MaskedDiffusionLM.initialised(SIZE, seed).double()
    with torch.no_grad():
        model.ff_out.weight.mul_(2.0)
    return model


def harness(**options):
    return MaskedDiffusionHarness(a_model(), Letters(), **options)


def requests(kind, *arguments):
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def masked_loglikelihood(model, prompt, response, places):
    """S from the logits of one sequence."""
    tokens = torch.tensor(prompt + [MASK if i in places else t for i, t in enumerate(response)])
    with torch.no_grad():
        logp = model.logits(tokens, (len(tokens),)).log_softmax(-1)
    return sum(float(logp[len(prompt) + i, response[i]]) for i in places)


def terms(model, context, continuation):
    """(L / l) S for every mask, by its count l."""
    prompt, response = Letters().encode(context), Letters().encode(continuation)
    L = len(response)
    return [
        [
            L / l * masked_loglikelihood(model, prompt, response, places)
            for places in combinations(range(L), l)
        ]
        for l in range(1, L + 1)
    ]


@pytest.mark.parametrize(("context", "continuation"), [("abc", " de"), ("", "p"), ("a b", " c.?d")])
def test_a_short_answer_gets_its_elbo_exactly(context, continuation):
    """Float64: mean over counts of the mean over masks; 1e-12 relative is rounding."""
    found = harness(n=63).loglikelihood(requests("loglikelihood", (context, continuation)))
    truth = np.mean([np.mean(group) for group in terms(a_model(), context, continuation)])
    assert abs(found[0][0] - truth) < 1e-12 * abs(truth)


def test_an_exact_answer_takes_no_more_passes_than_masks():
    lm, seen = harness(n=128), []
    lm.model.register_forward_pre_hook(lambda _, args: seen.extend(args[0].lengths))
    lm.check_greedy = False
    lm.loglikelihood(requests("loglikelihood", ("ab", "c"), ("ab", "cd")))
    assert len(seen) == 1 + 3


def test_a_longer_answer_is_estimated_without_bias():
    """Over 60 seeds the mean of n = 16 is within four of its standard errors; n = 16 of 63."""
    pair = ("abc", " de.fg")
    truth = np.mean([np.mean(group) for group in terms(a_model(), *pair)])
    found = [
        harness(n=16, seed=seed, check_greedy=False).loglikelihood(requests("loglikelihood", pair))[
            0
        ][0]
        for seed in range(60)
    ]
    error = np.std(found, ddof=1) / np.sqrt(60)
    assert abs(np.mean(found) - truth) < 4 * error
    assert error > 0


def test_systematic_counts_are_within_what_independent_ones_would_be():
    """One estimate, n = 62 of 63 masks: four standard errors of independent masks bound it."""
    pair = ("abc", " de.fg")
    groups = terms(a_model(), *pair)
    values = np.concatenate([np.array(group) for group in groups])
    p = np.concatenate([np.full(len(group), 1 / 6 / len(group)) for group in groups])
    truth, square = p @ values, p @ values**2
    ((found, _),) = harness(n=62).loglikelihood(requests("loglikelihood", pair))
    assert abs(found - truth) < 4 * np.sqrt((square - truth**2) / 62)


def test_answers_depend_on_seed_and_request_alone():
    """Other requests beside it and other batches change the rounding only."""
    asked = [("abc", " hello"), ("", "a bad cafe."), ("kkk. ", "abcdefgh"), ("abc", " olleh")]
    lm = harness(n=20, check_greedy=False)
    together = [score for score, _ in lm.loglikelihood(requests("loglikelihood", *asked))]
    lm.batch_size = 7
    for pair, score in zip(asked, together, strict=True):
        ((alone, _),) = lm.loglikelihood(requests("loglikelihood", pair))
        assert abs(alone - score) < 1e-11
    lm.seed = 1
    ((other, _),) = lm.loglikelihood(requests("loglikelihood", asked[0]))
    assert abs(other - together[0]) > 1e-6


def test_options_of_one_question_are_compared_on_the_same_masks():
    lm, seen = harness(n=10, batch_size=1, check_greedy=False), []
    lm.model.register_forward_pre_hook(lambda _, args: seen.append(args[0].rows.tolist()))
    lm.loglikelihood(requests("loglikelihood", ("abc", " hello ab"), ("abc", " baoleh a")))
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]


def test_spaces_that_end_a_context_go_to_its_continuation():
    lm = harness()
    one, two = lm.loglikelihood(requests("loglikelihood", ("abc ", "de"), ("abc", " de")))
    assert one == two


def test_greedy_is_what_the_model_writes():
    lm = harness(n=1)
    prompt = torch.tensor(Letters().encode("abc"))
    own = generate(lm.model, [prompt], Sampling(3, 3, 3, stop_at_eos=False))[0].tolist()
    assert set(own) <= set(range(len(LETTERS)))  # or its letters could not be asked for
    text = Letters().decode(own)
    other = ("b" if text[0] == "a" else "a") + text[1:]
    found = lm.loglikelihood(requests("loglikelihood", ("abc", text), ("abc", other)))
    assert [greedy for _, greedy in found] == [True, False]
    assert is_greedy(lm.model, prompt, torch.tensor(own))
    lm.check_greedy = False
    assert not lm.loglikelihood(requests("loglikelihood", ("abc", text)))[0][1]


def test_a_whole_text_is_a_response_without_a_prompt():
    lm = harness(n=63)
    ((score, _),) = lm.loglikelihood(requests("loglikelihood", ("", "a cad.")))
    (rolling,) = lm.loglikelihood_rolling(requests("loglikelihood_rolling", ("a cad.",)))
    assert abs(score - rolling) < 1e-12


def test_a_long_text_is_scored_in_windows_each_token_once():
    text = ("abc defg hij. " * 9)[:110]
    lm = harness(n=4, check_greedy=False)
    (found,) = lm.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    spans = [(0, 0, 48), (24, 48, 72), (48, 72, 96), (72, 96, 110)]  # 48 is the longest
    tokens = torch.tensor(Letters().encode(text))
    parts = lm._elbo([(tokens[a:b], tokens[b:c]) for a, b, c in spans])
    assert abs(found - sum(parts)) < 1e-9


def test_a_context_that_is_too_long_is_cut_from_the_left_and_that_is_said(caplog):
    lm = harness(n=3, check_greedy=False)
    text = "abcdefgh" * 8
    with caplog.at_level(logging.WARNING):
        found = lm.loglikelihood(requests("loglikelihood", (text, "no"), (text[-46:], "no")))
    assert abs(found[0][0] - found[1][0]) < 1e-12
    assert "a context of 64 tokens is cut to its last 46" in caplog.text


def written(lm, *asked):
    return lm.generate_until(requests("generate_until", *asked))


SHORT = Sampling(gen_length=8, block_length=4, steps=4)


def test_text_is_what_the_sampler_writes():
    lm = harness(sampling=SHORT)
    prompts = [torch.tensor(Letters().encode(text)) for text in ("abc", "de fgh")]
    truth = generate(lm.model, prompts, SHORT)
    found = written(lm, ("abc", {}), ("de fgh", {"until": []}))
    assert found == [Letters().decode(tokens.tolist()) for tokens in truth]
    assert max(map(len, found)) > 3


def test_text_ends_before_the_first_stop_string():
    lm = harness(sampling=SHORT)
    (whole,) = written(lm, ("abc", {}))
    one, two = whole[5], whole[2:4]
    assert written(lm, ("abc", {"until": one})) == [whole[: whole.index(one)]]
    cut = min(whole.index(one), whole.index(two))
    assert written(lm, ("abc", {"until": [one, two, "nowhere"]})) == [whole[:cut]]


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens"])
def test_a_request_may_want_another_length(name):
    """6 tokens are two blocks of 4, two tokens a step, cut back; 3 are one block of 3."""
    lm = harness(sampling=SHORT)
    prompt = torch.tensor(Letters().encode("abc"))
    for most, how in ((6, Sampling(8, 4, 4)), (3, Sampling(3, 3, 1)), (12, Sampling(12, 4, 6))):
        (tokens,) = generate(lm.model, [prompt], how)
        (found,) = written(lm, ("abc", {name: most}))
        assert found == Letters().decode(tokens[:most].tolist())


def test_requests_of_many_kinds_are_answered_in_order():
    lm = harness(sampling=SHORT, batch_size=2)
    asked = [("abc", {"max_gen_toks": 4}), ("d", {}), ("ab", {"max_gen_toks": 4}), ("", {})]
    asked += [("p?", {"temperature": 0.7, "do_sample": True})]
    together = written(lm, *asked)
    assert together == [written(lm, one)[0] for one in asked]


def test_repeats_of_a_request_are_other_draws():
    lm = harness(sampling=SHORT)
    warm = [("abc", {"temperature": 2.0})] * 4
    first = written(lm, *warm)
    assert len(set(first)) > 1
    assert written(lm, *warm) == first
    cold = [("abc", {"temperature": 2.0, "do_sample": False})] * 4
    assert len(set(written(lm, *cold))) == 1


def test_options_without_a_meaning_are_named(caplog):
    with caplog.at_level(logging.WARNING):
        written(harness(sampling=SHORT), ("abc", {"top_p": 0.9, "num_beams": 4}))
    assert "without a meaning here: num_beams, top_p" in caplog.text


def test_a_model_with_adapters_is_evaluated():
    policy = with_lora(a_model(), rank=2)
    lm = MaskedDiffusionHarness(policy, Letters(), n=7, sampling=SHORT)
    plain = harness(n=7, sampling=SHORT)
    asked = requests("loglikelihood", ("abc", " de"))
    assert lm.loglikelihood(asked) == plain.loglikelihood(asked)
    assert written(lm, ("abc", {})) == written(plain, ("abc", {}))


@pytest.mark.parametrize("L", [1, 2, 5])
def test_the_weights_of_all_masks_make_the_elbo_a_mean(L):
    masks, weights = masks_of(Design(n_t=64), L, 0)
    assert len(masks) == 2**L - 1 == len({tuple(mask) for mask in masks.tolist()})
    assert abs(weights.mean().item() - sum(1 / l for l in range(1, L + 1))) < 1e-12


QUESTIONS = [
    {"question": "abc", "options": [" de", " fg", " hij"], "answer": 1},
    {"question": "p?", "options": [" a", " b", " c"], "answer": 0},
    {"question": "a cafe", "options": [" in", " on", " no"], "answer": 2},
]


def task(name, kind, **rest):
    """A task of the harness on our questions, as its YAML files would describe it."""
    from datasets import Dataset

    return {
        "task": name,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(QUESTIONS)},
        "output_type": kind,
        "test_split": "test",
        "doc_to_text": "{{question}}",
        **rest,
    }


def choice_task():
    ask = {"doc_to_choice": "options", "doc_to_target": "answer", "target_delimiter": ""}
    return task("tiny_choice", "multiple_choice", **ask, metric_list=[{"metric": "acc"}])


def text_task():
    ask = {"doc_to_target": "{{question}}", "metric_list": [{"metric": "exact_match"}]}
    how = {"until": ["."], "max_gen_toks": 8, "do_sample": False}
    return task("tiny_text", "generate_until", **ask, generation_kwargs=how)


def test_whole_tasks_run_under_the_harness():
    """Accuracy and text, counted by the harness, against the same by hand."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    lm = harness(n=63, sampling=SHORT)
    results: Any = simple_evaluate(
        lm,
        tasks=[choice_task(), text_task()],
        task_manager=TaskManager(include_defaults=False),  # reads no task but ours
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    right = 0
    for q in QUESTIONS:
        elbos = [
            np.mean([np.mean(group) for group in terms(lm.model, q["question"], option)])
            for option in q["options"]
        ]
        right += int(np.argmax(elbos)) == q["answer"]
    assert abs(results["results"]["tiny_choice"]["acc,none"] - right / 3) < 1e-12
    samples = results["samples"]["tiny_text"]
    asked = [(q["question"], {"until": ["."], "max_gen_toks": 8}) for q in QUESTIONS]
    assert [sample["resps"][0][0] for sample in samples] == written(lm, *asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("abc", ""), "continuation of at least one token, got ''"),
        (("abc", "a" * 49), "response of at most max_length = 48 tokens, got 49"),
    ],
)
def test_a_continuation_that_cannot_be_scored_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        harness().loglikelihood(requests("loglikelihood", asked))


def test_texts_that_cannot_be_scored_or_written_are_refused():
    with pytest.raises(ValueError, match="want a text of at least one token"):
        harness().loglikelihood_rolling(requests("loglikelihood_rolling", ("",)))
    with pytest.raises(ValueError, match="max_length = 48 tokens, got 64"):
        written(harness(sampling=SHORT), ("abc", {"max_gen_toks": 64}))
    with pytest.raises(ValueError, match="want n >= 1 and batch_size >= 1, got 0 and 32"):
        harness(n=0)


def test_a_likelihood_that_is_no_number_is_refused_by_request():
    model = a_model()
    with torch.no_grad():
        model.wte.weight[LETTERS.index("p")] = torch.nan
    adapter = MaskedDiffusionHarness(model, Letters(), check_greedy=False)
    with pytest.raises(ValueError, match=r"got nan for request\(s\) \[1\]"):
        adapter.loglikelihood(requests("loglikelihood", ("ab", "c"), ("ap", "c")))


def test_without_the_harness_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("lm_eval"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "core.vrpo.harness")
    with pytest.raises(ImportError, match="pip install lm_eval"):
        importlib.import_module("core.vrpo.harness")
