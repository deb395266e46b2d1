r"""Masked diffusion models under lm-evaluation-harness: likelihoods and text.

The harness knows causal models alone. This adapter gives it what a masked diffusion model has:

* a log-likelihood is the ELBO of Eq. (14), a lower bound, estimated on n masks with systematic
  counts; a response so short that it has no more than n masks gets its exact value, in as many
  passes (one token: one). The options of one question see the same random numbers, so that options
  of equal length are compared on the same masks;
* text is written by `core.vrpo.sampling`;
* "greedy" means that the model, one most confident token at a time, writes this very response.

Every answer depends on the seed and its own request alone, rounding apart. Where a process group
is up before the adapter is made, each process answers its share and the first has the results.

    from lm_eval import simple_evaluate
    simple_evaluate(MaskedDiffusionHarness(model, tokenizer), tasks=["arc_easy"])

Source: arXiv:2505.19223v2, Eq. (14), Table 6.
"""

import hashlib
import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from inspect import signature
from itertools import islice, product
from math import comb, isnan
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, distributed, nn

from core.vrpo.draws import Design, Draws, draw
from core.vrpo.llada import load_llada
from core.vrpo.model import Config
from core.vrpo.packing import pack
from core.vrpo.sampling import Sampling, end_ids_of, generate, is_greedy

try:
    from lm_eval.api.model import LM
except ImportError as error:
    raise ImportError(
        "core.vrpo.harness needs lm-evaluation-harness: pip install lm_eval"
    ) from error

log = logging.getLogger(__name__)

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
KNOWN = {*LENGTHS, "until", "temperature", "do_sample"}


class Masked(NamedTuple):
    """One response under one mask, and where its term belongs."""

    prompt: Tensor
    response: Tensor
    mask: Tensor
    request: int
    weight: float


