"""Super-resolution by diffusion: a small image and its CLIP image embedding to a larger one.

Papers: Ho et al., Cascaded diffusion models (arXiv 2106.15282), whose conditioning augmentation puts noise on the small
image, so that the model tolerates the faults of the one before it; DALL-E 2 (arXiv 2204.06125), whose upsamplers
have no attention, so that they train on crops and generate whole images.

Symbols: x_t = noisy image [batch, 3, size, size]; y = small image [batch, 3, size / factor, size / factor];
sigma = std of the noise on y: [batch]; u = standardized embedding [batch, embed].
"""

from collections.abc import Mapping, Sequence

import torch
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.decoders.base import ConditionedModel, Embeddings, Images, from_bytes, require_seeds
from models.decoders.conditioning import EmbeddingConditioner
from models.decoders.sampling import DecoderSampling
from models.decoders.unet import make_unet
from models.decoders.upsampler.spec import UpsamplerSpec
from models.diffusion.guidance import Predictor, guided
from models.diffusion.loss_weights import denoising_loss
from models.diffusion.processes import STANDARD, make_process
from models.diffusion.samplers import sample_images
from models.noise import SeededNoise

RANDOM_INPUTS = ("noise", "small_noise", "blur", "time", "augmentation", "dropout")
SIGMA_DIM = 64
SIGMA_SCALE = 1000.0  # sinusoids are made for time steps of that size


class Upsampler(ConditionedModel):
    """A U-Net without attention that predicts an image from a noisy one, a small one, and an embedding."""

    spec: UpsamplerSpec
    conditioner: EmbeddingConditioner

    def __init__(self, spec: UpsamplerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.conditioner = EmbeddingConditioner(
            spec.embed_dim,
            empty_probability=spec.network.empty_probability,
            embedding_noise=spec.network.embedding_noise,
        )
        self.process = make_process(spec.process)
        shape, pixels = spec.network, 3 * spec.network.unshuffle**2
        self.unet = make_unet(
            shape.channels,
            shape.blocks_per_level,
            side=spec.resolution // shape.unshuffle,
            in_out=(2 * pixels, pixels),
            embed_dim=spec.embed_dim + SIGMA_DIM,
        )
        if spec.network.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def forward(
        self,
        noisy: Images,
        timestep: Float[Tensor, "batch"],
        small: Images,
        sigma: Float[Tensor, "batch"],
        u: Embeddings,
    ) -> Images:
        """Predict the training target from x_t, the time step, y with its noise, sigma and u; crops do as well."""
        factor = self.spec.network.unshuffle
        enlarged = F.interpolate(small, scale_factor=self.spec.factor, mode="bilinear", align_corners=False)
        grid = F.pixel_unshuffle(torch.cat([noisy, enlarged], dim=1).to(u.dtype), factor)
        condition = torch.cat([u, get_timestep_embedding(SIGMA_SCALE * sigma, SIGMA_DIM).to(u.dtype)], dim=1)
        grid = grid.contiguous(memory_format=torch.channels_last)
        prediction = self.unet(grid, timestep, None, class_labels=condition, return_dict=False)[0]
        return F.pixel_shuffle(prediction, factor).float()

    def loss(
        self, images: Images, small: Images, embeddings: Embeddings, random_inputs: Mapping[str, Tensor]
    ) -> Float[Tensor, "batch"]:
        """Return every sample's denoising loss; images may be crops, the same of both.

        Random inputs: "noise" (of the images' shape), "small_noise" (of the small ones') and "blur" (of the
        embeddings') are standard normal; "time", "augmentation" (the fraction of max_noise) and "dropout" are uniform
        in [0, 1): [batch].
        """
        u = self.conditioner.in_training(embeddings, random_inputs["blur"], random_inputs["dropout"])
        sigma = self.spec.network.max_noise * random_inputs["augmentation"]
        noise, t = random_inputs["noise"], self.process.time(random_inputs["time"])
        noisy = self.process.diffuse(images, t, STANDARD, noise)
        small = augment(small, random_inputs["small_noise"], sigma)
        prediction = self(noisy, self.process.timestep(t), small, sigma, u)
        return denoising_loss(self.process, prediction, images, noise, t)

    @torch.no_grad()
    def sample(self, small: Images, embeddings: Embeddings, seeds: Sequence[int], sampling: DecoderSampling) -> Images:
        """Generate a large image in [-1, 1] for each small one and its embedding, by its own seed alone."""
        require_seeds(embeddings, seeds)
        side, stream = self.spec.resolution, SeededNoise(seeds)
        noise = stream.normal((3, side, side), small.device)
        std = sampling.noise_augmentation * self.spec.network.max_noise
        sigma = torch.full((len(small),), std, device=small.device)
        small = augment(small, stream.normal(small.shape[1:], small.device), sigma)
        predict = self._predictor(small, sigma, self.conditioner.standardize(embeddings), sampling.guidance_scale)
        generated = sample_images(
            self.process,
            predict,
            lambda: noise,  # the solver is deterministic
            sampling.upsampling_steps or sampling.num_steps,
            dynamic_threshold=sampling.dynamic_threshold,
        )
        return generated.clamp(-1, 1)

    def _predictor(self, small: Images, sigma: Tensor, u: Embeddings, guidance_scale: float) -> Predictor:
        if guidance_scale == 1.0:
            return lambda x_t, timestep: self(x_t, timestep.expand(len(x_t)), small, sigma, u)
        both, twice, sigmas = self.conditioner.with_empty(u), torch.cat([small, small]), torch.cat([sigma, sigma])
        return guided(lambda x_t, timestep: self(x_t, timestep, twice, sigmas, both), guidance_scale)


class UpsamplerLoss(nn.Module):
    """The model under its loss, in the form that the training loop calls."""

    def __init__(self, upsampler: Upsampler) -> None:
        super().__init__()
        self.upsampler = upsampler

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the denoising loss of each sample."""
        random_inputs = {name: batch[name] for name in RANDOM_INPUTS}
        loss = self.upsampler.loss(from_bytes(batch["images"]), batch["small"], batch["embeddings"], random_inputs)
        return {"loss": loss}


def augment(small: Images, noise: Images, sigma: Float[Tensor, "batch"]) -> Images:
    """Return sqrt(1 - sigma^2) y + sigma eps: noise of std sigma, and the variance of the whole kept."""
    std = sigma[:, None, None, None]
    return (1 - std.square()).sqrt() * small + std * noise


def build_training(spec: UpsamplerSpec) -> UpsamplerLoss:
    """Return the model under its loss."""
    return UpsamplerLoss(Upsampler(spec))
