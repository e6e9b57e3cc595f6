"""Sections of decoders: what all have, and the section of a kind that trains on images and embeddings."""

from dataclasses import Field, fields
from typing import Any, ClassVar

from pydantic import model_validator

from models.decoders.spec import DecoderSpec
from stages.contract.config import section_of
from stages.train_decoder.base_config import TextTunedConfig
from stages.training.config import TrainingConfig

_GIVEN = frozenset({"kind", "embed_dim", "resolution", "text_dim", "buckets"})


class ImageDecoderConfig(TextTunedConfig):
    """Train a decoder on all images; a kind adds the settings of its spec."""

    spec_class: ClassVar[type[DecoderSpec]]

    @model_validator(mode="after")
    def _can_be_built(self) -> "ImageDecoderConfig":
        if self.text is not None and not hasattr(self.spec_class, "text_dim"):
            raise ValueError(f"text: found one for kind {self.kind}, which reads no texts: allowed is null")
        self.spec(1)
        return self

    def spec(self, embed_dim: int) -> DecoderSpec:
        """Return the decoder's spec, for embeddings of that width."""
        values = {name: getattr(self, name) for name in _settings(self.spec_class)}
        values |= {"embed_dim": embed_dim, "resolution": self.resolution}
        if self.buckets is not None:
            values["buckets"] = self.buckets
        if self.text is not None:
            values["text_dim"] = embed_dim
        return self.spec_class(**values)


def image_section(spec: type[DecoderSpec], module: str) -> type[ImageDecoderConfig]:
    """Return the section of a kind whose spec says everything: its keys are the spec's fields, but those _GIVEN.

    A kind with a text_dim can be tuned on texts.
    """
    training = {"training": (TrainingConfig, TrainingConfig(**spec.training))} if spec.training else {}
    section: type[ImageDecoderConfig] = section_of(
        spec, _settings(spec), base=ImageDecoderConfig, module=module, **training
    )
    section.spec_class, section.code_version = spec, spec.version
    return section


def _settings(spec: type[DecoderSpec]) -> dict[str, Field[Any]]:
    return {item.name: item for item in fields(spec) if item.name not in _GIVEN}
