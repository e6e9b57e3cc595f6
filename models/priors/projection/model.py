"""The one-step prior: from a caption straight to an image embedding.

Paper: ECLIPSE: A Resource-Efficient Text-to-Image Prior (CVPR 2024, arXiv 2312.04655), section 3.2. Their training code
was never released; this is written from the paper.

    L = L_proj + lambda L_cls                                                          lambda = 0.2
    L_proj = |z_0 - f(y)|^2 / (d sigma^2)
    L_cls  = -log( exp(cos(f(y_i), e_i) / tau) / sum_j exp(cos(f(y_i), e_j) / tau) )   over the batch

Symbols: z_0 = image embedding [batch, embed]; e = CLIP text embedding of its caption [batch, embed]; f(y) = prediction;
sigma = root mean square of the training embeddings' standard deviations, which frees lambda from the CLIP's scale (the
paper's embeddings are of one scale). Two changes: captions that several images share are no negatives of one another
(the paper's captions are all different), and where a caption is left out there is no L_cls. With several workers the
batch of L_cls is that of all workers together.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.normalization import Normalization
from models.priors.base import (
    STD_FLOOR,
    Captions,
    Embeddings,
    OnStep,
    Prior,
    Rows,
    require_embeddings,
    require_seeds,
    require_width,
)
from models.priors.blocks import CausalTransformer
from models.priors.projection.spec import ProjectionPriorSpec
from models.priors.spec import PriorSampling
from models.priors.text import TextFeatures
from models.priors.training import text_of
from models.priors.transformer import TextTokens
from models.related import SAME
from models.whole_batch import ALONE, WholeBatch

_INIT_STD = 0.02


class ProjectionPrior(Prior):
    """A prior of one step; it is deterministic, so all samples for one caption are the same."""

    spec: ProjectionPriorSpec

    def __init__(self, spec: ProjectionPriorSpec) -> None:
        super().__init__(spec)
        self.image_scale = Normalization(spec.embed_dim, floor=STD_FLOOR)
        self.text_scale = Normalization(spec.caption_dim, floor=STD_FLOOR)
        self.network = _MlpProjection(spec) if spec.form == "mlp" else _TransformerProjection(spec)

    @property
    def scales(self) -> tuple[Normalization, Normalization]:
        """Mean and standard deviation of the images and of the captions that it learned from."""
        return self.image_scale, self.text_scale

    def measure(self, images: Rows, texts: Captions) -> None:
        """Fix the network's input and output scales from training data; call it once, before training."""
        widths = (self.spec.embed_dim, self.spec.caption_dim)
        for scale, embeddings, width in zip((self.image_scale, self.text_scale), (images, texts), widths, strict=True):
            require_embeddings(embeddings, width)
            scale.measure(embeddings)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return "loss" and its parts of each pair, L_proj and L_cls (for texts of another space L_proj alone)."""
        text, z_0, dropped = text_of(batch), batch["image_embedding"].float(), batch["drop_text"]
        require_width(text.embedding, self.spec.caption_dim)
        predicted = self._predict(text, dropped)
        variance = self.image_scale.std.square().mean()
        projection = (z_0 - predicted).square().mean(1) / variance
        if self.spec.text_dim is not None:
            return {"loss": projection, "projection_loss": projection}
        contrast = contrastive_loss(
            predicted, text.embedding.float(), temperature=self.spec.temperature,
            whole_batch=self.whole_batch if self.training else ALONE,
        )  # fmt: skip
        contrast = torch.where(dropped, 0, contrast)
        loss = projection + self.spec.contrastive_weight * contrast
        return {"loss": loss, "projection_loss": projection, "contrastive_loss": contrast}

    @torch.no_grad()
    def sample(
        self, text: TextFeatures, seeds: Sequence[int], sampling: PriorSampling, *, on_step: OnStep | None = None
    ) -> Embeddings:
        """Return the prediction for each caption; seeds and sampling settings have no effect."""
        require_seeds(text, seeds)
        require_embeddings(text.embedding, self.spec.caption_dim)
        return self._predict(text, torch.zeros(len(text), dtype=torch.bool, device=text.embedding.device))

    def _predict(self, text: TextFeatures, drop_text: Tensor) -> Embeddings:
        scaled = TextFeatures(self.text_scale.normalize(text.embedding), text.states)
        output: Tensor = self.network(scaled, drop_text)
        return self.image_scale.mean + self.image_scale.std * output.float()


def contrastive_loss(
    predicted: Float[Tensor, "count embed"],
    texts: Float[Tensor, "count embed"],
    *,
    temperature: float,
    whole_batch: WholeBatch = ALONE,
) -> Float[Tensor, " count"]:
    """Return L_cls of each row, in float32; other rows of the batch with the same caption are left out of its sum."""
    own = whole_batch.own(len(texts))
    with torch.autocast(texts.device.type, enabled=False):  # in bf16, cosines above 0.998 would be those of equals
        direction = F.normalize(whole_batch.joined(texts.float()), dim=-1)  # [batch, embed]
        logits = F.normalize(predicted.float(), dim=-1) @ direction.T / temperature  # [count, batch]
        positions = torch.arange(len(direction), device=texts.device)
        same = (direction[own] @ direction.T > SAME) & (positions[own, None] != positions)
        logits = logits.masked_fill(same, -torch.inf)
        return torch.logsumexp(logits, dim=1) - logits.diagonal(own.start)


class _TransformerProjection(nn.Module):
    """Text tokens, then one query, at which the output is read: [batch, embed]."""

    def __init__(self, spec: ProjectionPriorSpec) -> None:
        super().__init__()
        self.text_tokens = TextTokens(spec.network, spec.caption_dim)
        self.query_token = nn.Parameter(torch.randn(spec.network.width) * _INIT_STD)
        self.body = CausalTransformer(spec.network)
        self.output = _zero_linear(spec.network.width, spec.embed_dim)

    def forward(self, text: TextFeatures, drop_text: Bool[Tensor, " batch"]) -> Float[Tensor, "batch embed"]:
        tokens, visible = self.text_tokens(text, drop_text)
        tokens = torch.cat([tokens, self.query_token.expand(len(tokens), 1, -1)], dim=1)
        if visible is not None:
            visible = F.pad(visible, (0, 1), value=True)
        output: Tensor = self.output(self.body(tokens, visible, num_outputs=1)[:, 0])
        return output


class _MlpProjection(nn.Module):
    """Residual blocks on the text embedding: [batch, text] to [batch, embed]."""

    def __init__(self, spec: ProjectionPriorSpec) -> None:
        super().__init__()
        width = spec.network.width
        hidden = int(width * spec.network.feed_forward_factor)
        self.read = nn.Linear(spec.caption_dim, width)
        self.no_text = nn.Parameter(torch.randn(width) * _INIT_STD)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.RMSNorm(width), nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))
            for _ in range(spec.network.num_layers)
        )
        self.norm = nn.RMSNorm(width)
        self.output = _zero_linear(width, spec.embed_dim)

    def forward(self, text: TextFeatures, drop_text: Bool[Tensor, " batch"]) -> Float[Tensor, "batch embed"]:
        read = self.read(text.embedding.to(self.no_text.dtype))
        hidden = torch.where(drop_text[:, None], self.no_text.to(read.dtype), read)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        output: Tensor = self.output(self.norm(hidden))
        return output


def _zero_linear(width: int, embed_dim: int) -> nn.Linear:
    """Return an output layer whose first prediction is the mean embedding."""
    layer = nn.Linear(width, embed_dim)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
