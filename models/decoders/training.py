"""The loss of a denoiser in the form that the training loop calls."""

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from models.decoders.base import Decoder, from_bytes
from models.decoders.denoiser import Denoiser


class DenoisingLoss(nn.Module):
    """A denoiser of images or latents under its loss; nothing else is trained."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    @property
    def decoder(self) -> Decoder:
        """The decoder, where it is its own denoiser."""
        return cast(Decoder, self.denoiser)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the denoising loss of each sample."""
        clean = from_bytes(batch["images"]) if "images" in batch else batch["latents"]
        random_inputs = {name: batch[name] for name in ("noise", "time", "blur", "dropout")}
        given: Any = {name: batch.get(name) for name in ("text", "sizes")}
        return {"loss": self.denoiser.loss(clean, batch["embeddings"], **given, **random_inputs)}


def denoiser_of(model: nn.Module) -> Denoiser:
    """Return the denoiser within the model that is trained."""
    return cast(DenoisingLoss, model).denoiser
