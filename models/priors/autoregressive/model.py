"""The autoregressive prior: the embedding as a sequence of quantised principal components, predicted one by one.

Paper: Hierarchical Text-Conditional Image Generation with CLIP Latents (DALL-E 2, arXiv 2204.06125), section 2.2.

Tokens, in order: [text tokens] [similarity] [component 1] ... [component n - 1]; every token predicts the next one,
the last text token the similarity. The similarity is the cosine of text and image embedding: known in training, in
sampling taken from the upper half of what the network predicts for the caption, so that embeddings are sampled that fit
their caption well (the paper samples from the upper half of the distribution over the training data). A dropped caption
hides the similarity too, because it depends on the caption.

Symbols:
    x   principal components of an embedding, by decreasing variance       [batch, components]
    b   their buckets, 0 ... num_buckets - 1, of equal width over +-4 standard deviations of each component
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from models.buffers import ExactBuffers
from models.diffusion.guidance import guide
from models.noise import SeededNoise
from models.normalization import Normalization
from models.priors.autoregressive.spec import AutoregressivePriorSpec
from models.priors.base import (
    STD_FLOOR,
    Captions,
    Embeddings,
    OnStep,
    Prior,
    Rows,
    require_captions,
    require_embeddings,
    require_seeds,
    require_width,
)
from models.priors.blocks import CausalTransformer, KeyValueCache
from models.priors.spec import PriorSampling
from models.priors.text import TextFeatures
from models.priors.training import text_of
from models.priors.transformer import TextTokens, first_caption

_INIT_STD = 0.02
_RANGE = 4.0  # standard deviations to either side; what lies beyond goes into the outermost bucket
_ROWS_AT_ONCE = 65_536
_STD_FLOOR = 1e-6


class AutoregressivePrior(Prior):
    """DALL-E 2's other prior; its principal components are in its state."""

    spec: AutoregressivePriorSpec

    def __init__(self, spec: AutoregressivePriorSpec) -> None:
        super().__init__(spec)
        self.components = ComponentBuckets(spec.embed_dim, spec.num_components, spec.num_buckets)
        self.text_scale = Normalization(spec.embed_dim, floor=STD_FLOOR)
        self.network = BucketTransformer(spec)

    def measure(self, images: Rows, texts: Captions) -> None:
        """Find the principal components of the images and the scale of the captions; once, before training."""
        self.components.measure(images)
        require_embeddings(texts, self.spec.embed_dim)
        self.text_scale.measure(texts)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the cross entropy of each pair's buckets, in nats, mean over similarity and components."""
        text, z_0 = text_of(batch), batch["image_embedding"].float()
        require_width(text.embedding, self.spec.embed_dim)
        buckets = torch.cat([self._similarity(z_0, text)[:, None], self.components.encode(z_0)], dim=1)
        logits = self.network(buckets, self._scaled(text), batch["drop_text"])
        return {"loss": F.cross_entropy(logits.float().transpose(1, 2), buckets, reduction="none").mean(1)}

    @torch.no_grad()
    def sample(
        self, text: TextFeatures, seeds: Sequence[int], sampling: PriorSampling, *, on_step: OnStep | None = None
    ) -> Embeddings:
        """Return an embedding for each caption, sampled at temperature 1; it depends on the caption and its seed alone.

        Of ``sampling`` only ``guidance_scale`` counts: see :func:`models.diffusion.guidance.guide`, here of
        logits; the similarity is sampled without guidance.
        """
        require_captions(self.spec)
        require_seeds(text, seeds)
        require_embeddings(text.embedding, self.spec.embed_dim)
        scale = sampling.guidance_scale
        cache, logits = self.network.read(self._scaled(text), guided=scale != 1.0)
        return self._run(cache, logits, seeds, scale)

    @torch.no_grad()
    def _sample_unconditional(
        self, seeds: Sequence[int], sampling: PriorSampling, on_step: OnStep | None
    ) -> Embeddings:
        """Sample the components with caption and similarity hidden, as in training without captions."""
        nowhere = torch.zeros(len(seeds), self.spec.embed_dim, device=self.text_scale.mean.device)
        widths = {name: states.width for name, states in self.spec.network.text_states.items()}
        cache, logits = self.network.read_nothing(TextFeatures.missing(nowhere, widths))
        return self._run(cache, logits, seeds, 1.0, hide_similarity=True)

    def _run(
        self, cache: KeyValueCache, logits: Tensor, seeds: Sequence[int], scale: float, *, hide_similarity: bool = False
    ) -> Embeddings:
        """Sample the similarity from its logits and then one component after the other."""
        streams = SeededNoise(seeds)
        uniform = streams.uniform((self.spec.num_components + 1,), logits.device, torch.float64)
        uniform[:, 0] = (1 + uniform[:, 0]) / 2  # the upper half
        choices = [column.contiguous() for column in uniform.T[:, :, None]]  # one for each token: [batch, 1]
        generated = [_inverse_cdf(logits, choices[0])]
        for position in range(self.spec.num_components):
            hidden = hide_similarity and position == 0
            logits = self.network.read_bucket(cache, generated[-1], position, hidden=hidden)
            if scale != 1.0:
                conditional, unconditional = logits.chunk(2)
                logits = guide(conditional, unconditional, scale=scale)
            generated.append(_inverse_cdf(logits, choices[position + 1]))
        return self.components.decode(torch.stack(generated[1:], dim=1))

    def _scaled(self, text: TextFeatures) -> TextFeatures:
        return TextFeatures(self.text_scale.normalize(text.embedding), text.states)

    def _similarity(self, z_0: Tensor, text: TextFeatures) -> Int[Tensor, "batch"]:
        cosine = F.cosine_similarity(z_0, text.embedding.float())
        return _buckets((cosine + 1) / 2, self.spec.num_buckets)


