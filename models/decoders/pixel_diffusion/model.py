"""The pixel-diffusion decoder: noise to an image, given a CLIP image embedding.

Papers: GLIDE (arXiv 2112.10741) and DALL-E 2 (arXiv 2204.06125), whose decoders project the embedding to tokens for
cross-attention and add it to the time embedding; Ho and Salimans, Classifier-free guidance (arXiv 2207.12598).
The U-Net works on blocks of pixels (pixel unshuffle), and may see a layout map made of the embedding, and an image
regressed on it (:mod:`models.decoders.pixel_diffusion.regression`).
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.decoders.base import Decoder, Embeddings, Images, Init, Seeds, Text
from models.decoders.conditioning import make_conditioner
from models.decoders.denoiser import Denoiser, Times, beside, joined_layout, make_text_conditioner
from models.decoders.pixel_diffusion.regression import ImageRegression
from models.decoders.pixel_diffusion.spec import PixelDiffusionSpec
from models.decoders.sampling import DecoderSampling
from models.decoders.size_conditioning import SizeNumbers
from models.decoders.spec import SIZE_NUMBERS
from models.decoders.training import DenoisingLoss
from models.decoders.unet import make_unet
from models.diffusion.processes import make_process


class PixelDecoder(Denoiser, Decoder):
    """A U-Net that predicts images in [-1, 1] from noisy ones and an embedding."""

    bounded: ClassVar[bool] = True
    can_edit = True
    spec: PixelDiffusionSpec

    def __init__(self, spec: PixelDiffusionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.conditioner = make_conditioner(spec.embed_dim, spec.network)
        self.text = make_text_conditioner(spec.text_dim, spec.network.num_tokens, spec.network.token_dim)
        self.process = make_process(spec.process)
        shape, pixels = spec.network, 3 * spec.network.unshuffle**2
        self.regression = (
            ImageRegression(spec.embed_dim, hidden=shape.regression_hidden, resolution=spec.resolution)
            if shape.regression_hidden
            else None
        )
        self.unet = make_unet(
            shape.channels,
            shape.blocks_per_level,
            side=spec.resolution // shape.unshuffle,
            in_out=(pixels * (1 if self.regression is None else 2) + shape.layout_channels, pixels),
            embed_dim=spec.embed_dim + SIZE_NUMBERS * spec.size_features,
            token_dim=shape.token_dim,
            attention_levels=shape.attention_levels,
        )
        if self.regression is not None:  # at first the prediction is the regressed image itself
            nn.init.zeros_(self.unet.conv_out.weight)
            nn.init.zeros_(self.unet.conv_out.bias)
        if spec.network.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def forward(
        self,
        noisy: Images,
        timestep: Float[Tensor, "batch"],
        u: Embeddings,
        v: Embeddings | None = None,
        sizes: SizeNumbers | None = None,
    ) -> Images:
        """Predict the training target from x_t, the time step, the standardized embeddings, and sizes if any count."""
        factor = self.spec.network.unshuffle
        regressed = self.regressed(u, noisy.shape[-2:])
        seen = noisy if regressed is None else torch.cat([noisy, regressed], dim=1)
        grid = joined_layout(F.pixel_unshuffle(seen.to(u.dtype), factor), self.conditioner.layout_map(u))
        grid = grid.contiguous(memory_format=torch.channels_last)
        condition = beside(u, self.size_condition(noisy, sizes))
        prediction = self.unet(grid, timestep, self.tokens(u, v), class_labels=condition, return_dict=False)[0]
        image = F.pixel_shuffle(prediction, factor).float()
        return image if regressed is None else regressed + image

    @torch.no_grad()
    def regressed(self, u: Embeddings, size: torch.Size) -> Images | None:
        """Return the image regressed on u, if there is one; it learns from its own error alone."""
        return None if self.regression is None else self.regression(u, size)

    def embedding_loss(self, u: Embeddings, x_0: Images) -> Times | None:
        """Return each sample's loss of the regression, as it is weighted."""
        if self.regression is None:
            return None
        return self.spec.network.regression_weight * self.regression.loss(u, x_0)

    def sample(
        self, embeddings: Embeddings, seeds: Seeds, sampling: DecoderSampling, text: Text = None, init: Init = None
    ) -> Images:
        """Generate images by diffusion of pixels."""
        return self.generate(embeddings, seeds, sampling, text, init).clamp(-1, 1)


def build_training(spec: PixelDiffusionSpec) -> DenoisingLoss:
    """Return the decoder under its loss."""
    return DenoisingLoss(PixelDecoder(spec))
