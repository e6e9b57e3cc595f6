"""What the tasks of all decoders by diffusion share."""

from typing import cast

import torch
from torch import Tensor, nn

from models.decoders.base import from_bytes
from models.decoders.denoiser import Denoiser
from models.noise import SeededNoise
from stages.training.randomness import sample_uniform
from stages.training.task import Batch, BatchPart


class DenoisingLoss(nn.Module):
    """Gives a denoiser's loss, on images or on latents, the form that the loop calls; nothing else is trained."""

    def __init__(self, denoiser: Denoiser) -> None:
        """Wrap the denoiser."""
        super().__init__()
        self.denoiser = denoiser

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the denoising loss of each sample."""
        clean = from_bytes(batch["images"]) if "images" in batch else batch["latents"]
        random_inputs = {name: batch[name] for name in ("noise", "time", "blur", "dropout")}
        return {"loss": self.denoiser.loss(clean, batch["embeddings"], text=batch.get("text"), **random_inputs)}


def denoiser_of(model: nn.Module) -> Denoiser:
    """Return the denoiser within the model that is trained."""
    return cast(DenoisingLoss, model).denoiser


def denoising_random_inputs(
    part: BatchPart, stream: SeededNoise, *, seed: int, shape: tuple[int, ...], embed_dim: int
) -> Batch:
    """Draw noise of a sample's shape, times, and what happens to the embeddings."""
    return {
        "noise": stream.draw(shape),
        "blur": stream.draw((embed_dim,)),
        "time": torch.from_numpy(sample_uniform(seed, part, "times")).float(),
        "dropout": torch.from_numpy(sample_uniform(seed, part, "dropout")).float(),
    }
