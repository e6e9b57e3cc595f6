"""Sections of decoders: what all have, and the section of a kind that trains on images and embeddings."""

from dataclasses import MISSING, Field, fields
from typing import Any, ClassVar, get_type_hints

from pydantic import Field as Key
from pydantic import create_model, model_validator

from models.decoders.spec import DecoderSpec
from stages.train_decoder.text_config import TextTunedConfig
from stages.training.config import TrainingConfig

_GIVEN = frozenset({"kind", "embed_dim", "resolution", "text_dim"})


class ImageDecoderConfig(TextTunedConfig):
    """Train a decoder on all images; a kind adds the settings of its spec."""

    spec_class: ClassVar[type[DecoderSpec]]

    @model_validator(mode="after")
    def _can_be_built(self) -> "ImageDecoderConfig":
        if self.text is not None and "text_dim" not in _names(self.spec_class):
            raise ValueError(f"text: found one for kind {self.kind}, which reads no texts: allowed is null")
        self.spec(1)
        return self

    def spec(self, embed_dim: int) -> DecoderSpec:
        """Return the decoder's spec, for embeddings of that width."""
        values = {name: getattr(self, name) for name in _settings(self.spec_class)}
        values |= {"embed_dim": embed_dim, "resolution": self.resolution}
        if self.text is not None:
            values["text_dim"] = embed_dim
        return self.spec_class(**values)


def section_of(spec: type[DecoderSpec], module: str) -> type[ImageDecoderConfig]:
    """Return the section of a kind whose spec says everything; it belongs to the module that keeps it under its name.

    Its keys are the spec's fields, but those that the data or the stage give. A kind with a text_dim can be tuned on
    texts.
    """
    hints = get_type_hints(spec, include_extras=True)
    keys: dict[str, Any] = {name: (hints[name], _default(item)) for name, item in _settings(spec).items()}
    if spec.training:
        keys["training"] = (TrainingConfig, TrainingConfig(**spec.training))
    section: Any = create_model(
        f"{spec.__name__.removesuffix('Spec')}Config",
        __base__=ImageDecoderConfig,
        __module__=module,
        __doc__=spec.__doc__,
        kind=(hints["kind"], ...),
        **keys,
    )
    section.spec_class, section.code_version = spec, spec.version
    found: type[ImageDecoderConfig] = section
    return found


def _names(spec: type[DecoderSpec]) -> set[str]:
    return {item.name for item in fields(spec)}


def _settings(spec: type[DecoderSpec]) -> dict[str, Field[Any]]:
    return {item.name: item for item in fields(spec) if item.name not in _GIVEN}


def _default(item: Field[Any]) -> Any:
    if item.default_factory is not MISSING:
        return Key(default_factory=item.default_factory)
    return ... if item.default is MISSING else item.default
