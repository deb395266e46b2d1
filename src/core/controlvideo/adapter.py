r"""An edit as a file of its own: temporal branches and what tuning adds to output projections.

The base model stays the stock one, in memory and on disk. `install` gives its self-attentions
processors that refer to this adapter's modules, and `uninstall` gives back those that were there:
nothing is merged, so nothing has to be undone, and several edits share one base.

What the paper trains is all here: `attn1.to_out` of the UNet and of the ControlNets (as differences
to the base), and the temporal branches of the UNet. At SD 1.5's size that is 72 million parameters.

Source: thu-ml/controlvideo at 23b6b0b (`trainable_modules`; branches in the down and up blocks of
the UNet, none in its middle and none in the ControlNet).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, get_args

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from torch.utils.hooks import RemovableHandle

from core.controlvideo.attention import (
    Delta,
    Place,
    Sees,
    TemporalBranch,
    VideoAttention,
    projection,
)
from core.controlvideo.clip import Clip
from core.controlvideo.norms import Norm, check_norm, see_the_video

WHERE = ("down_blocks", "up_blocks")
"""Parts of the UNet that have temporal branches in the paper."""


class ControlVideoAdapter(ModelMixin, ConfigMixin):
    """The trainable part of an edit."""

    @register_to_config
    def __init__(
        self,
        sites: Mapping[str, Mapping[str, Any]] | None = None,
        place: Place = "parallel",
        positions: bool = False,
        projections: Sequence[str] = ("to_out",),
        norm: Norm | None = None,
    ) -> None:
        """Make branches and differences; `for_models` knows the sites.

        Args:
            sites: name of a self-attention, with its model in front (`unet.` or `controlnet0.`) ->
                `dim`, `heads`, `inner`, `bias`, and whether it has a temporal `branch`.
            place: of the branches, relative to self-attention.
            positions: whether branches tell frames apart.
            projections: of self-attention, that have a difference to tune; the paper: `to_out`.
            norm: over what norms were taken in tuning, which notes it here; None: not tuned.
        """
        super().__init__()
        if place not in ("before", "parallel", "after"):
            raise ValueError(f"want place 'before', 'parallel' or 'after', got {place!r}")
        if unknown := set(projections) - {"to_q", "to_k", "to_v", "to_out"}:
            raise ValueError(f"want projections to_q, to_k, to_v, to_out, got {sorted(unknown)}")
        self.branches, self.deltas = nn.ModuleDict(), nn.ModuleDict()
        for name, site in (sites or {}).items():
            into, out = site["dim"], site["inner"]
            for each in projections:
                self.deltas[_key(f"{name}.{each}")] = (
                    Delta(out, into, bias=site["bias"])
                    if each == "to_out"
                    else Delta(into, out, bias=False)
                )
            if site["branch"]:
                self.branches[_key(name)] = TemporalBranch(
                    site["dim"], site["heads"], site["inner"], positions=positions
                )

    @classmethod
    def for_models(
        cls,
        unet: UNet2DConditionModel,
        controlnets: ControlNetModel | MultiControlNetModel | Sequence[ControlNetModel] = (),
        *,
        where: Sequence[str] = WHERE,
        place: Place = "parallel",
        positions: bool = False,
        projections: Sequence[str] = ("to_out",),
        copied: bool = True,
    ) -> Self:
        """Return an adapter that changes nothing yet.

        Args:
            unet: of Stable Diffusion's kind.
            controlnets: one or several.
            where: parts of the UNet whose self-attentions get a temporal branch.
            place: of the branches.
            positions: whether branches tell frames apart.
            projections: of self-attention, that have a difference to tune.
            copied: start the branches from the self-attentions; else as `nn.Linear` does.

        Raises:
            ValueError: a part that the UNet does not have, or no self-attention.
        """
        for part in where:
            if not hasattr(unet, part):
                raise ValueError(f"want parts of the UNet, such as down_blocks, got {part!r}")
        sites, found = {}, dict(self_attentions(unet, _several(controlnets)))
        if not found:
            raise ValueError("want models with self-attention (attn1), got none in them")
        for name, attn in found.items():
            sites[name] = {
                "dim": attn.to_q.in_features,
                "heads": attn.heads,
                "inner": attn.to_q.out_features,
                "bias": projection(attn).bias is not None,
                "branch": name.startswith(tuple(f"unet.{part}." for part in where)),
            }
        adapter = cls(sites, place, positions, list(projections))
        if copied:
            for name, attn in found.items():
                if _key(name) in adapter.branches:
                    adapter.branch(name).copy_(attn)
        return adapter

    @property
    def couples(self) -> bool:
        """Whether a temporal branch adds anything, so that each frame depends on all."""
        return any(bool(p.any()) for b in self.branches.values() for p in b.conv.parameters())  # type: ignore[union-attr]

    def branch(self, site: str) -> TemporalBranch:
        """Return the temporal branch of a self-attention that has one."""
        return self.branches[_key(site)]  # type: ignore[return-value]

    def differences(self, site: str) -> dict[str, Delta]:
        """Return what tuning adds to a self-attention's projections, by their names."""
        names = self.config["projections"]  # type: ignore[index]
        return {name: self.deltas[_key(f"{site}.{name}")] for name in names}  # type: ignore[misc]

    def install(
        self,
        unet: UNet2DConditionModel,
        controlnets: ControlNetModel | MultiControlNetModel | Sequence[ControlNetModel] = (),
        *,
        norm: Norm = "frame",
        sees: Sees = "key",
        branches: bool = True,
    ) -> "Installation":
        """Make images' models a video's.

        Args:
            unet: of the sites that this adapter was made for.
            controlnets: as many as then.
            norm: over what the residual blocks' norms are taken.
            sees: what frames attend to; the paper: the key frame.
            branches: leave the temporal branches out if False.

        Raises:
            ValueError: other sites than the adapter's, an edit that is installed already, other
                processors than diffusers' own, or an unknown `norm` or `sees`.
        """
        check_norm(norm)
        if sees not in get_args(Sees):
            raise ValueError(f"want sees among {', '.join(get_args(Sees))}, got {sees!r}")
        nets = _several(controlnets)
        found = dict(self_attentions(unet, nets))
        wanted = dict(self.config["sites"] or {})  # type: ignore[index]
        _same_sites(wanted, found)
        for name, attn in found.items():
            if isinstance(attn.processor, VideoAttention):
                raise ValueError(f"{name} has an edit installed already: uninstall it first")
            if type(attn.processor) not in (AttnProcessor, AttnProcessor2_0):
                raise ValueError(
                    f"{name} has a {type(attn.processor).__name__}, whose work an edit would undo: "
                    "do without attention slicing, fused projections and xformers"
                )
        clip, before = Clip(), {}
        for name, attn in found.items():
            before[name] = attn.processor
            branch = self.branch(name) if branches and wanted[name]["branch"] else None
            place = self.config["place"]  # type: ignore[index]
            ours: Any = VideoAttention(clip, name, sees, branch, place, self.differences(name))
            attn.processor = ours
        watched = (unet, *nets) if norm == "video" else ()
        hooks = [handle for model in watched for handle in see_the_video(model, clip)]
        return Installation(clip, norm, unet, nets, before, hooks)


