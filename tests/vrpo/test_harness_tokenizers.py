"""The adapter under tokenizers of several libraries, and their special tokens."""

import torch
from test_harness import END, LETTERS, Letters, a_model, harness, requests, written

from core.vrpo.harness import MaskedDiffusionHarness
from core.vrpo.llada import save_llada
from core.vrpo.sampling import Sampling, generate


def fast_letters(turn=None):
    """The same, as a tokenizer of the library `tokenizers`, which answers with an object.

    `turn` is the place that <|eot_id|> takes of a letter.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["<|eot_id|>" if i == turn else letter for i, letter in enumerate(LETTERS)]
    vocabulary = {name: i for i, name in enumerate(names)}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))  # type: ignore[call-arg]
    fast.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[assignment]
    return fast


def turn_letters(folder, turn):
    """A tokenizer of `transformers` with the letter `turn` a special token that nothing names."""
    from tokenizers import decoders
    from transformers import PreTrainedTokenizerFast

    fast = fast_letters(turn)
    fast.decoder = decoders.Fuse()  # type: ignore[assignment]
    fast.add_special_tokens(["<|eot_id|>"])  # in the vocabulary already: it keeps its place
    PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(folder)
    found = PreTrainedTokenizerFast.from_pretrained(folder)
    assert "<|eot_id|>" not in found.all_special_tokens
    return found


def test_a_tokenizer_may_answer_with_an_object():
    asked = requests("loglikelihood", ("abc", "de"))
    found = MaskedDiffusionHarness(a_model(), fast_letters()).loglikelihood(asked)
    assert found == harness().loglikelihood(asked)


def test_a_checkpoint_is_evaluated_with_its_own_tokenizer(tmp_path):
    from transformers import PreTrainedTokenizerFast

    save_llada(a_model(), tmp_path / "hub")
    PreTrainedTokenizerFast(tokenizer_object=fast_letters()).save_pretrained(tmp_path / "hub")
    lm = MaskedDiffusionHarness.from_checkpoint(tmp_path / "hub", n=7)
    asked = requests("loglikelihood", ("abc", " de"))
    assert lm.loglikelihood(asked) == harness(n=7).loglikelihood(asked)


def test_special_tokens_are_left_out_of_the_text():
    model = a_model()
    with torch.no_grad():
        model.ff_out.weight[END] = 3 * model.ff_out.weight[0]
    how = Sampling(8, 8, 8, stop_at_eos=False)
    lm = MaskedDiffusionHarness(model, Letters(), sampling=how)
    prompt = torch.tensor(Letters().encode("abc"))
    raw = Letters().decode(generate(lm.model, [prompt], lm.sampling)[0].tolist())
    assert "<end>" in raw
    assert written(lm, ("abc", {})) == [raw.replace("<end>", "")]


def test_a_special_token_that_nothing_names_is_left_out_and_ends_an_answer(tmp_path):
    """The model's most likely letters, one of them made such a token."""
    model, prompt = a_model(), torch.tensor(Letters().encode("abc"))
    (tokens,) = generate(model, [prompt], Sampling(8, 8, 8, stop_at_eos=False))
    turn = int(tokens[5])
    tokenizer = turn_letters(tmp_path, turn)
    first = tokens.tolist().index(turn)
    letters = [LETTERS[t] for t in tokens.tolist() if t < END and t != turn]
    before = "".join(LETTERS[t] for t in tokens.tolist()[:first])
    through = Sampling(8, 8, 8, stop_at_eos=False)
    lm = MaskedDiffusionHarness(model, tokenizer, sampling=through)
    assert lm.sampling.end_ids == (END, turn)
    assert written(lm, ("abc", {})) == ["".join(letters)]
    # as a stop string of a request
    assert written(lm, ("abc", {"until": ["<|eot_id|>"]})) == [before]
    # and as an end, unless other ends are given
    ends = MaskedDiffusionHarness(model, tokenizer, sampling=Sampling(8, 8, 8))
    assert written(ends, ("abc", {})) == [before]
    own = MaskedDiffusionHarness(model, tokenizer, sampling=Sampling(8, 8, 8, end_ids=(END,)))
    assert written(own, ("abc", {})) == ["".join(letters)]
