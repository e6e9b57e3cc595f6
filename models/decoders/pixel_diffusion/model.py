"""The pixel-diffusion decoder: noise to an image, given a CLIP image embedding.

Papers: GLIDE (arXiv 2112.10741) and DALL-E 2 (arXiv 2204.06125), whose decoders project the embedding to tokens for
cross-attention and add it to the time embedding; Ho and Salimans, Classifier-free guidance (arXiv 2207.12598).
The U-Net works on blocks of pixels (pixel unshuffle), and may see a layout map made of the embedding.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.decoders.base import Decoder, Embeddings, Images, Init, Seeds, Text
from models.decoders.conditioning import make_conditioner
from models.decoders.denoiser import Denoiser, beside, joined_layout, make_text_conditioner
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
        self.unet = make_unet(
            shape.channels,
            shape.blocks_per_level,
            side=spec.resolution // shape.unshuffle,
            in_out=(pixels + shape.layout_channels, pixels),
            embed_dim=spec.embed_dim + SIZE_NUMBERS * spec.size_features,
            token_dim=shape.token_dim,
            attention_levels=shape.attention_levels,
        )
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
        tokens, layout = self.tokens(u, v), self.conditioner.layout_map(u)
        grid = joined_layout(F.pixel_unshuffle(noisy.to(u.dtype), factor), layout)
        grid = grid.contiguous(memory_format=torch.channels_last)
        condition = beside(u, self.size_condition(noisy, sizes))
        prediction = self.unet(grid, timestep, tokens, class_labels=condition, return_dict=False)[0]
        return F.pixel_shuffle(prediction, factor).float()

    def sample(
        self, embeddings: Embeddings, seeds: Seeds, sampling: DecoderSampling, text: Text = None, init: Init = None
    ) -> Images:
        """Generate images by diffusion of pixels."""
        return self.generate(embeddings, seeds, sampling, text, init).clamp(-1, 1)


def build_training(spec: PixelDiffusionSpec) -> DenoisingLoss:
    """Return the decoder under its loss."""
    return DenoisingLoss(PixelDecoder(spec))
