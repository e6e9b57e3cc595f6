"""The trivial prior: the text embedding used as image embedding. It shows the modality gap that priors close."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F

from models.noise import SeededNoise
from models.priors.base import Captions, Embeddings, OnStep, Prior, Rows, require_seeds, require_width
from models.priors.identity.spec import IdentityPriorSpec
from models.priors.spec import PriorSampling, PriorSpec
from models.priors.text import TextFeatures


class IdentityPrior(Prior):
    """Return the CLIP text embedding; there is nothing to train and nothing random."""

    spec: IdentityPriorSpec

    @classmethod
    def random_inputs(cls, spec: PriorSpec, streams: SeededNoise, *, text_dropout: float) -> dict[str, Tensor]:
        """Return nothing: there is nothing random."""
        return {}

    def measure(self, images: Rows, texts: Captions) -> None:
        """Need to know nothing."""

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return 1 - cos(image embedding, text embedding) as loss, to report; it has no gradient."""
        image, text = batch["image_embedding"].float(), batch["text_embedding"].float()
        return {"loss": 1 - F.cosine_similarity(image, text, dim=-1)}

    def sample(
        self, text: TextFeatures, seeds: Sequence[int], sampling: PriorSampling, *, on_step: OnStep | None = None
    ) -> Embeddings:
        """Return the text embeddings in float32; the sampling settings have no effect."""
        require_seeds(text, seeds)
        require_width(text.embedding, self.spec.embed_dim)
        return text.embedding.float()
