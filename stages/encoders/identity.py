"""The digest that tells one model's weights from another's."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest_tensors(tensors: Mapping[str, Tensor], digest: "hashlib._Hash") -> str:
    """Feed the tensors' names, types, shapes and bytes to the digest, in order of name; return it as hexadecimal."""
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
