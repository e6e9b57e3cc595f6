"""What a validation was of, and by which loss, as the protocols of its figures name it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from models.fields import leaves
from stages.contract.measures import CAPTIONS, VALIDATED, Protocol
from stages.training.split_rows import digest_of_keys


def validated_images(keys: Sequence[str]) -> Protocol:
    """Return what tells these images from others: those that a figure is of, not all that the split puts aside."""
    return {VALIDATED: digest_of_keys(keys)}


def validated_pairs(keys: Sequence[str], captions: Sequence[str], are_human: Sequence[bool]) -> Protocol:
    """Return what tells these images, each with the caption that stands for it, from others."""
    kinds = {True: "human", False: "pseudo"}
    words = " and ".join(kinds[kind] for kind in sorted(set(are_human), reverse=True))
    texts = digest_of_keys(json.dumps(pair) for pair in zip(keys, captions, strict=True))
    return {**validated_images(keys), CAPTIONS: f"{words}, digest {texts}"}


def loss_protocol(settings: Mapping[str, Any]) -> Protocol:
    """Return what tells a loss from other losses, each setting by its dotted name."""
    return {f"loss.{name}": value if isinstance(value, str) else json.dumps(value) for name, value in leaves(settings)}