class MaskedDiffusionHarness(LM):
    """A masked diffusion model as lm-evaluation-harness wants it; see the module."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        n: int = 128,
        batch_size: int = 32,
        seed: int = 0,
        sampling: Sampling | None = None,
        check_greedy: bool = True,
    ) -> None:
        """Take the model as it is; put it in `eval` mode before.

        Args:
            model: a `MaskedDiffusionLM`, or one with adapters.
            tokenizer: has `encode(text)`, tokens or an object with `ids`, and `decode(tokens)`; its
                special tokens are left out of texts where `decode` takes `skip_special_tokens`.
            n: masks for a log-likelihood.
            batch_size: sequences in a pass.
            seed: of all random numbers.
            sampling: how text is written; a request's own length, temperature and stops win.
                Without `end_ids`, text ends at those of `core.vrpo.sampling.end_ids_of`.
            check_greedy: whether "greedy" is looked at: up to as many passes as a response has
                tokens. False answers no; of the usual metrics only LAMBADA's accuracy reads it.

        Raises:
            ValueError: `n` or `batch_size` is below one.
        """
        super().__init__()
        if n < 1 or batch_size < 1:
            raise ValueError(f"want n >= 1 and batch_size >= 1, got {n} and {batch_size}")
        self.model, self.tokenizer = model, tokenizer
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.config = cast(Config, model.config)
        how = Sampling() if sampling is None else sampling
        ends = end_ids_of(self.config, tokenizer) if how.end_ids is None else how.end_ids
        self.sampling = replace(how, end_ids=ends)
        self.check_greedy = check_greedy
        self._can_skip = "skip_special_tokens" in signature(tokenizer.decode).parameters
        self._device = next(model.parameters()).device
        if distributed.is_available() and distributed.is_initialized():
            self._rank, self._world_size = distributed.get_rank(), distributed.get_world_size()

    @classmethod
    def from_checkpoint(
        cls,
        folder: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> "MaskedDiffusionHarness":
        """Return the adapter of a LLaDA checkpoint and the tokenizer in its folder.

        Args:
            folder: the checkpoint, as `core.vrpo.llada.load_llada` reads it.
            device: where the model shall be.
            dtype: of its parameters; None: as stored.
            **options: those of the class.
        """
        from transformers import AutoTokenizer  # seconds

        model = load_llada(folder, device=device, dtype=dtype).eval()
        return cls(model, AutoTokenizer.from_pretrained(folder), **options)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Return for each (context, continuation) the estimated ELBO, in nats, and "greedy".

        Spaces that end a context go to its continuation. A context that is too long is cut from
        the left, and that is logged; a continuation never is.

        Raises:
            ValueError: a continuation has no token or is longer than the model reads, or a text
                holds the mask token.
        """
        pairs = [self._encode_pair(*request.args) for request in requests]
        scores = self._elbo(pairs)
        answers = []
        for request, pair, score in zip(requests, pairs, scores, strict=True):
            greedy = self.check_greedy and is_greedy(self.model, *pair)
            answers.append((score, greedy))
            self.cache_hook.add_partial("loglikelihood", request.args, answers[-1])
        return answers

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Return for each (text,) the estimated ELBO of the whole text, in nats.

        A text longer than `max_length` is scored in windows, by the chain rule with a shortened
        past: the first `max_length` tokens, then half as many at a time after the half before.

        Raises:
            ValueError: a text is empty or holds the mask token.
        """
        windows = [
            (r, *window)
            for r, request in enumerate(requests)
            for window in self._windows(self._tokens(request.args[0]))
        ]
        answers = [0.0] * len(requests)
        for (r, *_), score in zip(windows, self._elbo([w[1:] for w in windows]), strict=True):
            answers[r] += score
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return answers

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Return for each (context, options) a text, up to its first stop string or end token.

        Of the options, `until`, `max_gen_toks` (or its aliases), `temperature` and `do_sample` are
        heeded and others logged as ignored. The response has `max_gen_toks` masks, rounded up to
        whole blocks, and is cut back; the tokens a step keeps are those of `sampling`.

        Raises:
            ValueError: context and response do not fit, or a context holds the mask token.
        """
        ways = [self._way(options) for _, options in (request.args for request in requests)]
        answers = [""] * len(requests)
        seen: Counter[tuple[int, ...]] = Counter()
        keys, prompts = [], []
        for request, (how, _) in zip(requests, ways, strict=True):
            prompt = self._cut(self._tokens(request.args[0]), how.gen_length)
            name = tuple(prompt.tolist())
            keys.append(_key([*name, seen[name]]))  # a request that is repeated is another draw
            seen[name] += 1
            prompts.append(prompt)
        for how in dict.fromkeys(how for how, _ in ways):
            mine = [r for r, (way, _) in enumerate(ways) if way == how]
            for batch in _batches(mine, self.batch_size):
                found = generate(
                    self.model,
                    [prompts[r] for r in batch],
                    how,
                    seed=self.seed,
                    keys=[keys[r] for r in batch],
                )
                for r, response in zip(batch, found, strict=True):
                    answers[r] = self._text(response, ways[r][1])
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, answer)
        return answers

    @torch.no_grad()
    def _elbo(self, pairs: Sequence[Sequence[Tensor]]) -> list[float]:
        """Return the estimate of each (prompt, response), every pass full of sequences.

        Raises:
            ValueError: the model gives a nan.
        """
        answers = [0.0] * len(pairs)
        for batch in _batches(self._masked(pairs), self.batch_size):
            columns = ([row[i] for row in batch] for i in range(3))
            packed = pack(*columns, mask_id=self.config.mask_id).to(str(self._device))
            for row, S in zip(batch, self.model(packed).tolist(), strict=True):
                answers[row.request] += row.weight * S
        bad = [r for r, answer in enumerate(answers) if isnan(answer)]
        if bad:
            raise ValueError(
                f"want log-likelihoods that are numbers, got nan for request(s) {bad[:5]}: look at "
                "them; if they are in order, the model's weights are not"
            )
        return answers

    def _masked(self, pairs: Sequence[Sequence[Tensor]]) -> Iterator[Masked]:
        """Yield each pair under each of its masks; few are in memory at a time."""
        design = Design(n_t=self.n, counts="systematic")
        for r, (prompt, response) in enumerate(pairs):
            draws = _distinct(masks_of(design, len(response), self.seed, _key(prompt.tolist())))
            for mask, weight in zip(draws.masks, draws.weights.tolist(), strict=True):
                yield Masked(prompt, response, mask, r, weight)

    def _tokens(self, text: str) -> Tensor:
        found = self.tokenizer.encode(text)
        return torch.tensor(getattr(found, "ids", found), dtype=torch.int64)

    def _encode_pair(self, context: str, continuation: str) -> tuple[Tensor, Tensor]:
        """Encode both together, and split where the context alone ends."""
        bare = context.rstrip()
        prompt = self._tokens(bare)
        whole = self._tokens(context + continuation)
        response = whole[len(prompt) :]
        if len(response) == 0:
            raise ValueError(f"want a continuation of at least one token, got {continuation!r}")
        return self._cut(whole[: len(prompt)], len(response)), response

    def _cut(self, prompt: Tensor, L: int) -> Tensor:
        """Cut a prompt from the left to what a response of L tokens leaves it."""
        room = self.config.max_length - L
        if room < 0:
            raise ValueError(
                f"want a response of at most max_length = {self.config.max_length} tokens, got {L}"
            )
        if len(prompt) > room:
            log.warning("a context of %d tokens is cut to its last %d", len(prompt), room)
        return prompt[len(prompt) - min(room, len(prompt)) :]

    def _windows(self, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Split a text into (prompt, response), each token in one response."""
        if len(tokens) == 0:
            raise ValueError("want a text of at least one token, got an empty one")
        longest = self.config.max_length
        half = max(1, longest // 2)
        starts = range(longest, len(tokens), half)
        later = [(tokens[s - (longest - half) : s], tokens[s : s + half]) for s in starts]
        return [(tokens[:0], tokens[:longest]), *later]

    def _way(self, options: dict[str, Any]) -> tuple[Sampling, tuple[int, tuple[str, ...]]]:
        """Return how a request wants its text, its most tokens, and where it stops."""
        unknown = sorted(options.keys() - KNOWN)
        if unknown:
            log.warning("generation options without a meaning here: %s", ", ".join(unknown))
        own = self.sampling
        most = next((int(options[k]) for k in LENGTHS if options.get(k)), own.gen_length)
        per_block = own.steps // own.blocks
        block = min(own.block_length, most)
        blocks = -(-most // block)
        steps = max(1, block * per_block // own.block_length)
        warm = options.get("temperature")
        temperature = own.temperature if warm is None else float(warm)
        how = replace(
            own,
            gen_length=blocks * block,
            block_length=block,
            steps=blocks * steps,
            temperature=0.0 if options.get("do_sample") is False else temperature,
        )
        until = options.get("until") or ()
        stops = (until,) if isinstance(until, str) else tuple(until)
        return how, (most, tuple(stop for stop in stops if stop))

    def _text(self, response: Tensor, limits: tuple[int, tuple[str, ...]]) -> str:
        """Decode, cut before the first stop string, leave out special tokens, named or not."""
        most, stops = limits
        tokens = response[:most].tolist()

        def text(count: int, *, plain: bool) -> str:
            skip = {"skip_special_tokens": plain} if self._can_skip else {}
            return self.tokenizer.decode(tokens[:count], **skip)

        def stopped(count: int) -> bool:  # a stop string may be a special token's
            return any(stop in text(count, plain=False) for stop in stops)

        # where the first stop string is complete, or all
        count = bisect_left(range(len(tokens)), True, key=stopped) if stops else len(tokens)
        found = text(count, plain=True)
        return found[: min((found.find(stop) for stop in stops if stop in found), default=None)]

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all processes, flat, one after another."""
        if self.world_size == 1:
            return tensor
        parts = [torch.empty_like(tensor.reshape(-1)) for _ in range(self.world_size)]
        distributed.all_gather(parts, tensor.reshape(-1))
        return torch.cat(parts)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any]:
        """Return what all processes hold, in the process `dst`; nothing in the others."""
        if self.world_size == 1:
            return [obj]
        parts = [None] * self.world_size if self.rank == dst else []
        distributed.gather_object(obj, parts or None, dst=dst)
        return parts

    def barrier(self) -> None:
        """Wait for the other processes."""
        if self.world_size > 1:
            distributed.barrier()

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the harness's caches."""
        return str(getattr(self.tokenizer, "name_or_path", type(self.tokenizer).__name__))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the tokenizer's chat template, as text, for the harness's records."""
        return str(getattr(self.tokenizer, "chat_template", None) or "")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return the messages as one text, by the tokenizer's chat template."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )


def masks_of(design: Design, length: int, *key: int) -> Draws:
    """Return the masks of an ELBO's estimate, or all there are if the budget reaches.

    Args:
        design: the budget.
        length: L, tokens of the response.
        *key: names the random numbers.

    Returns:
        `n` masks drawn by `core.vrpo.draws.draw`; or, where `2^L - 1 <= n`, every mask, with
        weights under which the mean over them is the ELBO itself: l masked tokens come with
        probability 1 / (L C(L, l)) and the weight L / l.
    """
    if length.bit_length() > 6 or 2**length - 1 > design.n:
        return draw(design, length, *key)
    masks = torch.tensor(list(product([False, True], repeat=length))[1:])
    counts = masks.sum(1).tolist()
    weights = [len(masks) / (l * comb(length, l)) for l in counts]
    return Draws(masks, torch.tensor(weights, dtype=torch.float64))


def _distinct(draws: Draws) -> Draws:
    """Return each mask once, with the sum of its weights over the number of draws."""
    masks, place = draws.masks.unique(dim=0, return_inverse=True)
    weights = torch.zeros(len(masks), dtype=torch.float64)
    return Draws(masks, weights.index_add(0, place, draws.weights / len(place)))


def _key(tokens: Iterable[int]) -> int:
    """Return an integer that these tokens name, everywhere the same."""
    return int.from_bytes(hashlib.sha256(repr(list(tokens)).encode()).digest()[:8])


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
