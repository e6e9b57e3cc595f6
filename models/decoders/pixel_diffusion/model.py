"""The pixel-diffusion decoder: noise to an image, given a CLIP image embedding.

Papers: GLIDE (arXiv 2112.10741) and DALL-E 2 (arXiv 2204.06125), whose decoders project the embedding to tokens for
cross-attention and add it to the time embedding; Ho and Salimans, Classifier-free guidance (arXiv 2207.12598).
The U-Net works on blocks of pixels (pixel unshuffle), and may see a layout map made of the embedding.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.decoders.base import Decoder, Embeddings, Images
from models.decoders.conditioning import make_conditioner
from models.decoders.denoiser import Denoiser, joined_layout, make_text_conditioner
from models.decoders.pixel_diffusion.spec import PixelDiffusionSpec
from models.decoders.sampling import DecoderSampling
from models.decoders.training import DenoisingLoss
from models.diffusion.processes import make_process
from models.diffusion.samplers import InitImage
from models.fields import HEAD_DIM, NORM_GROUPS


class PixelDecoder(Denoiser, Decoder):
    """A U-Net that predicts images in [-1, 1] from noisy ones and an embedding."""

    bounded: ClassVar[bool] = True

    spec: PixelDiffusionSpec

    def __init__(self, spec: PixelDiffusionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.conditioner = make_conditioner(spec.embed_dim, spec.network)
        self.text = make_text_conditioner(spec.text_dim, spec.network.num_tokens, spec.network.token_dim)
        self.process = make_process(spec.process)
        self.unet = _build_unet(spec)
        if spec.network.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def forward(
        self, noisy: Images, timestep: Float[Tensor, "batch"], u: Embeddings, v: Embeddings | None = None
    ) -> Images:
        """Predict the training target from x_t, the time step and the standardized embeddings."""
        factor = self.spec.network.unshuffle
        tokens, layout = self.tokens(u, v), self.conditioner.layout_map(u)
        grid = joined_layout(F.pixel_unshuffle(noisy.to(u.dtype), factor), layout)
        grid = grid.contiguous(memory_format=torch.channels_last)
        prediction = self.unet(grid, timestep, tokens, class_labels=u, return_dict=False)[0]
        return F.pixel_shuffle(prediction, factor).float()

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of an image."""
        return 3, self.spec.resolution, self.spec.resolution

    @property
    def can_edit(self) -> bool:
        """An image can enter between noise and the end."""
        return True

    @property
    def reads_text(self) -> bool:
        """Whether text embeddings are a condition, too."""
        return self.spec.text_dim > 0

    def sample(self, embeddings: Embeddings, seeds: Sequence[int], sampling: DecoderSampling) -> Images:
        """Generate one image per embedding; an image depends on its own embedding and seed alone."""
        return self.generate(embeddings, seeds, sampling).clamp(-1, 1)

    def sample_with_text(
        self, embeddings: Embeddings, text: Embeddings, seeds: Sequence[int], sampling: DecoderSampling
    ) -> Images:
        """Generate images conditioned on CLIP text embeddings, too; a row of NaN is no text."""
        return self.generate(embeddings, seeds, sampling, text=text).clamp(-1, 1)

    def edit(
        self,
        images: Images,
        embeddings: Embeddings,
        seeds: Sequence[int],
        sampling: DecoderSampling,
        *,
        strength: float,
        text: Embeddings | None = None,
    ) -> Images:
        """Noise images to a strength, and denoise them under the embeddings."""
        return self.generate(embeddings, seeds, sampling, text=text, init_image=InitImage(images, strength)).clamp(
            -1, 1
        )


def _build_unet(spec: PixelDiffusionSpec) -> UNet2DConditionModel:
    network = spec.network
    num_plain = len(network.channels) - network.attention_levels
    attends = [level >= num_plain for level in range(len(network.channels))]
    pixel_channels = 3 * network.unshuffle**2
    return UNet2DConditionModel(
        sample_size=spec.resolution // network.unshuffle,
        in_channels=pixel_channels + network.layout_channels,
        out_channels=pixel_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        block_out_channels=network.channels,
        layers_per_block=network.blocks_per_level,
        attention_head_dim=tuple(width // HEAD_DIM for width in network.channels),  # diffusers means head counts
        cross_attention_dim=network.token_dim,
        norm_num_groups=NORM_GROUPS,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="projection",
        projection_class_embeddings_input_dim=spec.embed_dim,
    )


def build_training(spec: PixelDiffusionSpec) -> DenoisingLoss:
    """Return the decoder under its loss."""
    return DenoisingLoss(PixelDecoder(spec))
