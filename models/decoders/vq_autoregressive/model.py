"""The decoder that generates an image code by code: a causal transformer over the codes of a VQ autoencoder.

Papers: van den Oord et al. (arXiv 1711.00937), section 3.3; Ramesh et al., DALL-E (arXiv 2102.12092); guidance of
logits by Gafni et al., Make-A-Scene (arXiv 2203.13131), section 3.4.

Symbols: c_i = code at position i, in reading order: [batch, position]; u = standardized condition: [batch, embed].
The input that predicts c_i is c_{i-1} (a learned start for i = 0), the position i, and the layout at position i;
before all of them stand the conditions' tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from models.autoencoders.model import Images, VQAutoencoder
from models.decoders.base import Decoder, Embeddings, Init, Seeds, Text, require_seeds
from models.decoders.conditioning import EmbeddingConditioner, LayoutConfig
from models.decoders.sampling import DecoderSampling
from models.decoders.vq_autoregressive.spec import VQAutoregressiveSpec
from models.noise import SeededNoise
from models.priors.blocks import CausalTransformer, KeyValueCache
from models.priors.spec import TransformerSpec

Codes = Int[Tensor, "batch position"]
Logits = Float[Tensor, "batch position code"]


@dataclass(frozen=True)
class Conditions:
    """What codes are predicted from, ready for the network."""

    tokens: Float[Tensor, "batch token width"]
    layout: Float[Tensor, "batch position width"] | None


class CodeTransformer(nn.Module):
    """Predicts each code from the conditions and the codes before it."""

    def __init__(self, spec: VQAutoregressiveSpec) -> None:
        super().__init__()
        self.spec = spec
        network, side = spec.network, spec.autoencoder.latent_resolution
        width = network.width
        layout = LayoutConfig(network.layout_channels, side, network.layout_hidden) if network.layout_channels else None
        read = partial(
            EmbeddingConditioner,
            num_tokens=network.num_tokens,
            token_dim=width,
            empty_probability=network.empty_probability,
        )
        noise = network.embedding_noise
        self.image = read(spec.embed_dim, layout=layout, embedding_noise=noise) if spec.reads_image_embedding else None
        self.text = read(spec.text_dim) if spec.text_dim else None
        self.layout = nn.Linear(network.layout_channels, width) if layout else None
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.codes = nn.Embedding(spec.num_codes, width)
        self.places = nn.Parameter(0.02 * torch.randn(spec.num_positions, width))  # of positions; a name in weights
        self.body = CausalTransformer(settings_of(spec))
        self.head = nn.Linear(width, spec.num_codes)

    def forward(self, codes: Codes, conditions: Conditions) -> Logits:
        """Return the logits of every code, each from the codes before it."""
        before = F.embedding(codes[:, :-1], self.codes.weight)
        inputs = torch.cat([self.start.to(before.dtype).expand(len(codes), 1, -1), before], dim=1)
        inputs = torch.cat([conditions.tokens.to(inputs.dtype), self._with_positions(inputs, 0, conditions)], dim=1)
        logits: Logits = self.head(self.body(inputs, num_outputs=codes.shape[1]))
        return logits

    def conditions(self, u_image: Embeddings | None, u_text: Embeddings | None) -> Conditions:
        """Turn standardized embeddings into tokens and a layout; those that the network does not read are ignored."""
        tokens, layout = [], None
        if self.image is not None and u_image is not None:
            tokens.append(self.image.token_states(u_image))
            layout_map = self.image.layout_map(u_image)
            if layout_map is not None and self.layout is not None:
                layout = self.layout(layout_map.flatten(2).transpose(1, 2))
        if self.text is not None and u_text is not None:
            tokens.append(self.text.token_states(u_text))
        return Conditions(torch.cat(tokens, dim=1), layout)

    def loss(
        self,
        codes: Codes,
        embeddings: Embeddings,
        *,
        blur: Embeddings,
        dropout: Float[Tensor, "batch"],
        text: Embeddings | None = None,
    ) -> dict[str, Float[Tensor, "batch"]]:
        """Return "loss", the mean cross-entropy of every sample's codes in nats, and "accuracy" of the likeliest code.

        ``blur`` is standard normal; ``dropout``, uniform in [0, 1), makes all conditions of a sample the empty ones
        where it is below the threshold. A row of ``text`` that holds no numbers (NaN: no caption) is the empty one.
        """
        u_image = None if self.image is None else self.image.in_training(embeddings, blur, dropout)
        u_text = None
        if self.text is not None:
            u_text = self.text.drop(self.read_text(text, len(codes)), dropout < self.text.empty_probability)
        logits = self(codes, self.conditions(u_image, u_text)).float()
        entropy = F.cross_entropy(logits.transpose(1, 2), codes, reduction="none").mean(1)
        return {"loss": entropy, "accuracy": (logits.argmax(-1) == codes).float().mean(1)}

    def read_text(self, text: Embeddings | None, count: int) -> Embeddings:
        """Return standardized text embeddings; the learned empty one where a row holds no numbers, or there is none."""
        if self.text is None:
            raise ValueError("CodeTransformer: found text_dim 0: expected the text embedding's width, to read texts")
        if text is None:
            return self.text.empty.expand(count, -1)
        missing = text.isnan().any(dim=1)
        return self.text.drop(self.text.standardize(text.nan_to_num()), missing)

    def next_logits(
        self, code: Int[Tensor, "batch"] | None, position: int, conditions: Conditions, cache: KeyValueCache
    ) -> Float[Tensor, "batch code"]:
        """Return the logits of the code at ``position`` after the one before it (none: the first), and keep it."""
        if code is None:
            inputs = self.start.expand(len(conditions.tokens), 1, -1)
            inputs = torch.cat([conditions.tokens, self._with_positions(inputs, 0, conditions)], dim=1)
        else:
            inputs = self._with_positions(F.embedding(code[:, None], self.codes.weight), position, conditions)
        states = self.body(inputs, cache=cache, num_outputs=1)
        cache.keep(inputs.shape[1])
        logits: Tensor = self.head(states[:, 0])
        return logits

    def _with_positions(self, inputs: Tensor, first: int, conditions: Conditions) -> Tensor:
        positions = slice(first, first + inputs.shape[1])
        placed: Tensor = inputs + self.places[positions].to(inputs.dtype)
        return placed if conditions.layout is None else placed + conditions.layout[:, positions].to(inputs.dtype)


class CodeLoss(nn.Module):
    """The transformer under its loss; the autoencoder takes no part in training."""

    def __init__(self, transformer: CodeTransformer) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the cross-entropy of each sample's codes, and the fraction of them that were the likeliest."""
        random_inputs = {name: batch[name] for name in ("blur", "dropout")}
        codes = batch["codes"].flatten(1).long()
        return self.transformer.loss(codes, batch["embeddings"], text=batch.get("text"), **random_inputs)


