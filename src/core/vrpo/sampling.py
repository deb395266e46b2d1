r"""Text from a masked diffusion model: semi-autoregressive, most confident tokens first.

The response starts as `gen_length` masks and is filled block by block from the left. Each step
proposes a token for every mask of the block and keeps those it is most sure of; the rest stay
masked. A block is complete before the next starts; prompt and kept tokens never change. Over the
steps of a block the tokens are shared evenly, the first steps taking one more where that does not
divide.

    proposal    argmax_v (logit_v - temperature log(-log u_v)),  u uniform, in float64
    confidence  softmax(logit)[proposal], without the noise; or a uniform number (`"random"`)
    guidance    logit = blind + (1 + cfg_scale) (seen - blind), blind: every prompt token masked

An instruction-tuned model is sure of its end token early, and then answers briefly: with
`eos_confidence_zero` an end token is kept last of its block. The mask token is never proposed.

Source: arXiv:2505.19223v2, Tables 4 and 6 and App. D; the sampler of the public LLaDA code, to
which the last sentence is an addition.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from core.train.seeds import generator
from core.vrpo.model import Config, MaskedDiffusionLM

TURN_ENDS = ("<|eot_id|>",)
"""What ends an answer beside the end of a text: in LLaDA's chat template, as trained on."""
AT_ONCE = 2**26  # scores held in float64: 512 MiB


@dataclass(frozen=True)
class Sampling:
    """How a response is written.

    Raises:
        ValueError: the lengths or steps do not divide, or a number is out of its range.
    """

    gen_length: int = 128
    """Tokens of the response, end and what follows it included."""
    block_length: int = 32
    """Tokens filled together; `gen_length` is one block: no order among the tokens is imposed."""
    steps: int = 128
    """Forward passes in all; `gen_length` keeps one token a step."""
    temperature: float = 0.0
    """Zero: the most likely token."""
    cfg_scale: float = 0.0
    """Above zero doubles the forward passes."""
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    eos_confidence_zero: bool = False
    stop_at_eos: bool = True
    """Write no block after one that holds an end token, and cut the response before it."""
    end_ids: tuple[int, ...] | None = None
    """Tokens that end a response; None: the model's `eos_id`, if it has one. An instruction-tuned
    model may end its turn with another: see `end_ids_of`."""

    def __post_init__(self) -> None:
        """Check that the response splits into blocks and the blocks' steps do some work."""
        for name in ("gen_length", "block_length", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"want {name} >= 1, got {getattr(self, name)}")
        if self.gen_length % self.block_length:
            near = max(1, round(self.gen_length / self.block_length)) * self.block_length
            raise ValueError(
                "want gen_length to be a multiple of block_length, "
                f"got {self.gen_length} and {self.block_length}: take gen_length = {near}"
            )
        if self.steps % self.blocks or self.steps > self.gen_length:
            raise ValueError(
                f"want steps to be a multiple of the {self.blocks} blocks, at most gen_length = "
                f"{self.gen_length} (a step that keeps no token is wasted), got {self.steps}"
            )
        if not 0 <= self.temperature < float("inf") or not 0 <= self.cfg_scale < float("inf"):
            raise ValueError(
                "want temperature and cfg_scale >= 0 and finite, "
                f"got {self.temperature} and {self.cfg_scale}"
            )
        if self.remasking not in ("low_confidence", "random"):
            raise ValueError(f"want remasking low_confidence or random, got {self.remasking!r}")

    @property
    def blocks(self) -> int:
        """How many blocks a response has."""
        return self.gen_length // self.block_length

    @property
    def kept(self) -> list[int]:
        """How many tokens each step of a block keeps; they sum to `block_length`."""
        steps = self.steps // self.blocks
        base, more = divmod(self.block_length, steps)
        return [base + (step < more) for step in range(steps)]