class ComponentBuckets(ExactBuffers):
    """Embeddings to buckets of their principal components and back."""

    mean: Tensor  # float64: [embed]
    directions: Tensor  # orthonormal rows, float64: [components, embed]
    stds: Tensor  # standard deviation along each direction, float64: [components]

    def __init__(self, embed_dim: int, num_components: int, num_buckets: int) -> None:
        super().__init__()
        self.num_buckets = num_buckets
        self.register_buffer("mean", torch.zeros(embed_dim, dtype=torch.float64))
        self.register_buffer("directions", torch.eye(num_components, embed_dim, dtype=torch.float64))
        self.register_buffer("stds", torch.ones(num_components, dtype=torch.float64))

    def measure(self, embeddings: Rows) -> None:
        """Find the directions of largest variance, each one's largest entry positive, in float64."""
        require_embeddings(embeddings, len(self.mean))
        rows, wanted = len(embeddings), len(self.stds)
        if rows <= wanted:
            raise ValueError(
                f"autoregressive prior: num_components is {wanted}, but {rows} training embeddings span at most "
                f"{max(rows - 1, 0)} directions: lower num_components or train on more pairs"
            )
        parts = torch.split(embeddings, _ROWS_AT_ONCE)
        mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / rows
        centred = (part.double() - mean for part in parts)
        covariance = sum((part.T @ part for part in centred), start=torch.zeros_like(mean)) / rows
        variances, vectors = torch.linalg.eigh(covariance)  # ascending; eigenvectors in columns
        directions = vectors.T.flip(0)[:wanted]
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        stds = variances.flip(0)[:wanted].clamp_min(0).sqrt()
        floor = _STD_FLOOR * float(stds[0]) or 1.0  # all rows equal: any range does
        self.mean.copy_(mean)
        self.directions.copy_(directions * largest.sign())
        self.stds.copy_(stds.clamp_min(floor))

    def encode(self, embeddings: Embeddings) -> Int[Tensor, "batch components"]:
        """Return b = floor(num_buckets (x / (4 stds) + 1) / 2), kept within 0 ... num_buckets - 1."""
        x = (embeddings.double() - self.mean) @ self.directions.T
        return _buckets((x / (_RANGE * self.stds) + 1) / 2, self.num_buckets)

    def decode(self, buckets: Int[Tensor, "batch components"]) -> Embeddings:
        """Return the embeddings in the middle of the buckets, float32."""
        x = (2 * (buckets.double() + 0.5) / self.num_buckets - 1) * _RANGE * self.stds
        return (self.mean + x @ self.directions).float()


