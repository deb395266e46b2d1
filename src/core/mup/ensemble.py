r"""Many models of one architecture, trained at once: a sweep is one program, not one run a point.

The models differ in their weights and in their optimizer's settings; member i takes batch i. Their
parameters lie in arrays `[M, P]`, the forward pass runs once for all under `torch.func.vmap`, and
the sum of the M losses is differentiated: a member's loss knows no other's weights, so its gradient
is its own, and a member that diverges is nan alone.

What is saved is the cost of launching operations, so narrow models gain and wide ones do not. One
core, DiT of two blocks, 16 images a step: two to three times as fast as one by one at width 32 (18
members), 1.6 times at 64, as fast at 128; at 256 M models at once fit no cache, and are slower.

The optimizer is torch's. Parameters that share a group in every member lie side by side, and torch
is given a slice for each member and group, with the settings that `Plan.groups` made. It must be
one that treats each number by itself, as AdamW, Adam and SGD do; Muon does not.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

Groups = Sequence[Mapping[str, Any]]
"""Of `Plan.groups`: mappings with `names`, `params` and an optimizer's settings."""
Loss = Callable[[nn.Module, Any], Tensor]
"""Model and batch -> a scalar; whatever it draws at random is the same for all members."""


class Ensemble:
    """M models that are trained at once."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        groups: Sequence[Groups],
        optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] = torch.optim.AdamW,
        folds: Mapping[str, float] | None = None,
    ) -> None:
        """Take the models' weights; the models themselves are not trained.

        Args:
            models: of one class and configuration; one model may serve for several members.
            groups: of each model; the names in them are those of its `named_parameters`.
            optimizer: called with all groups.
            folds: name -> `Entry.fold`, what the norm counts a gradient by; 1 where it is missing.

        Raises:
            ValueError: there is no model, groups are not a model's parameters each once, or models
                differ in their names, shapes or buffers.
        """
        if not models or len(models) != len(groups):
            raise ValueError(
                f"want groups for each of at least one model, got {len(models)} and {len(groups)}"
            )
        parameters = [_parameters(model) for model in models]
        settings = [_by_name(one, own) for one, own in zip(groups, parameters, strict=True)]
        self._pattern = copy.deepcopy(models[0])
        self._buffers = _common_buffers(models)
        self._blocks = _blocks(settings, folds or {})
        self._flat = [_flat(block, parameters) for block in self._blocks]
        self._folds = [(folds or {}).get(block[0], 1.0) for block in self._blocks]
        self._slices = [
            {**settings[i][block[0]], "params": [nn.Parameter(flat.detach()[i])]}
            for i in range(len(models))
            for block, flat in zip(self._blocks, self._flat, strict=True)
        ]
        self._rates = [float(group["lr"]) for group in self._slices]
        self.optimizer = optimizer(self._slices)

    def __len__(self) -> int:
        """Return M."""
        return len(self._flat[0])

    def losses(self, loss: Loss, batch: Any) -> Tensor:
        """Return the loss of each member on a batch of its own, `[M]`, attached to the weights.

        Args:
            loss: model and batch -> scalar.
            batch: tensors with the member first, `[M, ...]`, in any tuple, list or dict.
        """
        return self._losses(loss, batch, of_own=0)

    @torch.no_grad()
    def evaluate(self, loss: Loss, batch: Any) -> Tensor:
        """Return the loss of each member on one batch for all, `[M]`, in evaluation mode."""
        self._pattern.eval()
        values = self._losses(loss, batch, of_own=None)
        self._pattern.train()
        return values

    def step(
        self,
        loss: Loss,
        batch: Any,
        *,
        rates: Tensor | None = None,
        max_norm: Tensor | None = None,
    ) -> Tensor:
        """Update each member once; return the losses before it, `[M]`.

        Args:
            loss: as in `losses`.
            batch: as in `losses`.
            rates: `[M]`, times the learning rates that the groups came with; for a warm-up.
            max_norm: `[M]`, each member's bound of its gradient's norm, `inf` for none.
        """
        losses = self.losses(loss, batch)
        gradients = torch.autograd.grad(losses.sum(), self._flat)
        if max_norm is not None:
            gradients = self._clipped(gradients, max_norm)
        factors = [1.0] * len(self) if rates is None else rates.tolist()
        for number, group in enumerate(self.optimizer.param_groups):
            member, block = divmod(number, len(gradients))
            group["params"][0].grad = gradients[block][member]
            group["lr"] = factors[member] * self._rates[number]
        self.optimizer.step()
        return losses.detach()

    def parameters_of(self, member: int) -> dict[str, Tensor]:
        """Return the weights of one member, by name."""
        return {
            name.removeprefix("model."): stacked.detach()[member]
            for name, stacked in self._stacked().items()
        }

    def _losses(self, loss: Loss, batch: Any, of_own: int | None) -> Tensor:
        asked = _Asked(self._pattern, loss)

        def of_one(parameters: dict[str, Tensor], batch: Any) -> Tensor:
            return functional_call(asked, (parameters, self._buffers), (batch,))

        # the fused kernels of attention run one by one under vmap
        with sdpa_kernel(SDPBackend.MATH):
            return vmap(of_one, in_dims=(0, of_own), randomness="same")(self._stacked(), batch)

    def _clipped(self, gradients: Sequence[Tensor], max_norm: Tensor) -> tuple[Tensor, ...]:
        """Scale each member's gradients as `Plan.clip_grad_norm_` does."""
        norms = [f * g.norm(dim=1) for f, g in zip(self._folds, gradients, strict=True)]
        total = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        scale = (max_norm.to(total) / (total + 1e-6)).clamp(max=1)[:, None]
        return tuple(g * scale for g in gradients)

    def _stacked(self) -> dict[str, Tensor]:
        """Return `[M, *shape]` of each parameter, views of the flat arrays."""
        found = {}
        for block, flat in zip(self._blocks, self._flat, strict=True):
            shapes = [self._pattern.get_parameter(name).shape for name in block]
            parts = flat.split([shape.numel() for shape in shapes], dim=1)
            for name, part, shape in zip(block, parts, shapes, strict=True):
                found[f"model.{name}"] = part.reshape(len(flat), *shape)
        return found