def end_ids_of(config: Config, tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end a response: the model's, the tokenizer's, and `TURN_ENDS`.

    Of LLaDA-8B-Instruct and LLaDA 1.5: `<|endoftext|>` and `<|eot_id|>`, 126348.

    Args:
        config: of the model.
        tokenizer: of `transformers` or `tokenizers`; of another, what it has of `eos_token_id` and
            `get_vocab()` is looked at.
    """
    vocabulary = getattr(tokenizer, "get_vocab", dict)()
    named = [config.eos_id, getattr(tokenizer, "eos_token_id", None)]
    named += [vocabulary.get(name) for name in TURN_ENDS]
    return tuple(dict.fromkeys(i for i in named if i is not None and i < config.vocab_size))


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[Tensor],
    how: Sampling,
    *,
    seed: int = 0,
    keys: Sequence[int] | None = None,
) -> list[Tensor]:
    """Return a response to each prompt.

    Prompts of any lengths go through the model as one pack. A response depends on its prompt and on
    `(seed, key)`, rounding apart, and not on what else is in the batch. Puts no module into `eval`
    mode. A step holds the scores of the block's masks, `B block_length V` numbers.

    Args:
        model: a `MaskedDiffusionLM`, or one with adapters.
        prompts: B of `[P]`, integer tokens, none of them the mask token; may be empty.
        how: lengths, steps and the rest.
        seed: with `keys`, names the random numbers of each response.
        keys: B integers from 0; None: the places in `prompts`.

    Returns:
        B of `[L]` int64 on the model's device: `L = gen_length`, or with `stop_at_eos` what comes
        before the first end token, possibly nothing.

    Raises:
        ValueError: no prompt, a prompt that holds the mask token or is not `[P]`, prompt and
            response together are longer than the model's `max_length`, as many keys as prompts are
            not given, `eos_confidence_zero` without an end token, or the model's scores are nan.
    """
    config, device = _parts(model)
    ends = _end_ids(config, how)
    prompts = _checked(prompts, config, device, how)
    keys = range(len(prompts)) if keys is None else keys
    if len(keys) != len(prompts):
        raise ValueError(f"want a key a prompt, got {len(keys)} and {len(prompts)}")
    streams = [_stream(seed, key, device) for key in keys]
    responses = torch.full((len(prompts), how.gen_length), config.mask_id, device=device)
    open_ = list(range(len(prompts)))
    for start in range(0, how.gen_length, how.block_length):
        block = slice(start, start + how.block_length)
        filled = responses[open_]
        for count in how.kept:
            places = (filled[:, block] == config.mask_id).nonzero()[:, 1] + start
            places = places.view(len(open_), -1)  # every response has as many masks left
            scores = _scores(model, [prompts[b] for b in open_], filled, places, how.cfg_scale)
            token, sure = _proposals(scores, how, ends, [streams[b] for b in open_])
            best = sure.argsort(dim=1, descending=True, stable=True)[:, :count]
            filled.scatter_(1, places.gather(1, best), token.gather(1, best))
        responses[open_] = filled
        if how.stop_at_eos:
            open_ = [b for b in open_ if not _ended(responses[b, : block.stop], ends)]
        if not open_:
            break
    return [_cut(response, ends) if how.stop_at_eos else response for response in responses]


@torch.no_grad()
def is_greedy(model: nn.Module, prompt: Tensor, response: Tensor) -> bool:
    """Return whether the model, left to itself, writes this response of this length.

    One block, one token a step, the most confident first; stops at the first that differs.

    Args:
        model: a `MaskedDiffusionLM`, or one with adapters.
        prompt: `[P]` integer tokens.
        response: `[L]` integer tokens, at least one.

    Raises:
        ValueError: as `generate`, or the response is empty.
    """
    L = len(response)
    how = Sampling(gen_length=L, block_length=L, steps=L)
    config, device = _parts(model)
    prompts = _checked([prompt], config, device, how)
    truth = response.to(device)
    filled = torch.full((1, L), config.mask_id, device=device)
    for _ in range(L):
        places = (filled == config.mask_id).nonzero()[None, :, 1]
        token, sure = _propose(_scores(model, prompts, filled, places, 0.0), how, (), [])
        best = sure.argmax(1)  # the first of equals
        at, found = places[0, best], token[0, best]
        if found != truth[at]:
            return False
        filled[0, at] = found
    return True


def _scores(
    model: nn.Module, prompts: list[Tensor], responses: Tensor, places: Tensor, cfg_scale: float
) -> Tensor:
    """Return the model's scores at `places` `[B, m]` of the responses `[B, G]`.

    Returns:
        `[1, B, m, V]`, or with guidance `[2, B, m, V]`: with the prompt seen and with it masked;
        in the model's dtype, the mask token's score -inf.
    """
    mask_id, device = cast(Config, model.config).mask_id, responses.device
    texts = [torch.cat(pair) for pair in zip(prompts, responses, strict=True)]
    size = torch.tensor([[len(text), len(text) - responses.shape[1]] for text in texts])
    starts = (size[:, 0].cumsum(0) - size[:, 0] + size[:, 1]).to(device)  # of the responses
    rows = (starts[:, None] + places).flatten()
    if cfg_scale:
        pairs = zip(prompts, responses, strict=True)
        blind = [torch.cat([torch.full_like(p, mask_id), r]) for p, r in pairs]
        rows = torch.cat([rows, rows + sum(map(len, texts))])
        texts = texts + blind
    lengths = tuple(len(text) for text in texts)
    scores = cast(MaskedDiffusionLM, model).logits(torch.cat(texts), lengths, rows)
    if scores.isnan().any():
        raise ValueError("want scores that are numbers, got nan: the model's weights are not right")
    scores[..., mask_id] = -torch.inf
    return scores.view(2 if cfg_scale else 1, *places.shape, -1)


def _proposals(
    scores: Tensor, how: Sampling, ends: tuple[int, ...], streams: list[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Do what `_propose` says, a few responses at a time: float64 takes room."""
    each = max(1, AT_ONCE // scores[0, 0].numel())
    starts = range(0, len(streams), each)
    parts = [_propose(scores[:, b : b + each], how, ends, streams[b : b + each]) for b in starts]
    token, sure = (torch.cat(column) for column in zip(*parts, strict=True))
    return token, sure


def _propose(
    scores: Tensor, how: Sampling, ends: tuple[int, ...], streams: list[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Return a token for every place, and how sure the model is of it, `[B, m]` each."""
    logits = scores[0].double()
    if len(scores) == 2:
        blind = scores[1].double().nan_to_num(neginf=0.0)  # -inf - -inf is no number
        logits = blind + (1 + how.cfg_scale) * (logits - blind)
    token = (logits + _noise(logits, how.temperature, streams)).argmax(-1)
    if how.remasking == "low_confidence":
        sure = logits.gather(-1, token[..., None])[..., 0] - logits.logsumexp(-1)  # its log
    else:
        sure = torch.stack([_uniform(logits.shape[1:2], s) for s in streams]).log()
    if how.eos_confidence_zero:
        sure = sure.masked_fill(torch.isin(token, _ids(ends, token.device)), -torch.inf)
    return token, sure


def _noise(logits: Tensor, temperature: float, streams: list[torch.Generator]) -> Tensor | float:
    """Return Gumbel noise: at temperature 1 the largest sum is a draw from softmax(logits)."""
    if temperature == 0:
        return 0.0
    u = torch.stack([_uniform(logits.shape[1:], stream) for stream in streams])
    return -temperature * (-u.log()).log()


def _uniform(shape: torch.Size, stream: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=stream, device=stream.device, dtype=torch.float64)


def _stream(seed: int, key: int, device: torch.device) -> torch.Generator:
    stream = torch.Generator(device)
    return stream.manual_seed(int(generator(seed, key).integers(2**63)))


def _parts(model: nn.Module) -> tuple[Config, torch.device]:
    """Return the model's size, through adapters too, and where it is."""
    return cast(Config, model.config), next(model.parameters()).device


def _end_ids(config: Config, how: Sampling) -> tuple[int, ...]:
    own = () if config.eos_id is None else (config.eos_id,)
    ends = own if how.end_ids is None else how.end_ids
    if how.eos_confidence_zero and not ends:
        raise ValueError(
            "want an end token for eos_confidence_zero, got none: give end_ids, or a model "
            "whose config has eos_id"
        )
    return ends


def _checked(
    prompts: Sequence[Tensor], config: Config, device: torch.device, how: Sampling
) -> list[Tensor]:
    """Return the prompts as int64 on the device."""
    if not len(prompts):
        raise ValueError("want at least one prompt, got none")
    for b, prompt in enumerate(prompts):
        if prompt.ndim != 1 or prompt.dtype.is_floating_point:
            shape = f"{list(prompt.shape)} of {prompt.dtype}"
            raise ValueError(f"prompt {b}: want integer tokens [P], got {shape}")
        if (prompt == config.mask_id).any():
            raise ValueError(
                f"prompt {b}: want a prompt without the mask token {config.mask_id}: "
                "the model would read it as unknown; remove it from the text"
            )
        if len(prompt) + how.gen_length > config.max_length:
            raise ValueError(
                f"prompt {b}: want prompt and response of at most max_length = "
                f"{config.max_length} tokens, got {len(prompt)} + {how.gen_length}: "
                "cut the prompt from the left, or take a smaller gen_length"
            )
    return [prompt.to(device, torch.int64) for prompt in prompts]


def _ids(ends: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(ends, dtype=torch.int64, device=device)


def _ended(response: Tensor, ends: tuple[int, ...]) -> bool:
    return bool(torch.isin(response, _ids(ends, response.device)).any())


def _cut(response: Tensor, ends: tuple[int, ...]) -> Tensor:
    """Return what comes before the first end token."""
    found = torch.isin(response, _ids(ends, response.device)).nonzero()
    return response[: int(found[0])] if len(found) else response
