"""A Stable Diffusion U-Net conditioned on an image embedding in place of its own text states.

Papers: Rombach et al. (arXiv 2112.10752) for the model; Shifted Diffusion (arXiv 2211.15388) for the fine-tuning: one
linear layer makes four tokens of the embedding, which replace the text context.

Symbols: z = latents of the checkpoint's autoencoder; x_0 = scaling_factor (z - shift_factor): [batch, 4, row, column];
u = standardized embedding: [batch, embed].
"""

from typing import Any, cast

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from models.decoders.base import Embeddings, Images, Init
from models.decoders.conditioning import EmbeddingConditioner
from models.decoders.denoiser import Denoiser, make_text_conditioner
from models.decoders.first_stage import FirstStageDecoder, Latents
from models.decoders.sampling import DecoderSampling
from models.decoders.size_conditioning import SizeNumbers
from models.decoders.stable_diffusion.spec import SCHEDULE_FIELDS, TARGETS, StableDiffusionSpec
from models.decoders.training import DenoisingLoss
from models.diffusion.guidance import Predictor
from models.diffusion.processes import Process, make_process
from models.diffusion.samplers import NoiseSource, enter
from models.diffusion.schedules import diffusers_alpha_bars
from models.diffusion.spec import ProcessConfig


class StableDiffusionDenoiser(Denoiser):
    """All that is trained: the U-Net, or adapters in it, and the layer that makes tokens of embeddings."""

    spec: StableDiffusionSpec

    def __init__(self, spec: StableDiffusionSpec, unet: nn.Module | None = None) -> None:
        """Take the checkpoint's U-Net; without one, build it with random weights."""
        super().__init__()
        self.spec = spec
        self.conditioner = EmbeddingConditioner(
            spec.embed_dim,
            num_tokens=spec.conditioning.num_tokens,
            token_dim=spec.token_dim,
            empty_probability=spec.conditioning.empty_probability,
            embedding_noise=spec.conditioning.embedding_noise,
        )
        self.text = make_text_conditioner(spec.text_dim, spec.conditioning.num_tokens, spec.token_dim)
        self.process = _make_process(spec)
        self.pooled = nn.Linear(spec.embed_dim, spec.pooled_dim) if spec.pooled_dim else None
        self.unet = UNet2DConditionModel.from_config(dict(spec.unet)) if unet is None else unet

    def forward(
        self,
        noisy: Latents,
        timestep: Float[Tensor, "batch"],
        u: Embeddings,
        v: Embeddings | None = None,
        sizes: SizeNumbers | None = None,
    ) -> Latents:
        """Predict what the checkpoint's scheduler says: the noise or the velocity.

        A U-Net with a pooled text embedding, as SDXL's, gets one made of u in its place, and the sizes.
        """
        tokens = self.tokens(u, v)
        added = None
        if self.pooled is not None:
            added = {"text_embeds": self.pooled(u), "time_ids": self.known_sizes(noisy, sizes)}
        prediction: Tensor = self.unet(noisy.to(u.dtype), timestep, tokens, added_cond_kwargs=added, return_dict=False)[
            0
        ]
        return prediction.float()

    def to_noise(self, clean: Latents) -> Latents:
        """Return x_0 for the autoencoder's latents z."""
        return scaled(clean.float(), self.spec)

    def solve(self, predict: Predictor, noise: NoiseSource, sampling: DecoderSampling, start: Init = None) -> Latents:
        """Go from the noise to x_0 by Euler's method (Karras et al. 2022), in which x_t = x_0 + sigma_t eps."""
        scheduler: Any = EulerDiscreteScheduler.from_config(dict(self.spec.scheduler))
        eps = noise()
        scheduler.set_timesteps(sampling.num_steps, device=eps.device)
        sigmas, widest = scheduler.sigmas.to(eps.device), scheduler.init_noise_sigma
        x_t, first = enter(widest * eps, start, sampling.num_steps, lambda x_0, step: x_0 + sigmas[step] * eps)
        for timestep in scheduler.timesteps[first:]:
            prediction = predict(scheduler.scale_model_input(x_t, timestep), timestep)
            x_t = scheduler.step(prediction, timestep, x_t, return_dict=False)[0]
        return x_t


