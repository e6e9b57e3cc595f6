"""An exponential moving average of the weights, of which each process holds its own part (also in ZeRO stage 3)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """The averaged weights of a model that may be split over processes."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], rank: int) -> None:
        self._parameters = parameters
        self._rank = rank
        self._shadow = {name: _piece(p).detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Set the average to decay * average + (1 - decay) * weights."""
        pieces: list[Any] = [_piece(p).detach() for p in self._parameters.values()]
        get_ema_multi_avg_fn(decay)(list(self._shadow.values()), pieces, torch.tensor(0))  # type: ignore[no-untyped-call]

    def full(self) -> dict[str, Tensor]:
        """Return the whole averaged weights; every process must call it."""
        return {name: self._gather(p, self._shadow[name]) for name, p in self._parameters.items()}

    def current(self, name: str) -> Tensor:
        """Return a whole weight of the model in training; every process must call it."""
        parameter = self._parameters[name]
        return self._gather(parameter, _piece(parameter).detach().clone())

    @torch.no_grad()
    def restore(self, average: Mapping[str, Tensor]) -> None:
        """Set the average to these whole weights."""
        for name, parameter in self._parameters.items():
            shadow, value = self._shadow[name], average[name].to(self._shadow[name])
            if not _is_split(parameter):
                shadow.copy_(value)
                continue
            flat = value.flatten()[self._rank * shadow.numel() : (self._rank + 1) * shadow.numel()]
            shadow[: flat.numel()].copy_(flat)

    @torch.no_grad()
    def _gather(self, parameter: nn.Parameter, piece: Tensor) -> Tensor:
        if not _is_split(parameter):
            return piece.clone()
        width = piece.numel()
        gathered = torch.empty(width * torch.distributed.get_world_size(), dtype=piece.dtype, device=piece.device)
        torch.distributed.all_gather_into_tensor(gathered, piece)
        shape = torch.Size(parameter.ds_shape)  # type: ignore[attr-defined]
        return gathered[: shape.numel()].view(shape)


def _is_split(parameter: nn.Parameter) -> bool:
    """Return whether this process holds only its piece of the weight (ZeRO stage 3)."""
    return hasattr(parameter, "ds_tensor")


def _piece(parameter: nn.Parameter) -> Tensor:
    """Return the part of the weight that this process holds: all of it, or ZeRO's flat, padded piece."""
    return parameter.ds_tensor if _is_split(parameter) else parameter  # type: ignore[attr-defined]