class BucketTransformer(nn.Module):
    """Predict each bucket from the caption and the buckets before it; bucket 0 of a row is the similarity."""

    def __init__(self, spec: AutoregressivePriorSpec) -> None:
        super().__init__()
        width = spec.network.width
        self.spec = spec
        self.text_tokens = TextTokens(spec.network, spec.embed_dim, captions_added=spec.is_unconditional)
        self.bucket_token = nn.Embedding(spec.num_buckets, width)
        nn.init.normal_(self.bucket_token.weight, std=_INIT_STD)
        self.no_similarity = nn.Parameter(torch.randn(width) * _INIT_STD)
        if spec.is_unconditional:  # what a similarity says is added to the token of none, and is nothing at first
            self.similarity_gain = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.randn(spec.num_components, width) * _INIT_STD)
        self.body = CausalTransformer(spec.network)
        self.logits = nn.Linear(width, spec.num_buckets)

    def forward(
        self, buckets: Int[Tensor, "batch tokens"], text: TextFeatures, drop_text: Bool[Tensor, "batch"]
    ) -> Float[Tensor, "batch tokens buckets"]:
        """Return the logits of each bucket, given the true ones before it."""
        text_tokens, visible = self.text_tokens(text, drop_text)
        known = self.bucket_token(buckets[:, :-1])
        similarity = torch.where(drop_text[:, None], self.no_similarity, self._similarity_token(known[:, 0]))
        known = torch.cat([similarity[:, None], known[:, 1:]], dim=1) + self.positions
        if visible is not None:
            visible = F.pad(visible, (0, known.shape[1]), value=True)
        outputs = self.body(torch.cat([text_tokens, known], dim=1), visible, num_outputs=buckets.shape[1])
        logits: Tensor = self.logits(outputs)
        return logits

    def read(self, text: TextFeatures, *, guided: bool) -> tuple[KeyValueCache, Float[Tensor, "batch buckets"]]:
        """Read the captions and return the logits of the similarity; ``guided`` adds as many rows without caption."""
        keep = torch.zeros(len(text), dtype=torch.bool, device=text.embedding.device)
        cache, logits = self._read(text, keep)
        if guided:  # all alike, so they are computed once
            plain, _ = self._read(first_caption(text), ~keep[:1])
            cache = cache.joined_with(plain, len(text))
        return cache, logits

    def read_nothing(self, text: TextFeatures) -> tuple[KeyValueCache, Float[Tensor, "batch buckets"]]:
        """Read captions that are left out."""
        return self._read(text, torch.ones(len(text), dtype=torch.bool, device=text.embedding.device))

    def read_bucket(
        self, cache: KeyValueCache, bucket: Int[Tensor, "batch"], position: int, *, hidden: bool = False
    ) -> Float[Tensor, "rows buckets"]:
        """Read the bucket at this position of every row and return the logits of the next; rows as in :meth:`read`.

        The similarity, at position 0, is ``hidden`` where captions are left out.
        """
        token = self.bucket_token(bucket)
        nothing = self.no_similarity.expand_as(token)
        if position == 0:
            token = nothing if hidden else self._similarity_token(token)
        if cache.num_rows > len(bucket):
            token = torch.cat([token, token if position else nothing])
        outputs = self.body((token + self.positions[position])[:, None], cache=cache)
        cache.keep(1)
        logits: Tensor = self.logits(outputs[:, 0])
        return logits

    def _similarity_token(self, token: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        return self.no_similarity + self.similarity_gain * token if self.spec.is_unconditional else token

    def _read(self, text: TextFeatures, drop_text: Tensor) -> tuple[KeyValueCache, Tensor]:
        tokens, visible = self.text_tokens(text, drop_text)
        count = tokens.shape[1]
        cache = KeyValueCache(self.spec.network, len(text), count + self.spec.num_components, tokens)
        outputs = self.body(tokens, visible, cache, num_outputs=1)
        cache.keep(count)
        return cache, self.logits(outputs[:, 0])


def _buckets(unit: Tensor, num_buckets: int) -> Int[Tensor, "..."]:
    """Return which of equal buckets of [0, 1] holds each number; what lies outside goes to the nearest."""
    return (unit * num_buckets).floor().clamp(0, num_buckets - 1).long()


def _inverse_cdf(logits: Float[Tensor, "batch buckets"], uniform: Float[Tensor, "batch 1"]) -> Int[Tensor, "batch"]:
    """Return the first bucket up to which more than ``uniform`` of the probability lies."""
    cumulated = logits.double().softmax(-1).cumsum(-1)
    generated = torch.searchsorted(cumulated, uniform, right=True)[:, 0]
    return generated.clamp_max(logits.shape[-1] - 1)  # the sum may round to less than 1
