"""Specs of models from fields in one row: each goes to the part of the spec that has it."""

from dataclasses import MISSING, fields
from typing import Any, TypeVar

from models.autoencoders.registry import SPECS
from models.autoencoders.spec import AutoencoderSpec
from models.fields import Settings

S = TypeVar("S", bound=Settings)


def make_spec(spec: type[S], **values: Any) -> S:
    """Return a spec; embeddings get no noise unless it is asked for. A field that no part has is an error."""
    values = {"embedding_noise": 0.0} | values
    own = {item.name for item in fields(spec)}  # type: ignore[arg-type]
    given = {name: values.pop(name) for name in list(values) if name in own}
    for item in fields(spec):  # type: ignore[arg-type]
        part = given.get(item.name, item.default if item.default_factory is MISSING else item.default_factory())
        if isinstance(part, Settings) and item.name in ("network", "conditioning", "codebook"):
            theirs = {name: values.pop(name) for name in list(values) if name in part.__dataclass_fields__}  # type: ignore[attr-defined]
            given[item.name] = type(part)(**{name: getattr(part, name) for name in part.__dataclass_fields__} | theirs)  # type: ignore[attr-defined]
    values.pop("embedding_noise", None)
    return spec(**given, **values)


def make_autoencoder_spec(kind: str, **values: Any) -> AutoencoderSpec:
    """Return the spec of an autoencoder; settings of the other kind are left out."""
    if kind == "kl":
        values = {name: value for name, value in values.items() if name not in ("num_codes", "dead_fraction")}
    return make_spec(SPECS[kind], **values)