class VQDecoder(Decoder):
    """Codes from the transformer, images of them from the autoencoder."""

    spec: VQAutoregressiveSpec

    def __init__(
        self,
        spec: VQAutoregressiveSpec,
        *,
        transformer: CodeTransformer | None = None,
        autoencoder: VQAutoencoder | None = None,
    ) -> None:
        """Put both together; what is not given is built with random weights."""
        super().__init__()
        self.spec = spec
        self.transformer = CodeTransformer(spec) if transformer is None else transformer
        self.autoencoder = cast(VQAutoencoder, spec.autoencoder.build()) if autoencoder is None else autoencoder

    def set_embedding_statistics(self, mean: Float[Tensor, "embed"], std: Float[Tensor, "embed"]) -> None:
        """Standardize image embeddings by the training set's mean and std; they are saved with the weights."""
        if self.transformer.image is not None:
            self.transformer.image.set_statistics(mean, std)

    def set_text_statistics(self, mean: Float[Tensor, "embed"], std: Float[Tensor, "embed"]) -> None:
        """Standardize text embeddings by these; they are saved with the weights."""
        if self.transformer.text is not None:
            self.transformer.text.set_statistics(mean, std)

    @torch.no_grad()
    def sample(
        self, embeddings: Embeddings, seeds: Seeds, sampling: DecoderSampling, text: Text = None, init: Init = None
    ) -> Images:
        """Generate codes, and decode them; without a text it is conditioned on the learned empty one."""
        side = self.spec.autoencoder.latent_resolution
        codes = self.sample_codes(embeddings, seeds, sampling, text if self.reads_text else None)
        return self.autoencoder.decode_codes(codes.view(-1, side, side)).float().clamp(-1, 1)

    @torch.no_grad()
    def sample_codes(self, embeddings: Embeddings, seeds: Seeds, sampling: DecoderSampling, text: Text = None) -> Codes:
        """Sample the codes in reading order; a position uses one uniform number of its image's seed."""
        require_seeds(embeddings, seeds)
        num_positions, guided = self.spec.num_positions, sampling.guidance_scale != 1.0
        conditions = self._conditions(embeddings, text, guided=guided)
        capacity = conditions.tokens.shape[1] + num_positions
        rows = len(conditions.tokens)
        cache = KeyValueCache(settings_of(self.spec), rows, capacity, like=conditions.tokens)
        uniform = SeededNoise(seeds).uniform((num_positions,), embeddings.device)
        generated: list[Tensor] = []
        for position in range(num_positions):
            before = generated[-1].repeat(1 + guided) if generated else None
            logits = self.transformer.next_logits(before, position, conditions, cache)
            if guided:
                conditional, unconditional = logits.chunk(2)
                logits = torch.lerp(unconditional, conditional, sampling.guidance_scale)
            generated.append(sample_codes(logits, uniform[:, position], sampling))
        return torch.stack(generated, dim=1)

    def _conditions(self, embeddings: Embeddings, text: Embeddings | None, *, guided: bool) -> Conditions:
        image, of_text = self.transformer.image, self.transformer.text
        u_image = None if image is None else image.standardize(embeddings)
        u_text = None
        if of_text is not None:
            u_text = self.transformer.read_text(text, len(embeddings))
        if guided:
            u_image = None if image is None or u_image is None else image.with_empty(u_image)
            u_text = None if of_text is None or u_text is None else of_text.with_empty(u_text)
        return self.transformer.conditions(u_image, u_text)


