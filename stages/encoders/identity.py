"""What tells one encoder from another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hashlib import _Hash


@dataclass(frozen=True)
class TextStateIdentity:
    """What tells the text states of one encoder from another's."""

    reference: str
    digest: str
    """SHA-256 of all that the states depend on."""
    width: int
    max_length: int
    source: Mapping[str, str] = field(default_factory=dict)
    """The fields of a T5Source that find the model again; none for CLIP, which is configured wherever it is used."""


def digest_tensors(tensors: Mapping[str, Tensor], digest: "_Hash") -> str:
    """Feed the tensors' names, types, shapes and bytes to the digest, in order of name; return it as hexadecimal."""
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
