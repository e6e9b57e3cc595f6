"""How images are sampled from a prior and a decoder together, and the flat form of it that images and callers carry."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from typing import Any, Final, get_type_hints

from pydantic import TypeAdapter, ValidationError

from models.decoders.sampling import DecoderSampling
from models.fields import given_fields
from models.priors.spec import PriorSampling
from models.retrieval.spec import RetrievalSampling
from stages.contract.texts import show_value

_PARTS: Final[dict[str, type[Any]]] = {
    "prior": PriorSampling,
    "decoder": DecoderSampling,
    "retrieval": RetrievalSampling,
}
_SHORT: Final = {"num_steps": "steps", "guidance_scale": "guidance"}
#: Part and field of every setting, by its flat name, such as decoder_guidance.
_FLAT: Final = {
    f"{part}_{_SHORT.get(item.name, item.name)}": (part, item.name)
    for part, settings in _PARTS.items()
    for item in fields(settings)
}


@dataclass(frozen=True)
class SamplingSettings:
    """The settings of the models and of what lies between them; images carry the flat form, served models take it."""

    prior: PriorSampling = field(default_factory=PriorSampling)
    decoder: DecoderSampling = field(default_factory=DecoderSampling)
    retrieval: RetrievalSampling = field(default_factory=RetrievalSampling)

    def flat(self) -> dict[str, Any]:
        """Return every setting by its flat name; a size where there is one."""
        given = {part: {item.name for item in given_fields(getattr(self, part))} for part in _PARTS}
        return {name: getattr(getattr(self, part), key) for name, (part, key) in _FLAT.items() if key in given[part]}

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> "SamplingSettings":
        """Return the settings of a flat form; what it leaves out has its default.

        Raises:
            ValueError: there is no such setting, or it has another type or bounds.
        """
        if unknown := [name for name in values if name not in _FLAT]:
            raise ValueError(f"sampling settings: found {', '.join(unknown)}: allowed are {', '.join(_FLAT)}")
        for name, value in values.items():
            _require_type(name, value)
        parts: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
        for name, value in values.items():
            part, key = _FLAT[name]
            parts[part][key] = value
        return cls(**{part: settings(**parts[part]) for part, settings in _PARTS.items()})

    def replaced(self, changes: Mapping[str, Any]) -> "SamplingSettings":
        """Return the settings with some of them changed, by their flat names."""
        return self.from_flat(self.flat() | dict(changes))


def flat_types() -> dict[str, Any]:
    """Return the type of every setting by its flat name."""
    return {name: get_type_hints(_PARTS[part])[key] for name, (part, key) in _FLAT.items()}


@cache
def _type_of(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(flat_types()[name], config={"strict": True})


def _require_type(name: str, value: Any) -> None:
    """Refuse what dataclasses take as it is, such as 8.5 or true for a number of steps."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    plain = (int(value) if isinstance(value, Integral) else float(value)) if is_number else value  # of NumPy's own, too
    try:
        _type_of(name).validate_python(plain)
    except ValidationError as error:
        fault = error.errors()[-1]
        if fault["type"] != "literal_error":  # a choice, which the settings refuse in words of their own
            raise ValueError(f"sampling settings: {name}: found {show_value(value)}: {fault['msg']}") from None
