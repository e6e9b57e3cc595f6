"""What a training pass of any prior takes: pairs, and random numbers that belong to the samples."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from models.noise import SeededNoise
from models.priors.base import Prior
from models.priors.spec import PriorSpec
from models.priors.text import TextFeatures, TextStates


def training_random_inputs(spec: PriorSpec, seeds: Sequence[int], *, text_dropout: float) -> dict[str, Tensor]:
    """Sample all random numbers of one training pass on the CPU, each sample's from its own seed.

    drop_text  bool [batch], captions to leave out, for classifier-free guidance (no identity prior has any)
    time       [batch], the times of training of the process (diffusion priors)
    noise      float32 [batch, embed], standard normal (diffusion priors)
    bank_noise float32 [batch, 16, embed], standard normal, for method eq. 6 (learnable Gaussians)
    """
    prior: type[Prior] = spec.model_class
    return prior.random_inputs(spec, SeededNoise(seeds), text_dropout=text_dropout)


def training_batch(
    image_embeddings: Float[Tensor, "batch embed"], text: TextFeatures, random_inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Put together, as plain named tensors, what a prior's ``forward`` takes."""
    batch = {"image_embedding": image_embeddings, "text_embedding": text.embedding, **random_inputs}
    if text.image is not None:
        batch["stand_in"] = text.image
    for name, states in text.states.items():
        batch[f"text_states/{name}"] = states.values
        batch[f"text_lengths/{name}"] = states.lengths
    return batch


def text_of(batch: Mapping[str, Tensor]) -> TextFeatures:
    """Return the captions of a batch of :func:`training_batch`."""
    prefix = "text_states/"
    names = [key.removeprefix(prefix) for key in batch if key.startswith(prefix)]
    states = {name: TextStates(batch[prefix + name], batch[f"text_lengths/{name}"]) for name in names}
    return TextFeatures(batch["text_embedding"], states, batch.get("stand_in"))
