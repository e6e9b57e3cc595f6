"""What all decoders by diffusion share: the loss and the guided prediction, of pixels or of latents.

Symbols: x_0 = what is noised, x_t = noisy: [batch, channel, row, column]; u = standardized embedding: [batch, embed].
"""

import torch
from jaxtyping import Float
from torch import Tensor

from models.decoders.base import ConditionedModel, Embeddings
from models.decoders.conditioning import EmbeddingConditioner
from models.decoders.process import Pictures, Predictor, Process, Times, guided


class Denoiser(ConditionedModel):
    """A network that predicts the process's target from x_t, the time step and u: ``forward(x_t, timestep, u)``."""

    conditioner: EmbeddingConditioner
    process: Process

    def set_embedding_statistics(self, mean: Float[Tensor, "embed"], std: Float[Tensor, "embed"]) -> None:
        """Standardize embeddings by the training set's mean and deviation; they are saved with the weights."""
        self.conditioner.set_statistics(mean, std)

    def to_noise(self, clean: Pictures) -> Pictures:
        """Return x_0 for what the loss is given: the same, unless latents are to be scaled."""
        return clean

    def loss(
        self,
        clean: Pictures,
        embeddings: Embeddings,
        *,
        noise: Pictures,
        time: Times,
        blur: Embeddings,
        dropout: Times,
    ) -> Times:
        """Return every sample's denoising loss.

        ``noise`` on the pictures or latents and ``blur`` on the embeddings are standard normal, ``time`` and
        ``dropout`` uniform in [0, 1); below the dropout's threshold an embedding becomes the empty one.
        """
        x_0 = self.to_noise(clean)
        u = self.conditioner.in_training(embeddings, blur, dropout)
        noisy, timestep = self.process.mix(x_0, noise, time)
        return self.process.loss(self(noisy, timestep, u), x_0, noise, time)

    def predictor(self, embeddings: Embeddings, guidance_scale: float) -> Predictor:
        """Return the prediction for these embeddings by x_t and time step; a scale other than 1 guides it."""
        u = self.conditioner.standardize(embeddings)
        if guidance_scale == 1.0:
            return lambda x_t, timestep: self(x_t, timestep.expand(len(x_t)), u)
        both = self.conditioner.with_empty(u)
        return guided(lambda x_t, timestep: self(x_t, timestep, both), guidance_scale)


def joined_layout(grid: Pictures, layout: Pictures | None) -> Pictures:
    """Return the grid with the layout map, brought to its size, as further channels; as it is without one."""
    if layout is None:
        return grid
    sized = torch.nn.functional.interpolate(layout, size=grid.shape[-2:], mode="nearest")
    return torch.cat([grid, sized.to(grid.dtype)], dim=1)
