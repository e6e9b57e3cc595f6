"""The kinds of autoencoders and their specs; no torch."""

from collections.abc import Mapping
from typing import Any, Final

from models.autoencoders.spec import AutoencoderSpec, KLAutoencoderSpec, VQAutoencoderSpec
from models.fields import read_kind

SPECS: Final[dict[str, type[AutoencoderSpec]]] = {"kl": KLAutoencoderSpec, "vq": VQAutoencoderSpec}


def read_spec(values: Mapping[str, Any]) -> AutoencoderSpec:
    """Return the spec that its ``to_dict`` wrote."""
    return read_kind("autoencoder", SPECS, values)
