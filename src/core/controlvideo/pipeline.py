r"""The pipeline: a video, its controls and a prompt in, the edited video out.

    source --(DDIM inversion, source prompt)--> noise --(DDIM, target prompt, guidance)--> edit

Components are diffusers' and transformers' own, those of a Stable Diffusion checkpoint with one or
several ControlNets, and an adapter. It is installed for the length of a call: pipelines that share
a base model and differ in their adapters can be used in turn.

Source: arXiv:2305.17098; thu-ml/controlvideo at 23b6b0b, `libs/piplines.py` (50 steps, guidance
12).
Symbols: `F` frames, `C` channels of latents.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_inverse import DDIMInverseScheduler
from diffusers.utils.outputs import BaseOutput
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from core.controlvideo._given import (
    check_inverted,
    check_latents,
    check_prompt,
    check_sampling,
    check_told,
    scales_of,
    video_of,
    why_apart,
)
from core.controlvideo.adapter import ControlVideoAdapter, Installation
from core.controlvideo.attention import Sees
from core.controlvideo.norms import Norm
from core.controlvideo.predictor import Predictor, Stream, check_long
from core.controlvideo.prompts import unseen
from core.controlvideo.windows import Windows

log = logging.getLogger(__name__)

Start = Literal["inverted", "shared", "independent"]
"""What sampling starts from: the source's inversion, one noise for all frames, or one for each."""


@dataclass
class ControlVideoOutput(BaseOutput):
    """What a call returns."""

    frames: Any
    """`[F, 3, H, W]` in [0, 1] for `output_type` `pt`; `[F, H, W, 3]` for `np`; a list of F images
    for `pil`; latents `[F, C, h, w]` for `latent`."""


