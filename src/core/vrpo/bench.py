"""How long the exact engine, an alignment run, and the two ways to a gradient take.

All run on one thread, and seconds are those of the processor. The head's log-likelihood, against
the full logits of the public evaluation code, is measured by `core.kernels.bench linear_logprob`.
"""

import copy
import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from core.timing import seconds_of
from core.train.seeds import generator
from core.vrpo.alignment import align
from core.vrpo.draws import Design, draw
from core.vrpo.exact import all_masks
from core.vrpo.gradient import PairGradients, gram
from core.vrpo.model import MaskedDiffusionLM
from core.vrpo.packing import pack
from core.vrpo.pairs import PairTerms, pair_terms
from core.vrpo.preferences import Preference
from core.vrpo.scoring import Chunks
from core.vrpo.sorting import CONFIG, MASK, SortingWorld, sorting_world
from core.vrpo.trainer import Recipe, Trainer

Comparison = dict[str, float | str]
L, PAIRS = 8, 48


def main() -> dict[str, Comparison]:
    """Measure; about a minute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        world = sorting_world(1, train=64, held_out=16)
        return {
            f"every mask, L = {L}, {PAIRS} pairs, two models, float64": enumeration(),
            "the gradient of one pair, exactly, n = 8": exact_gradient(),
            "an alignment run, n = 4 shared, 100 steps of 16 pairs": run(world),
            "a training step, 16 pairs, n = 8": step(world),
        }
    finally:
        torch.set_num_threads(threads)


def enumeration() -> Comparison:
    """Time the tables of all masks, and one sequence at a time beside it."""
    models = [MaskedDiffusionLM.initialised(CONFIG, seed).double() for seed in (1, 2)]
    pairs = [_pair(example) for example in range(PAIRS)]
    seconds = _least(lambda: pair_terms(models[0], models[1], pairs))
    one = _least(lambda: _one_by_one(models[0], pairs[0].prompt, pairs[0].chosen))
    sequences = 4 * PAIRS * len(all_masks(L))
    return {
        "packed (s)": seconds,
        "one sequence at a time, scaled up (s)": 4 * PAIRS * one,
        "sequences": float(sequences),
        "ratio": 4 * PAIRS * one / seconds,
    }


def exact_gradient() -> Comparison:
    """Time mean and variance of the whole gradient, against sampling them to one per cent."""
    models = [MaskedDiffusionLM.initialised(CONFIG, seed).double() for seed in (1, 2)]
    pair = _pair(0)
    pair = dataclasses.replace(pair, chosen=pair.chosen[:6], rejected=pair.rejected[:6])
    terms = pair_terms(models[0], models[1], [pair])
    both = (pair.chosen, pair.rejected)
    gradients = _least(lambda: _hold("gram", gram(models[0], pair.prompt, both)))
    world = PairGradients(_held["gram"], PairTerms(*terms), 0.2)
    exact = gradients + _least(lambda: world.plain(8))
    masks = draw(Design(8), 6, 1).masks
    sample = _least(lambda: _gradient(models[0], pair, masks))
    samples = 20_000  # relative error of a variance: sqrt(2 / samples)
    return {
        "all 126 gradients, and the sums (s)": exact,
        f"{samples:,} sampled gradients, scaled up (s)": samples * sample,
        "ratio": samples * sample / exact,
    }


def run(world: SortingWorld) -> Comparison:
    """Time a run, and what it is judged by."""
    whole = _least(lambda: _hold("outcome", align(world, Design(4), seed=1)[1]))
    return {"training (s)": _held["outcome"].seconds, "with its exact judgement (s)": whole}


def step(world: SortingWorld) -> Comparison:
    """Time a step in one pass, which keeps everything, and in two, a few sequences at a time."""
    found: Comparison = {}
    for name, at_once in (("one pass", None), ("two passes, 32 sequences at once", 32)):
        policy = copy.deepcopy(world.reference)
        recipe = Recipe(100, batch=16, at_once=at_once)
        chunks = Chunks(MASK, at_once, torch.device("cpu"))
        trainer = Trainer(policy, world.train, recipe, reference=_Zero(chunks), mask_id=MASK)
        trainer.gradient()
        found[f"{name} (s)"] = _least(trainer.gradient)
        found[f"{name}, kept for the backward pass (MB)"] = _kept(trainer.gradient) / 1e6
    names = list(found)
    found["ratio of what is kept"] = float(found[names[1]]) / float(found[names[3]])
    found["ratio of time, one pass to two"] = float(found[names[0]]) / float(found[names[2]])
    return found


class _Zero:
    """A reference that costs nothing: both ways look its scores up."""

    def __init__(self, chunks: Chunks) -> None:
        self.chunks = chunks

    def __call__(self, batch) -> Tensor:
        n = len(batch.draws[0].reference[0].masks)
        return torch.zeros(len(batch.pairs), 2, n)


def _pair(example: int) -> Preference:
    rng = generator(3, example)
    x, w, l = (torch.from_numpy(rng.integers(0, 10, n)) for n in (6, L, L))
    return Preference(x, w, l, example)


@torch.no_grad()
def _one_by_one(model: MaskedDiffusionLM, x: Tensor, y: Tensor) -> None:
    for mask in all_masks(L):
        model(pack([x], [y], [mask], mask_id=MASK))


def _gradient(model: MaskedDiffusionLM, pair: Preference, masks: Tensor) -> None:
    n = len(masks)
    x, y = [pair.prompt] * 2 * n, [pair.chosen] * n + [pair.rejected] * n
    S = model(pack(x, y, list(masks) * 2, mask_id=MASK))
    torch.autograd.grad(S.sum(), list(model.parameters()))


_held: dict = {}


def _hold(name: str, value: object) -> None:
    _held[name] = value


def _kept(call: Callable[[], object]) -> float:
    """Return the most bytes that autograd held at a time, each storage once."""
    held: dict[int, int] = {}
    most = 0

    class Packed:
        def __init__(self, x: Tensor) -> None:
            self.x, self.at = x, x.untyped_storage().data_ptr()
            held[self.at] = x.untyped_storage().nbytes()

        def __del__(self) -> None:
            held.pop(self.at, None)

    def keep(x: Tensor) -> Packed:
        nonlocal most
        packed = Packed(x)
        most = max(most, sum(held.values()))
        return packed

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda packed: packed.x):
        call()
    return float(most)


def _least(call: Callable[[], object]) -> float:
    """Return the least processor time of three calls."""
    return min(seconds_of(call) for _ in range(3))
