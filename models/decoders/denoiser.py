"""What all decoders by diffusion share: the loss and the guided prediction, of pixels or of latents.

After training, a network may be fine-tuned on image and text embeddings together (Shifted Diffusion, arXiv 2211.15388).

Symbols: x_0 = what is noised, x_t = noisy: [batch, channel, row, column]; u = standardized image embedding, v = that of
a text: [batch, embed].
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from models.decoders.base import ConditionedModel, Embeddings, Init, Seeds, Text, require_seeds
from models.decoders.buckets import chosen_size
from models.decoders.conditioning import EmbeddingConditioner, TextConditioner
from models.decoders.sampling import DecoderSampling
from models.decoders.size_conditioning import SizeNumbers, size_features, whole_images
from models.decoders.spec import BucketedSpec
from models.diffusion.guidance import Predictor, guided
from models.diffusion.loss_weights import denoising_loss
from models.diffusion.processes import STANDARD, Process
from models.diffusion.samplers import NoiseSource, sample_images
from models.noise import SeededNoise

Images = Float[Tensor, "batch channel row column"]
Times = Float[Tensor, "batch"]


class Denoiser(ConditionedModel):
    """A network that predicts the process's target: ``forward(x_t, timestep, u, v, sizes)``; without texts, v is None.

    Without ``sizes`` (:mod:`models.decoders.size_conditioning`), images are as large as x_t says, and not cropped.
    """

    bounded: ClassVar[bool] = False
    """Whether x_0 lies in [-1, 1], as pixels do and latents do not."""

    spec: BucketedSpec  # type: ignore[assignment]  # its kinds have a resolution, as a field or a property
    conditioner: EmbeddingConditioner
    text: TextConditioner | None
    process: Process

    def size_condition(self, noisy: Images, sizes: SizeNumbers | None) -> Float[Tensor, "batch features"] | None:
        """Return the features of the sizes, where the network is conditioned on them."""
        width = self.spec.size_features
        return size_features(self.known_sizes(noisy, sizes), width).to(noisy.dtype) if width else None

    def known_sizes(self, noisy: Images, sizes: SizeNumbers | None) -> SizeNumbers:
        """Return the sizes, or those of whole images where none are given."""
        if sizes is not None:
            return sizes
        height, width = (self.spec.pixels_per_position * side for side in noisy.shape[-2:])
        return whole_images(height, width, noisy)

    def set_text_statistics(self, mean: Float[Tensor, "embed"], std: Float[Tensor, "embed"]) -> None:
        """Standardize text embeddings by these, where texts are read; they are saved with the weights."""
        if self.text is not None:
            self.text.set_statistics(mean, std)

    def read_text(self, text: Embeddings | None) -> Embeddings | None:
        """Return v of text embeddings; None where there are none, or the network reads no texts."""
        return None if text is None or self.text is None else self.text.standardize(text)

    def tokens(self, u: Embeddings, v: Embeddings | None) -> Float[Tensor, "batch token width"]:
        """Return what the network attends to."""
        tokens = self.conditioner.token_states(u)
        return tokens if v is None or self.text is None else tokens + self.text(v)

    def to_noise(self, clean: Images) -> Images:
        """Return x_0 for what the loss is given: the same, unless latents are to be scaled."""
        return clean

    def loss(
        self,
        clean: Images,
        embeddings: Embeddings,
        *,
        noise: Images,
        time: Times,
        blur: Embeddings,
        dropout: Times,
        text: Embeddings | None = None,
        sizes: SizeNumbers | None = None,
    ) -> Times:
        """Return every sample's denoising loss.

        ``noise`` on the images or latents and ``blur`` on the embeddings are standard normal, ``time`` and
        ``dropout`` uniform in [0, 1); below the dropout's threshold an embedding becomes the empty one, without text.
        A row of ``text`` that holds no numbers (NaN) is no text.
        """
        x_0 = self.to_noise(clean)
        u, v = self.conditioner.in_training(embeddings, blur, dropout), self.read_text(text)
        if v is not None:
            v = v.masked_fill((dropout < self.conditioner.empty_probability)[:, None], 0)
        t = self.process.time(time)
        noisy = self.process.diffuse(x_0, t, STANDARD, noise)
        return denoising_loss(self.process, self(noisy, self.process.timestep(t), u, v, sizes), x_0, noise, t)

    def predictor(self, embeddings: Embeddings, guidance_scale: float, text: Embeddings | None = None) -> Predictor:
        """Return the prediction for these embeddings by x_t and time step; a scale other than 1 guides it."""
        if guidance_scale == 1.0:
            u, v = self.conditioner.standardize(embeddings), self.read_text(text)
            return lambda x_t, timestep: self(x_t, timestep.expand(len(x_t)), u, v)
        u, v = self.guided_conditions(embeddings, text)
        return guided(lambda x_t, timestep: self(x_t, timestep, u, v), guidance_scale)

    def guided_conditions(
        self, embeddings: Embeddings, text: Embeddings | None
    ) -> tuple[Float[Tensor, "2*batch embed"], Float[Tensor, "2*batch embed"] | None]:
        """Return u and v, and below them as many empty ones: what guidance compares."""
        u, v = self.conditioner.standardize(embeddings), self.read_text(text)
        return self.conditioner.with_empty(u), None if v is None else torch.cat([v, torch.zeros_like(v)])

    @torch.no_grad()
    def generate(
        self, embeddings: Embeddings, seeds: Seeds, sampling: DecoderSampling, text: Text = None, init: Init = None
    ) -> Images:
        """Return x_0 from noise, or from an image noised to a strength; each by its own embedding and seed alone.

        ``sampling.size`` is one of the spec's sizes; an image to begin with has the same.
        """
        require_seeds(embeddings, seeds)
        streams = SeededNoise(seeds)
        shape = self.spec.grid_shape(chosen_size(sampling.size, self.spec.sizes))

        def noise() -> Images:
            return streams.normal(shape, embeddings.device)

        return self.solve(self.predictor(embeddings, sampling.guidance_scale, text), noise, sampling, init)

    def solve(self, predict: Predictor, noise: NoiseSource, sampling: DecoderSampling, start: Init = None) -> Images:
        """Go from the noise to x_0 by the process's own solver."""
        threshold = sampling.dynamic_threshold if self.bounded else None
        return sample_images(
            self.process,
            predict,
            noise,
            sampling.num_steps,
            bounded=self.bounded,
            dynamic_threshold=threshold,
            start=start,
        )


def make_text_conditioner(text_dim: int, num_tokens: int, token_dim: int) -> TextConditioner | None:
    """Return what reads texts of a width; None for width 0: no texts are read."""
    return TextConditioner(text_dim, num_tokens=num_tokens, token_dim=token_dim) if text_dim else None


def beside(u: Embeddings, features: Float[Tensor, "batch features"] | None) -> Float[Tensor, "batch width"]:
    """Return u with the features of sizes as further dimensions, if there are any: what joins the time's embedding."""
    return u if features is None else torch.cat([u, features.to(u.dtype)], dim=1)


def joined_layout(grid: Images, layout: Images | None) -> Images:
    """Return the grid with the layout map, brought to its size, as further channels; as it is without one."""
    if layout is None:
        return grid
    sized = torch.nn.functional.interpolate(layout, size=grid.shape[-2:], mode="nearest")
    return torch.cat([grid, sized.to(grid.dtype)], dim=1)