@dataclass
class Installation:
    """An adapter at work in its models."""

    clip: Clip
    norm: Norm
    unet: UNet2DConditionModel
    controlnets: list[ControlNetModel]
    before: dict[str, Any] = field(repr=False)
    """The processors that were there."""
    hooks: list[RemovableHandle] = field(repr=False)
    """Of the norms."""

    def check(self) -> None:
        """Refuse to go on where something took the processors' place.

        Raises:
            RuntimeError: with the sites, and what does that.
        """
        lost = [
            name
            for name, attn in self_attentions(self.unet, self.controlnets)
            if not isinstance(attn.processor, VideoAttention)
        ]
        if lost:
            raise RuntimeError(
                f"the edit is no longer installed at {len(lost)} of {len(self.before)} "
                f"self-attentions, such as {lost[0]}: attention slicing, fused projections and "
                "xformers put processors of their own there; do without them, or install again"
            )

    def uninstall(self) -> None:
        """Give the models back what they had; they compute what they did before, exactly."""
        for name, attn in self_attentions(self.unet, self.controlnets):
            attn.processor = self.before[name]
        for hook in self.hooks:
            hook.remove()


def self_attentions(
    unet: UNet2DConditionModel, controlnets: Sequence[ControlNetModel]
) -> Iterator[tuple[str, Attention]]:
    """Yield the self-attentions of transformer blocks with their names."""
    models = {"unet": unet, **{f"controlnet{i}": net for i, net in enumerate(controlnets)}}
    for prefix, model in models.items():
        for name, module in model.named_modules():
            if name.endswith(".attn1") and isinstance(module, Attention):
                yield f"{prefix}.{name}", module


def _several(
    controlnets: ControlNetModel | MultiControlNetModel | Sequence[ControlNetModel],
) -> list[ControlNetModel]:
    if isinstance(controlnets, MultiControlNetModel):
        return list(controlnets.nets)  # type: ignore[arg-type]
    return [controlnets] if isinstance(controlnets, nn.Module) else list(controlnets)


def _same_sites(wanted: Mapping[str, Mapping[str, Any]], found: Mapping[str, Attention]) -> None:
    missing, further = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    if missing or further:
        raise ValueError(
            f"want the models this adapter was made for, with {len(wanted)} self-attentions; these "
            f"have {len(found)}, "
            + (f"without {sorted(missing)[0]}" if missing else f"with {sorted(further)[0]} besides")
        )
    for name, attn in found.items():
        shape = wanted[name]["inner"], wanted[name]["dim"]
        if (attn.to_q.out_features, attn.to_q.in_features) != shape:
            raise ValueError(
                f"{name}: want self-attention of {shape[1]} channels and {shape[0]} in its heads, "
                f"got {attn.to_q.in_features} and {attn.to_q.out_features}: another base model?"
            )


def _key(site: str) -> str:
    """Return a name that a ModuleDict takes."""
    return site.replace(".", "-")
