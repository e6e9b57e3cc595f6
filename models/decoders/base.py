"""What every decoder is: a module from image embeddings to images."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from models.decoders.sampling import DecoderSampling
from models.decoders.spec import AnyDecoderSpec
from models.diffusion.samplers import InitImage
from models.normalization import Normalization

Images = Float[Tensor, "batch 3 height width"]
Embeddings = Float[Tensor, "batch embed"]
Seeds = Sequence[int]
Text = Embeddings | None
Init = InitImage | None


class ConditionedModel(nn.Module):
    """A model conditioned on image embeddings."""

    spec: AnyDecoderSpec
    conditioner: Normalization

    def set_embedding_statistics(self, mean: Float[Tensor, "embed"], std: Float[Tensor, "embed"]) -> None:
        """Standardize embeddings by the training set's mean and std; they are saved with the weights."""
        self.conditioner.set_statistics(mean, std)


class Decoder(ConditionedModel):
    """Generates an image for an image embedding."""

    can_edit: bool = False
    """Whether generation has steps at which a given image can enter; see :meth:`edit`."""

    @property
    def reads_text(self) -> bool:
        """Whether images depend on CLIP text embeddings, too."""
        return self.spec.text_dim > 0

    def sample(
        self, embeddings: Embeddings, seeds: Seeds, sampling: DecoderSampling, text: Text = None, init: Init = None
    ) -> Images:
        """Generate images in [-1, 1]; each depends on its own embedding and seed alone, up to rounding.

        A row of ``text`` that holds NaN is no text; a decoder that reads none ignores it. ``init``: see :meth:`edit`.
        """
        raise NotImplementedError

    def edit(
        self,
        images: Images,
        embeddings: Embeddings,
        seeds: Seeds,
        sampling: DecoderSampling,
        *,
        strength: float,
        text: Text = None,
    ) -> Images:
        """Noise images in [-1, 1] to a strength, and denoise them under the embeddings (and texts, if it reads any).

        0 returns the images (up to what an autoencoder or a smaller resolution loses), 1 what :meth:`sample` generates.
        Reference: SDEdit (Meng et al., arXiv 2108.01073).
        """
        if not self.can_edit:
            raise ValueError(
                f"Decoder.edit: found kind {self.spec.kind}, which does not generate by denoising: expected "
                "pixel_diffusion, latent_diffusion or stable_diffusion"
            )
        return self.sample(embeddings, seeds, sampling, text, InitImage(images, strength))


def require_seeds(embeddings: Embeddings, seeds: Seeds) -> None:
    """Refuse to generate unless there is one seed for each embedding."""
    if len(seeds) != len(embeddings):
        raise ValueError(
            f"Decoder.sample: found {len(seeds)} seeds for {len(embeddings)} embeddings: "
            "expected one seed per embedding"
        )


def from_bytes(images: UInt8[Tensor, "batch height width 3"]) -> Images:
    """Return images of bytes as decoders take them: channels first, in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(images: Images) -> UInt8[Tensor, "batch height width 3"]:
    """Return images in [-1, 1] as bytes, channels last."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
