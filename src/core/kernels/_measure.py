"""Measure one case: no time without a check against the formula in 64 bits, ours or a peer's."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.kernels._ceilings import Ceilings
from core.kernels._subject import Case, Peer, Results, Subject, all_of, name_of, results
from core.timing import Call, alternate, free_bytes, peak_bytes

OURS = "ours"
PEER = 4.0
Row = dict[str, Any]


class Wrong(Exception):
    """The op does not compute what its formula says: there is nothing to time."""


class Verdict(NamedTuple):
    """How far off a result is, and how far it may be: of all results the one nearest the limit."""

    error: float
    """Relative, in the Frobenius norm; infinity where a result is not finite."""
    allowed: float

    @property
    def fine(self) -> bool:
        """Tell whether it may be timed."""
        return self.error <= self.allowed

    def __str__(self) -> str:
        """Return both numbers."""
        return f"error {self.error:.1e}, allowed {self.allowed:.1e}"


class Judge:
    """Holds the truth of a case: its formula in 64 bits, on the inputs as they were rounded.

    Allowed is twice the error of the same formula in the dtype of the case, plus one unit in the
    last place; in 64 bits, where that formula is the truth itself, 64 units. `Case.most` caps it.
    A peer only has to compute the same, not as well: it may be off by PEER times as much.
    """

    def __init__(self, subject: Subject, case: Case, inputs: Results, g: Tensor | Results) -> None:
        """Compute the truth, and the error of the formula in the dtype of the case."""
        wide = tuple(map(_widened, all_of(g)))
        wide_inputs = tuple(map(_widened, inputs))
        self.truth = subject.formula(case, wide_inputs, wide if isinstance(g, tuple) else wide[0])
        plain = subject.formula(case, inputs, g)
        units = 64 if wide[0].dtype == case.dtype else 1
        slack = units * torch.finfo(case.dtype).eps
        errors = [_error(x, truth) for x, truth in zip(plain, self.truth, strict=True)]
        self.allowed = [2 * error + slack for error in errors]
        self.most = case.most

    def ours(self, found: Results) -> Verdict:
        """Judge what the op returned."""
        limits = [min(self.most, allowed) for allowed in self.allowed]
        return _worst(map(_error, found, self.truth), limits)

    def peer(self, found: Results, arrange: Callable[[Tensor], Tensor]) -> Verdict:
        """Judge what a peer returned, in the layout to which `arrange` brings the truth."""
        errors = map(_error, found, map(arrange, self.truth))
        return _worst(errors, [PEER * allowed for allowed in self.allowed])


def measure(
    subject: Subject, case: Case, device: str, ceilings: Ceilings, peers: Mapping[str, Peer]
) -> Row:
    """Return one row of the table: check, then time ours and the peers by turns.

    Raises:
        Wrong: ours failed the check.
    """
    inputs, g = subject.draw(case, device)
    judge = Judge(subject, case, inputs, g)
    ours = partial(results, subject.call or subject.op, inputs, g, case)
    verdict = judge.ours(ours())
    if not verdict.fine:
        raise Wrong(f"{case}: {verdict}")
    calls = {name: _call_of(peer, inputs, g, case) for name, peer in peers.items()}
    others = {name: _tried(peers[name], calls[name], case, device, judge) for name in peers}
    del judge  # and the truth, which is large
    calls = {
        OURS: ours,
        **{name: call for name, call in calls.items() if "why" not in others[name]},
    }
    seconds = alternate(calls, device, rounds=3 if device == "cuda" else 9)
    costs = {name: _cost(call, seconds[name], device) for name, call in calls.items()}
    for name in costs.keys() & others.keys():
        others[name] |= {**costs[name], "ratio": _rounded(seconds[name] / seconds[OURS])}
    return {
        "case": case.name,
        "dtype": name_of(case.dtype),
        "shape": dict(case.shape),
        "pass": case.way,
        "impl": subject.serves(case, inputs),
        "error": _rounded(verdict.error),
        "allowed": _rounded(verdict.allowed),
        **costs[OURS],
        **_floor(case, seconds[OURS], ceilings),
        "peers": others,
    }


def _cost(call: Call, seconds: float, device: str) -> Row:
    return {"seconds": _rounded(seconds), "peak_bytes": peak_bytes(call, device)}


def _floor(case: Case, seconds: float, ceilings: Ceilings) -> Row:
    floor, bound = ceilings.floor(case)
    return {
        "floor_seconds": _rounded(floor),
        "floor_is": bound,
        "of_floor": _rounded(floor / seconds),
    }


def _call_of(peer: Peer, inputs: Results, g: Tensor | Results, case: Case) -> Call:
    """Return the call of a peer; its first run arranges the inputs, and later ones find them so."""

    @cache
    def arranged() -> tuple[Results, Results]:
        return tuple(map(peer.arrange, inputs)), tuple(map(peer.arrange, all_of(g)))

    def call() -> Results:
        return results(peer.call, *arranged(), case)

    return call


def _tried(peer: Peer, call: Call, case: Case, device: str, judge: Judge) -> Row:
    """Return a peer's error, and why it is not timed if it is not."""
    needs, free = peer.scratch(case), 0.9 * free_bytes(device)
    if needs > free:
        return {"why": f"would hold {needs / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free"}
    why = peer.limit(case)
    if why is not None:
        return {"why": why}
    try:
        verdict = judge.peer(call(), peer.arrange)
    except Exception as error:  # whatever a peer does, ours is measured
        first = (str(error).splitlines() or [""])[0]
        return {"why": f"failed, {type(error).__name__}: {first}"}
    found = {"error": _rounded(verdict.error)} if isfinite(verdict.error) else {}
    return found if verdict.fine else {**found, "why": str(verdict)}


def _worst(errors: Iterable[float], limits: list[float]) -> Verdict:
    pairs = list(map(Verdict, errors, limits))
    return max(pairs, key=lambda verdict: verdict.error / verdict.allowed)


def _error(x: Tensor, truth: Tensor) -> float:
    if x.shape != truth.shape or not torch.isfinite(x).all():
        return float("inf")
    size = torch.linalg.vector_norm(truth).item()
    return torch.linalg.vector_norm(x.to(truth.dtype) - truth).item() / (size or 1.0)


def _widened(x: Tensor) -> Tensor:
    if x.is_complex():
        return x.to(torch.complex128)
    return x.double() if x.is_floating_point() else x


def _rounded(x: float) -> float:
    return float(f"{x:.4g}")
