"""The settings of a noise process, as plain data: it imports no torch."""

from dataclasses import dataclass
from typing import Final, Literal

from models.fields import require

Target = Literal["sample", "noise", "velocity"]
TARGETS: Final[tuple[Target, ...]] = ("sample", "noise", "velocity")


@dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """A noise process with what its network predicts; see :mod:`models.diffusion.processes`."""

    path: Literal["flow", "ddpm"] = "flow"
    """flow: straight from image to noise; ddpm: variance-preserving."""
    target: Target = "sample"
    """What the network predicts; on the path flow, the image."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """ddpm: how abar_t falls (Nichol and Dhariwal 2021; Ho et al. 2020)."""
    loss_weight: Literal["min_snr", "uniform"] = "min_snr"
    """ddpm: weight of the target's error by time; min_snr: that of the image's error is min(SNR, min_snr_gamma)."""
    min_snr_gamma: float = 5.0
    zero_terminal_snr: bool = False
    """ddpm: let the last step be noise alone (Lin et al. 2024)."""

    def __post_init__(self) -> None:
        """Refuse what has no meaning, naming the field and what is allowed."""
        require(self, "path", self.path in ("flow", "ddpm"), "flow or ddpm")
        allowed = TARGETS[:1] if self.path == "flow" else TARGETS
        require(self, "target", self.target in allowed, f"one of {', '.join(allowed)} on the path {self.path}")
        require(self, "schedule", self.schedule in ("cosine", "linear"), "cosine or linear")
        require(self, "loss_weight", self.loss_weight in ("min_snr", "uniform"), "min_snr or uniform")
        require(self, "min_snr_gamma", self.min_snr_gamma > 0.0, "above 0")
        told = self.target != "noise" or not self.zero_terminal_snr
        require(self, "zero_terminal_snr", told, "false where target is noise, which says nothing of an image there")
        require(self, "zero_terminal_snr", self.path == "ddpm" or not self.zero_terminal_snr, "false on the path flow")