class StableDiffusionDecoder(FirstStageDecoder):
    """The denoiser with the checkpoint's autoencoder."""

    spec: StableDiffusionSpec
    denoiser: StableDiffusionDenoiser

    def __init__(
        self,
        spec: StableDiffusionSpec,
        *,
        denoiser: StableDiffusionDenoiser | None = None,
        vae: nn.Module | None = None,
    ) -> None:
        """Put both together; what is not given is built with random weights."""
        super().__init__()
        self.spec = spec
        self.denoiser = StableDiffusionDenoiser(spec) if denoiser is None else denoiser
        self.vae = AutoencoderKL.from_config(dict(spec.vae)) if vae is None else vae

    def encoded(self, images: Images) -> Latents:
        """Return x_0 of images in [-1, 1]."""
        latents: Tensor = cast(Any, self.vae).encode(images).latent_dist.mode()
        return self.denoiser.to_noise(latents)

    def decoded(self, x_0: Latents) -> Images:
        """Return the images of x_0, in [-1, 1]."""
        return decoded(self.vae, x_0, self.spec)

    @torch.no_grad()
    def prompt_embeddings(self, embeddings: Embeddings, text: Embeddings | None = None) -> tuple[Tensor, Tensor]:
        """Return what diffusers' pipelines take as prompt_embeds and negative_prompt_embeds: [batch, token, width]."""
        u, v = self.denoiser.guided_conditions(embeddings, text)
        conditional, unconditional = self.denoiser.tokens(u, v).chunk(2)
        return conditional, unconditional

    @torch.no_grad()
    def pooled_embeddings(self, embeddings: Embeddings) -> tuple[Tensor, Tensor]:
        """Return an XL pipeline's pooled_prompt_embeds and negative_pooled_prompt_embeds: [batch, width]."""
        if self.denoiser.pooled is None:
            raise ValueError("StableDiffusionDecoder: its U-Net takes no pooled embeddings: expected one as SDXL has")
        u, _ = self.denoiser.guided_conditions(embeddings, None)
        conditional, unconditional = self.denoiser.pooled(u).chunk(2)
        return conditional, unconditional


def scaled(latents: Latents, spec: StableDiffusionSpec) -> Latents:
    """Return x_0 of the autoencoder's latents z."""
    return (latents - _shift(spec)) * float(spec.vae["scaling_factor"])


def decoded(vae: nn.Module, x_0: Latents, spec: StableDiffusionSpec) -> Images:
    """Return the images of x_0."""
    latents = x_0 / spec.vae["scaling_factor"] + _shift(spec)
    images: Tensor = cast(Any, vae).decode(latents, return_dict=False)[0]
    return images.float().clamp(-1, 1)


def _shift(spec: StableDiffusionSpec) -> float:
    return float(spec.vae.get("shift_factor") or 0.0)


def _make_process(spec: StableDiffusionSpec) -> Process:
    scheduler = spec.scheduler
    process = ProcessConfig(
        path="ddpm",
        target=TARGETS[scheduler.get("prediction_type", "epsilon")],
        loss_weight=spec.process.loss_weight,
        min_snr_gamma=spec.process.min_snr_gamma,
        zero_terminal_snr=bool(scheduler.get("rescale_betas_zero_snr", False)),
    )
    schedule = {name: scheduler[name] for name in SCHEDULE_FIELDS if name in scheduler}
    return make_process(process, diffusers_alpha_bars(schedule, zero_terminal_snr=process.zero_terminal_snr))


def build_training(spec: StableDiffusionSpec) -> DenoisingLoss:
    """Return the denoiser under its loss, with random weights."""
    return DenoisingLoss(StableDiffusionDenoiser(spec))