class _Asked(nn.Module):
    """A loss as a module, for `functional_call`."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: Any) -> Tensor:
        return self.loss(self.model, batch)


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _by_name(groups: Groups, own: Mapping[str, nn.Parameter]) -> dict[str, dict[str, Any]]:
    """Return the settings of each parameter, in the model's order."""
    found = {
        name: {key: value for key, value in group.items() if key not in ("params", "names")}
        for group in groups
        for name in group["names"]
    }
    count = sum(len(group["names"]) for group in groups)
    if set(found) != set(own) or count != len(found):
        odd = sorted(set(found) ^ set(own)) or ["a name that comes twice"]
        raise ValueError(
            f"want each parameter of a model in one of its groups, got wrong: {odd[0]}"
        )
    return {name: found[name] for name in own}


def _blocks(
    settings: Sequence[Mapping[str, dict[str, Any]]], folds: Mapping[str, float]
) -> list[list[str]]:
    """Return the names that share a group in every member, and a fold, together."""
    blocks: dict[tuple[Any, ...], list[str]] = {}
    for name in settings[0]:
        if any(set(one) != set(settings[0]) for one in settings):
            raise ValueError("want models with the same parameters, got different names")
        key = (folds.get(name, 1.0), *(tuple(sorted(one[name].items())) for one in settings))
        blocks.setdefault(key, []).append(name)
    return list(blocks.values())


def _flat(block: Sequence[str], parameters: Sequence[Mapping[str, nn.Parameter]]) -> Tensor:
    """Return one block of all members, `[M, P]`, a leaf."""
    for name in block:
        shapes = {tuple(own[name].shape) for own in parameters}
        if len(shapes) > 1:
            raise ValueError(f"want models of one shape, and {name!r} comes as {sorted(shapes)}")
    rows = [torch.cat([own[name].detach().flatten() for name in block]) for own in parameters]
    return torch.stack(rows).requires_grad_()


def _common_buffers(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    first = dict(models[0].named_buffers())
    for model in models[1:]:
        for name, buffer in model.named_buffers():
            if name not in first or not torch.equal(buffer, first[name]):
                raise ValueError(f"want models that share their buffers, and {name!r} differs")
    return {f"model.{name}": buffer for name, buffer in first.items()}
