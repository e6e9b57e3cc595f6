"""The settings of a noise process, its schedule and its solver, as plain data: it imports no torch."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from models.fields import Settings, require

Path = Literal["flow", "ddpm"]
Target = Literal["sample", "noise", "velocity"]
LossWeight = Literal["min_snr", "uniform", "p2"]
ScheduleKind = Literal["linear", "cosine"]
Sampler = Literal["ancestral", "ddim", "dpm_solver", "euler"]
Variance = Literal["posterior", "large"]
TARGETS: Final[tuple[Target, ...]] = get_args(Target)


@dataclass(frozen=True)
class ScheduleSpec(Settings):
    """How abar_t falls over the time steps of the path ddpm; the betas are read by kind linear only."""

    kind: ScheduleKind = "linear"
    num_timesteps: int = 1000
    """Time steps in training (T)."""
    beta_first: float = 1e-4
    beta_last: float = 0.02

    def __post_init__(self) -> None:
        require(self, "kind", self.kind in get_args(ScheduleKind), "linear or cosine")
        require(self, "num_timesteps", self.num_timesteps >= 1, "1 or more")
        for name in ("beta_first", "beta_last"):
            require(self, name, 0.0 < getattr(self, name) < 1.0, "above 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class ProcessConfig(Settings):
    """A noise process and what its network predicts; see :mod:`models.diffusion.processes`."""

    path: Path = "flow"
    """flow: a straight line from data to noise; ddpm: variance-preserving."""
    target: Target = "sample"
    """What the network predicts."""
    schedule: ScheduleKind = "cosine"
    """ddpm: how abar_t falls (Nichol and Dhariwal 2021; Ho et al. 2020)."""
    loss_weight: LossWeight = "min_snr"
    """ddpm: weight of the target's error by time; see :mod:`models.diffusion.loss_weights`."""
    min_snr_gamma: float = 5.0
    """loss_weight min_snr: the largest weight of the error of x_0."""
    zero_terminal_snr: bool = False
    """ddpm: make the last step pure noise (Lin et al. 2024)."""

    def __post_init__(self) -> None:
        require(self, "path", self.path in get_args(Path), "flow or ddpm")
        allowed = ("sample", "velocity") if self.path == "flow" else TARGETS
        require(self, "target", self.target in allowed, f"one of {', '.join(allowed)} on the path {self.path}")
        require(self, "schedule", self.schedule in get_args(ScheduleKind), "cosine or linear")
        require(self, "loss_weight", self.loss_weight in get_args(LossWeight), "min_snr, uniform or p2")
        require(self, "min_snr_gamma", self.min_snr_gamma > 0.0, "above 0")
        solvable = self.target != "noise" or not self.zero_terminal_snr
        require(
            self, "zero_terminal_snr", solvable, "false where target is noise, from which x_0 cannot be solved there"
        )
        require(self, "zero_terminal_snr", self.path == "ddpm" or not self.zero_terminal_snr, "false on the path flow")


@dataclass(frozen=True, kw_only=True)
class SolverSpec(Settings):
    """How a process is run backwards, from noise to data."""

    sampler: Sampler = "ancestral"
    """euler: of the path flow."""
    variance: Variance = "posterior"
    """Sampler ancestral: variance of a step's noise; large: beta_t Sigma, as the paper's code has."""
    eta: float = 0.0
    """Sampler ddim: 0 is deterministic, 1 as random as ancestral."""

    def __post_init__(self) -> None:
        require(self, "sampler", self.sampler in get_args(Sampler), f"one of {', '.join(get_args(Sampler))}")
        require(self, "variance", self.variance in get_args(Variance), f"one of {', '.join(get_args(Variance))}")
        require(self, "eta", 0.0 <= self.eta <= 1.0, "0 to 1")
        require(self, "eta", not self.eta or self.sampler == "ddim", f"0 with sampler {self.sampler}, or sampler ddim")
        fits = self.variance == "posterior" or self.sampler == "ancestral"
        require(self, "variance", fits, f"posterior with sampler {self.sampler}, or sampler ancestral")
