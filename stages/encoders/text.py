"""Encode captions: their CLIP embeddings, and the token states that a prior may be conditioned on beside them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.priors.text import TextFeatures, TextStates
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import TextStatesConfig
from stages.encoders.language_model import LanguageModelEncoder
from stages.encoders.state_encoder import StateEncoder
from stages.encoders.t5 import T5Encoder
from stages.formats.embeddings.layout import TextEncoderIdentity, TextEncoders

STATE_ENCODERS: Mapping[str, type[StateEncoder]] = {one.name(): one for one in (T5Encoder, LanguageModelEncoder)}


@dataclass(frozen=True)
class EncodedTexts:
    """A batch of texts, float32 on the CPU; ``states`` holds the token states of each text, by encoder."""

    embedding: Float[Tensor, "batch embed"]
    states: dict[str, list[Float[Tensor, "tokens width"]]]

    def features(self) -> TextFeatures:
        """Return the input of a prior: states are padded with zeros to the longest."""
        states = {
            name: TextStates(pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows]))
            for name, rows in self.states.items()
        }
        return TextFeatures(self.embedding, states)


class TextEncoder:
    """CLIP, and encoders of text states beside it, by name, and CLIP's own text towers up to ``clip_max_length``
    tokens.
    """

    def __init__(
        self,
        clip: ClipEncoder,
        *,
        encoders: Mapping[str, StateEncoder] | None = None,
        clip_max_length: int | None = None,
    ) -> None:
        self.clip = clip
        self._encoders, self._clip_max_length = dict(encoders or {}), clip_max_length
        self._clip_width = 0 if clip_max_length is None else clip.text_state_width()

    @property
    def identities(self) -> TextEncoders:
        """Return the identities of the encoders of states by name, CLIP last."""
        identities = {name: encoder.identity for name, encoder in self._encoders.items()}
        if self._clip_max_length is not None:
            identities["clip"] = self._clip_identity(self._clip_max_length)
        return identities

    def _clip_identity(self, max_length: int) -> TextEncoderIdentity:
        models = self.clip.identities
        return TextEncoderIdentity(
            reference=" + ".join(model.reference for model in models),
            digest=hashlib.sha256("+".join(models.digests).encode()).hexdigest(),
            width=self._clip_width,
            max_length=max_length,
            source={},
        )

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Encode a batch of texts."""
        states = {name: encoder.encode(texts) for name, encoder in self._encoders.items()}
        if self._clip_max_length is None:
            return EncodedTexts(self.clip.encode_texts(texts), states)
        embedding, clip_states = self.clip.encode_texts_with_states(texts)
        states["clip"] = [rows[: self._clip_max_length] for rows in clip_states]
        return EncodedTexts(embedding, states)


def make_text_encoder(clip: ClipEncoder, config: TextStatesConfig | None, *, device: torch.device | str) -> TextEncoder:
    """Return the text encoder with the configured encoders of text states."""
    wanted = config or TextStatesConfig()
    encoders = {
        name: STATE_ENCODERS[name](model, max_length=model.max_length, device=device)
        for name, model in wanted.text_models.items()
    }
    return TextEncoder(clip, encoders=encoders, clip_max_length=None if wanted.clip is None else wanted.clip.max_length)