class ControlVideoPipeline(DiffusionPipeline):
    """Text-driven editing of one video."""

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _optional_components: ClassVar = ["vae", "adapter"]
    _exclude_from_cpu_offload: ClassVar = ["adapter"]
    _callback_tensor_inputs: ClassVar = ["latents"]

    def __init__(
        self,
        vae: AutoencoderKL | None,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel | MultiControlNetModel | Sequence[ControlNetModel],
        scheduler: DDIMScheduler,
        adapter: ControlVideoAdapter | None = None,
    ) -> None:
        """Take the parts of a checkpoint.

        Args:
            vae: None where the UNet works on pixels.
            text_encoder: of the prompt.
            tokenizer: its tokenizer.
            unet: the denoiser.
            controlnet: one or several.
            scheduler: DDIM; its configuration is the inversion's too.
            adapter: an edit; None: a new one, which changes nothing until it is tuned.
        """
        super().__init__()
        if not isinstance(controlnet, ControlNetModel | MultiControlNetModel):
            controlnet = MultiControlNetModel(list(controlnet))
        if adapter is None:
            adapter = ControlVideoAdapter.for_models(unet, controlnet)
            if (unet.dtype, unet.device) != (adapter.dtype, adapter.device):
                place: dict[str, Any] = {"dtype": unet.dtype, "device": unet.device}
                adapter.to(**place)
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            controlnet=controlnet,
            scheduler=scheduler,
            adapter=adapter,
        )
        factor = 1 if vae is None else 2 ** (len(vae.config["block_out_channels"]) - 1)
        deepest = 2 ** (len(unet.config["block_out_channels"]) - 1)
        self.factor = factor * deepest
        """Sides of a video are multiples of it."""
        self.images = VaeImageProcessor(vae_scale_factor=self.factor)

    @contextmanager
    def installed(
        self, *, norm: Norm = "frame", sees: Sees = "key", branches: bool = True
    ) -> Iterator[Installation]:
        """Have the adapter in the models for a while; see `ControlVideoAdapter.install`."""
        tuned = self.adapter.config.get("norm")
        if tuned not in (None, norm):
            log.warning("the adapter was tuned with norm %r, and is used with %r", tuned, norm)
        edit = self.adapter.install(
            self.unet, self.controlnet, norm=norm, sees=sees, branches=branches
        )
        try:
            yield edit
            edit.check()
        finally:
            edit.uninstall()

    @torch.no_grad()
    def __call__(
        self,
        prompt: str,
        control: Any,
        *,
        source: Any = None,
        source_prompt: str = "",
        start: Start = "inverted",
        latents: Tensor | None = None,
        negative_prompt: str = "",
        num_inference_steps: int = 50,
        guidance_scale: float = 12.0,
        control_scale: float | Sequence[float] = 1.0,
        norm: Norm = "frame",
        sees: Sees = "key",
        keys: Sequence[int] = (0,),
        branches: bool = True,
        long: Windows | Stream | None = None,
        generator: torch.Generator | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ControlVideoOutput:
        """Return the edited video.

        Args:
            prompt: what it is to show.
            control: F control images, such as edges: PIL images, or `[F, 3, H, W]` in [0, 1]; for
                several ControlNets a list of as many of these.
            source: the video that is edited, like a control; needed for start `inverted`.
            source_prompt: what it shows.
            start: where sampling begins.
            latents: `[F, C, h, w]` to begin from instead, as `invert` returns.
            negative_prompt: of guidance.
            num_inference_steps: of the sampler, and of inversion.
            guidance_scale: 1 or below is none.
            control_scale: of each ControlNet's residuals.
            norm: over what the residual blocks' norms are taken. `frame` is the default, since only
                there the key frame is the edit of an image and frames can be streamed; the authors'
                code has `video`.
            sees: what frames attend to.
            keys: key frames.
            branches: False leaves the temporal branches out.
            long: how a long video is done; None: as a whole.
            generator: of the start noise.
            output_type: see `ControlVideoOutput`.
            callback_on_step_end: called with the pipeline, step, timestep and a dict of tensors, as
                diffusers' pipelines do.
            callback_on_step_end_tensor_inputs: which: `latents`, or none.

        Raises:
            ValueError: a prompt that is no string, no steps, sizes, numbers of frames or of
                controls that do not fit, or a stream of a model in which frames depend on more than
                the key frames.
        """
        check_sampling(self.scheduler, num_inference_steps, guidance_scale)
        check_told(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        controls, scales = self.controls(control, control_scale)
        F = len(controls[0])
        check_long(long, norm, sees, branches)
        guided = guidance_scale > 1
        text = self.encode_prompt(prompt)
        text = torch.cat([self.encode_prompt(negative_prompt), text]) if guided else text
        with self.installed(norm=norm, sees=sees, branches=branches) as edit:
            predict = self.predictor(edit, controls, scales, keys, long)
            if latents is None:
                latents = self._start(
                    start, source, source_prompt, F, predict, num_inference_steps, generator
                )
            self._check_latents(latents, predict)
            x = latents.to(self._execution_device, self.unet.dtype)
            self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
            for i, t in enumerate(self._shown(self.scheduler.timesteps)):
                found = predict(x, t, text)
                if guided:
                    without, with_text = found.chunk(2)
                    found = without + guidance_scale * (with_text - without)
                x = self.scheduler.step(found, t, x).prev_sample
                if callback_on_step_end is not None:
                    told = dict.fromkeys(callback_on_step_end_tensor_inputs, x)
                    out = callback_on_step_end(self, i, t, told) or {}
                    x = out.get("latents", x)
        frames = x if output_type == "latent" else self.decode(x, output_type)
        self.maybe_free_model_hooks()
        return ControlVideoOutput(frames=frames)

    @torch.no_grad()
    def invert(
        self,
        source: Any,
        control: Any,
        *,
        source_prompt: str = "",
        num_inference_steps: int = 50,
        control_scale: float | Sequence[float] = 1.0,
        norm: Norm = "frame",
        sees: Sees = "key",
        keys: Sequence[int] = (0,),
        branches: bool = True,
        long: Windows | Stream | None = None,
    ) -> Tensor:
        """Return the noise from which DDIM would sample the source, `[F, C, h, w]`, nearly.

        Without guidance, with the source's prompt and controls; arguments as of a call.
        """
        check_sampling(self.scheduler, num_inference_steps)
        controls, scales = self.controls(control, control_scale)
        check_long(long, norm, sees, branches)
        with self.installed(norm=norm, sees=sees, branches=branches) as edit:
            predict = self.predictor(edit, controls, scales, keys, long)
            noise = self._invert(source, source_prompt, predict, num_inference_steps)
        self.maybe_free_model_hooks()
        return noise

    def preview(
        self, prompt: str, control: Any, *, key: int = 0, **options: Any
    ) -> ControlVideoOutput:
        """Return the edit of one frame, F times cheaper; arguments as of a call.

        With norm `frame`, one key frame and no branches (or untuned ones) it is the video's key
        frame, to rounding, if both start from the same latent: give `latents` of all frames, as
        `invert` or an earlier call had them. Else a warning says why it is not.

        Raises:
            ValueError: no such frame, or as a call.
        """
        several = isinstance(self.controlnet, MultiControlNetModel)
        F = min(map(len, control)) if several else len(control)
        if not 0 <= key < F:
            raise ValueError(f"want a key frame in 0..{F - 1}, got {key}")
        keys = options.pop("keys", (key,))
        if why := [*why_apart(key, keys, options, couples=self.adapter.couples)]:
            log.warning("a preview is not the key frame of the video because of " + ", ".join(why))
        one = [c[key : key + 1] for c in control] if several else control[key : key + 1]
        for name in ("latents", "source"):
            if options.get(name) is not None:
                options[name] = options[name][key : key + 1]
        return self(prompt, one, keys=(0,), **options)

    @torch.no_grad()
    def encode(self, frames: Any) -> Tensor:
        """Return latents `[F, C, h, w]` of a video, PIL images or `[F, 3, H, W]` in [0, 1]."""
        x = video_of(frames, self.factor).to(self._execution_device, self.unet.dtype) * 2 - 1
        if self.vae is None:
            return x
        mean = torch.cat([self.vae.encode(each[None]).latent_dist.mode() for each in x])
        return mean * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor, output_type: str = "pt") -> Any:
        """Return the frames of latents, in one of the types of `ControlVideoOutput`."""
        if self.vae is not None:
            if getattr(self, "final_offload_hook", None) is not None:
                self.controlnet.to("cpu")  # no part of the sequence: nothing else moves it away
            latents = latents / self.vae.config.scaling_factor
            latents = torch.cat([self.vae.decode(each[None]).sample for each in latents])
        if not torch.isfinite(latents).all():
            raise ValueError(
                f"want finite frames, got nan or infinity in {latents.dtype}: take bfloat16 or "
                "float32, or a smaller guidance or control scale"
            )
        return self.images.postprocess(latents.float(), output_type=output_type)

    def _start(
        self,
        start: Start,
        source: Any,
        source_prompt: str,
        F: int,
        predict: Predictor,
        steps: int,
        generator: torch.Generator | None,
    ) -> Tensor:
        if start == "inverted":
            if source is None:
                raise ValueError("want a source video to invert, got none: or start='shared'")
            return self._invert(source, source_prompt, predict, steps)
        if start not in ("shared", "independent"):
            raise ValueError(f"want start inverted, shared or independent, got {start!r}")
        side = [s // self.factor_of_vae for s in predict.size]
        maps = 1 if start == "shared" else F
        shape = (maps, self.unet.config["in_channels"], *side)
        device = generator.device if generator is not None else self._execution_device
        noise = torch.randn(shape, generator=generator, device=device)
        return (noise * self.scheduler.init_noise_sigma).expand(F, -1, -1, -1)

    def _invert(self, source: Any, prompt: str, predict: Predictor, steps: int) -> Tensor:
        x = self.encode(source)
        self._check_latents(x, predict)
        text = self.encode_prompt(prompt)
        check_inverted(self.scheduler)
        inverse: Any = DDIMInverseScheduler.from_config(self.scheduler.config)
        inverse.set_timesteps(steps, device=self._execution_device)
        for t in self._shown(inverse.timesteps):
            x = inverse.step(predict(x, t, text), t, x).prev_sample
        return x

    def _check_latents(self, x: Tensor, predict: Predictor) -> None:
        """Refuse latents of another size than the controls'."""
        check_latents(x, predict.controls, self.unet.config["in_channels"], self.factor_of_vae)

    def predictor(
        self,
        edit: Installation,
        controls: list[Tensor],
        scales: list[float],
        keys: Sequence[int] = (0,),
        long: Windows | Stream | None = None,
    ) -> Predictor:
        """Return what denoises a video under an installed adapter; see `controls`."""
        if not isinstance(keys, Sequence):
            raise ValueError(f"want keys a sequence of frames, such as ({keys},), got {keys!r}")
        return Predictor(
            self.unet, self.controlnet, self.scheduler, edit, controls, scales, tuple(keys), long
        )

    def _shown(self, timesteps: Tensor) -> Iterator[Tensor]:
        """Yield timesteps under diffusers' progress bar."""
        bar: Any = self.progress_bar
        yield from bar(timesteps)

    @property
    def factor_of_vae(self) -> int:
        """Pixels of a side for one of latents."""
        return 1 if self.vae is None else 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    def encode_prompt(self, prompt: str) -> Tensor:
        """Return the prompt's hidden states, `[1, tokens, width]`; warn of words it loses."""
        check_prompt(prompt)
        if lost := unseen(self.tokenizer, prompt):
            log.warning(
                "of %r the model does not see %s: not in its vocabulary, or beyond %d tokens",
                *(prompt, ", ".join(lost), self.tokenizer.model_max_length),
            )
        ids = self.tokenizer(
            prompt,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return self.text_encoder(ids.to(self._execution_device))[0].to(self.unet.dtype)

    def controls(
        self, control: Any, scale: float | Sequence[float]
    ) -> tuple[list[Tensor], list[float]]:
        """Return the control videos and scales, one of each ControlNet."""
        several = isinstance(self.controlnet, MultiControlNetModel)
        nets = len(self.controlnet.nets) if several else 1
        given = list(control) if several else [control]
        scales = scales_of(scale, nets)
        if len(given) != nets or len(scales) != nets:
            raise ValueError(
                f"want a control and a scale for each of {nets} ControlNets, got {len(given)} and "
                f"{len(scales)}"
            )
        place, dtype = self._execution_device, self.unet.dtype
        videos = [video_of(each, self.factor).to(place, dtype) for each in given]
        if len({v.shape for v in videos}) != 1:
            raise ValueError(f"want controls of one shape, got {[list(v.shape) for v in videos]}")
        return videos, scales