def sample_codes(
    logits: Float[Tensor, "batch code"], uniform: Float[Tensor, "batch"], sampling: DecoderSampling
) -> Int[Tensor, "batch"]:
    """Sample a code for each row by inverting the distribution function at its uniform number.

    The logits are divided by the temperature; of top_k codes only the most likely ones may be sampled.
    """
    scores, codes = logits.float().sort(dim=1, descending=True)
    scores = scores[:, : sampling.top_k] / sampling.temperature
    reached = scores.softmax(dim=1).cumsum(dim=1)
    index = torch.searchsorted(reached, uniform[:, None] * reached[:, -1:], right=True)
    return codes.gather(1, index.clamp_max(scores.shape[1] - 1))[:, 0]


def settings_of(spec: VQAutoregressiveSpec) -> TransformerSpec:
    """Return the size of the body in the words of the blocks."""
    return TransformerSpec(
        width=spec.network.width,
        num_layers=spec.network.num_layers,
        num_heads=spec.network.num_heads,
        feed_forward_factor=spec.network.feed_forward_factor,
        gradient_checkpointing=spec.network.gradient_checkpointing,
    )


def build_training(spec: VQAutoregressiveSpec) -> CodeLoss:
    """Return the transformer under its loss."""
    return CodeLoss(CodeTransformer(spec))
