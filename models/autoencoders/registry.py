"""The kinds of autoencoders and their specs; no torch."""

from collections.abc import Mapping
from typing import Any, Final

from models.autoencoders.spec import AutoencoderSpec, KLAutoencoderSpec, VQAutoencoderSpec

SPECS: Final[dict[str, type[KLAutoencoderSpec] | type[VQAutoencoderSpec]]] = {
    "kl": KLAutoencoderSpec,
    "vq": VQAutoencoderSpec,
}


def read_spec(values: Mapping[str, Any]) -> AutoencoderSpec:
    """Return the spec that its ``to_dict`` wrote."""
    kind = values.get("kind")
    if kind not in SPECS:
        raise ValueError(f"autoencoder: found kind {kind!r}: expected one of {', '.join(SPECS)}")
    return SPECS[kind].from_dict(values)
