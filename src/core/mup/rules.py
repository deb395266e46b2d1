r"""The rule of a parameter under muP: what initialisation and optimizer do with it at a new width.

A parameter is of one of five kinds, by which of its two fans grow with the width
(arXiv:2505.15270v3, Table 1; arXiv:2203.03466v2, Table 3):

    kind     fan-in   fan-out   reference: forward  init std   Adam lr
    input    finite   grows                1        s          eta
    hidden   grows    grows                1        s/sqrt(m)  eta/m
    output   grows    finite               1/m      s          eta
    vector   -        grows                1        s          eta
    finite   finite   finite               1        s          eta

m is the fan-in at the target over that at the base, s and eta what the base is trained with.

The reference multiplies in the forward pass: y = f W~ x. Here the tensor carries its factor itself,
W = f W~, and the forward pass stays as it is. With G and G~ = f G the gradients of W and W~, the
two are the same trajectory if

    init      W ~ f W~                     clip      the norm counts f G
    Adam      lr f, eps / f                SGD       lr f^2
    decay     AdamW: lr x decay unchanged; not multiplied by lr: unchanged; L2 in Adam: / f^2

f is `Entry.fold`. It is 1/m of an output, and whatever else a tensor is to carry, such as the
factor of attention (`attention.py`).

Symbols here and in the paper: `m_in`, `m_out` the width ratio $n/n_{base}$ of each fan.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Literal, NamedTuple, get_args

Kind = Literal["input", "hidden", "output", "vector", "finite"]
KINDS: tuple[str, ...] = get_args(Kind)

Optimizer = Literal["adamw", "decoupled", "adam", "sgd", "muon", "muon-rms"]
OPTIMIZERS: dict[str, str] = {
    "adamw": "torch.optim.AdamW: decay times the learning rate",
    "decoupled": "an AdamW whose decay is not times the learning rate",
    "adam": "torch.optim.Adam: decay added to the gradient",
    "sgd": "torch.optim.SGD, with or without momentum",
    "muon": "torch.optim.Muon, adjust_lr_fn='original' (its default)",
    "muon-rms": "torch.optim.Muon, adjust_lr_fn='match_rms_adamw'",
}
"""What `Plan.groups` knows, and what each name means."""


class Multipliers(NamedTuple):
    """What one parameter's group takes of the base's settings, as factors."""

    lr: float
    weight_decay: float
    eps: float


@dataclass(frozen=True)
class Entry:
    """One parameter of a model, as muP sees it."""

    shape: tuple[int, ...]
    """At the target width."""
    kind: Kind
    m_in: float = 1.0
    """Fan-in at the target over fan-in at the base; 1 where it is finite or there is none."""
    m_out: float = 1.0
    """The same of the fan-out; of a vector, of the dimension that grows."""
    fans: tuple[int, int] = (1, 1)
    """Fan-out and fan-in at the target, for a matrix and for convolutions (kernel apart)."""
    fold: float = 1.0
    """The forward factor of the reference that this tensor carries itself."""
    rate: float = 1.0
    """A further factor of the learning rate, such as that of a block's depth."""
    spread: float = 1.0
    """A further factor of the law at initialisation."""

    @property
    def init(self) -> float:
        """The factor on the law of the same tensor at the base width."""
        return self.spread * self.fold * (self.m_in**-0.5 if self.kind == "hidden" else 1.0)

    def multipliers(self, optimizer: str) -> Multipliers:
        """Return what an optimizer's group of this parameter takes.

        Raises:
            ValueError: no rule for the optimizer, or it does not take such a parameter.
        """
        check_optimizer(optimizer)
        if optimizer.startswith("muon"):
            return self._muon(optimizer)
        if optimizer == "sgd":
            lr = self._sgd_rate() * self.fold**2
            return Multipliers(lr, 1 / lr, 1.0)
        reference = self.rate * (1 / self.m_in if self.kind == "hidden" else 1.0)
        lr = reference * self.fold
        decay = {"adamw": 1 / lr, "decoupled": 1.0, "adam": 1 / (reference * self.fold**2)}
        return Multipliers(lr, decay[optimizer], 1 / self.fold)

    def _sgd_rate(self) -> float:
        """arXiv:2203.03466v2, Table 3: the gradient of what grows on one side shrinks with it."""
        if self.kind == "hidden":
            return self.rate * self.m_out / self.m_in
        return self.rate * {"output": self.m_in}.get(self.kind, self.m_out)

    def _muon(self, optimizer: str) -> Multipliers:
        """An orthogonal update wants norm sqrt(fan_out / fan_in) (arXiv:2310.17813v2, Condition 1).

        torch's own adjustment does that up to what grows wrongly with the width, which is undone.
        """
        if not self.muon:
            raise ValueError(
                f"torch.optim.Muon takes hidden matrices, not {self.kind} {list(self.shape)}: "
                "give the rest to AdamW, groups(..., optimizer='adamw', beside='muon')"
            )
        base = self.fans[0] / self.m_out, self.fans[1] / self.m_in
        adjusted = _adjustment(optimizer, *self.fans) / _adjustment(optimizer, *base)
        lr = self.rate * self.fold * sqrt(self.m_out / self.m_in) / adjusted
        return Multipliers(lr, 1 / lr, 1.0)

    @property
    def muon(self) -> bool:
        """Whether torch.optim.Muon takes it: a hidden matrix."""
        return self.kind == "hidden" and len(self.shape) == 2


def check_optimizer(optimizer: str) -> None:
    """Refuse an optimizer for which there is no rule.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if optimizer not in OPTIMIZERS:
        known = "; ".join(f"{name!r}: {meaning}" for name, meaning in OPTIMIZERS.items())
        raise ValueError(f"no muP rule for the optimizer {optimizer!r}; there are {known}")


def _adjustment(optimizer: str, fan_out: float, fan_in: float) -> float:
    """What torch.optim.Muon multiplies the learning rate of a matrix by."""
    if optimizer == "muon":
        return sqrt(max(1.0, fan_out / fan_in))
    return 0.2 * sqrt(max(fan_out, fan_in))
