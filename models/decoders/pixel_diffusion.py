"""The pixel-diffusion decoder: noise to a picture, given a CLIP image embedding.

Papers: GLIDE (arXiv 2112.10741) and DALL-E 2 (arXiv 2204.06125), whose decoders project the embedding to tokens for
cross-attention and add it to the time embedding; Ho and Salimans, Classifier-free guidance (arXiv 2207.12598).
The U-Net works on blocks of pixels (pixel unshuffle), and may see a layout map drawn from the embedding.
"""

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.decoders.conditioning import EmbeddingConditioner
from models.decoders.config import HEAD_DIM, NORM_GROUPS, PixelDecoderConfig
from models.decoders.process import make_process
from models.noise import seeded_noise

Images = Float[Tensor, "batch 3 height width"]
Embeddings = Float[Tensor, "batch embed"]


class PixelDecoder(nn.Module):
    """A U-Net that predicts pictures in [-1, 1] from noisy ones and an embedding."""

    def __init__(self, config: PixelDecoderConfig) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.config = config
        self.conditioner = EmbeddingConditioner(config)
        self.process = make_process(config.parametrization)
        self.unet = _build_unet(config)

    def set_embedding_statistics(self, mean: Float[Tensor, "embed"], std: Float[Tensor, "embed"]) -> None:
        """Standardize embeddings by the training set's mean and deviation; they are saved with the weights."""
        self.conditioner.set_statistics(mean, std)

    def forward(self, noisy: Images, timestep: Float[Tensor, "batch"], u: Embeddings) -> Images:
        """Predict the training target from x_t, the time step and the standardized embedding."""
        factor = self.config.unshuffle
        tokens, layout = self.conditioner(u)
        grid = F.pixel_unshuffle(noisy.to(u.dtype), factor)
        if layout is not None:
            grid = torch.cat([grid, F.interpolate(layout, size=grid.shape[-2:], mode="nearest").to(grid.dtype)], dim=1)
        grid = grid.contiguous(memory_format=torch.channels_last)
        prediction = self.unet(grid, timestep, tokens, class_labels=u, return_dict=False)[0]
        return F.pixel_shuffle(prediction, factor).float()

    def loss(
        self,
        images: Images,
        embeddings: Embeddings,
        generator: torch.Generator | None = None,
        *,
        noise: Images | None = None,
        time: Float[Tensor, "batch"] | None = None,
        blur: Embeddings | None = None,
        dropout: Float[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch"]:
        """Return every sample's denoising loss.

        Drawn where not given: `noise` on the pictures and `blur` on the embeddings (standard normal), `time` in
        [0, 1], and `dropout`, uniform in [0, 1), below whose threshold an embedding becomes the empty one.
        """
        batch, device = len(images), images.device
        noise = torch.randn(images.shape, generator=generator, device=device) if noise is None else noise
        time = torch.rand(batch, generator=generator, device=device) if time is None else time
        blur = torch.randn(embeddings.shape, generator=generator, device=device) if blur is None else blur
        dropout = torch.rand(batch, generator=generator, device=device) if dropout is None else dropout
        u = self.conditioner.standardize(embeddings)
        u = u + self.config.embedding_noise * blur.to(u.dtype)
        u = self.conditioner.drop(u, dropout < self.config.empty_probability)
        noisy, timestep = self.process.mix(images, noise, time)
        return self.process.loss(self(noisy, timestep, u), images, noise, time)

    @torch.no_grad()
    def sample(
        self,
        embeddings: Embeddings,
        seeds: Sequence[int] | None = None,
        *,
        noise: Images | None = None,
        num_steps: int = 20,
        guidance_scale: float = 1.0,
    ) -> Images:
        """Draw one picture per embedding; a picture depends on its own embedding and seed (or noise) alone."""
        noise = self._noise(embeddings, seeds) if noise is None else noise
        u = self.conditioner.standardize(embeddings)
        if guidance_scale == 1.0:
            return self.process.sample(lambda x, t: self(x, t.expand(len(x)), u), noise, num_steps).clamp(-1, 1)
        both = torch.cat([u, self.conditioner.empty.to(u.dtype).expand_as(u)])

        def guided(x: Images, t: Tensor) -> Images:
            told, untold = self(torch.cat([x, x]), t.expand(2 * len(x)), both).chunk(2)
            return torch.lerp(untold, told, guidance_scale)

        return self.process.sample(guided, noise, num_steps).clamp(-1, 1)

    def _noise(self, embeddings: Embeddings, seeds: Sequence[int] | None) -> Images:
        if seeds is None or len(seeds) != len(embeddings):
            found = "neither" if seeds is None else f"{len(seeds)} seeds"
            raise ValueError(
                f"PixelDecoder.sample: found {found} for {len(embeddings)} embeddings: "
                "expected one seed per embedding, or the starting noise"
            )
        side = self.config.resolution
        return seeded_noise(seeds, (3, side, side), embeddings.device)


def _build_unet(config: PixelDecoderConfig) -> UNet2DConditionModel:
    num_plain = len(config.channels) - config.attention_levels
    attends = [level >= num_plain for level in range(len(config.channels))]
    pixel_channels = 3 * config.unshuffle**2
    return UNet2DConditionModel(
        sample_size=config.resolution // config.unshuffle,
        in_channels=pixel_channels + config.layout_channels,
        out_channels=pixel_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        block_out_channels=config.channels,
        layers_per_block=config.blocks_per_level,
        attention_head_dim=tuple(width // HEAD_DIM for width in config.channels),  # diffusers means head counts
        cross_attention_dim=config.token_dim,
        norm_num_groups=NORM_GROUPS,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="projection",
        projection_class_embeddings_input_dim=config.embed_dim,
    )
