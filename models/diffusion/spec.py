"""The settings of a noise process, its schedule and its solver, as plain data: it imports no torch."""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, get_args

from models.fields import ABSENT, Settings, require

Path = Literal["flow", "ddpm"]
Target = Literal["sample", "noise", "velocity"]
LossWeight = Literal["min_snr", "uniform", "p2"]
ScheduleKind = Literal["linear", "cosine"]
Sampler = Literal["ancestral", "ddim", "dpm_solver", "euler", "heun"]
Variance = Literal["posterior", "large"]
TARGETS: Final[tuple[Target, ...]] = get_args(Target)
MAX_TIMESTEPS: Final = 100_000  # a hundred times as many as published; tables of that length are made
MAX_LAST_ALPHA_BAR: Final = (
    1e-3  # of abar_T: a process that ends with more of the data does not start from its Gaussian
)
MAX_TIME_POWER: Final = 4
_BETAS_ARE_FOR: Final = 1000  # steps, as published; with T of them they are 1000 / T times as large
_MAX_BETA: Final = 0.999
_COSINE_OFFSET: Final = 0.008


@dataclass(frozen=True)
class ScheduleSpec(Settings):
    """How abar_t falls over the time steps of the path ddpm; the betas are read by kind linear only.

    The betas are those of 1000 steps; with T of them they are multiplied by 1000 / T (Dhariwal and Nichol, arXiv
    2105.05233) and held at 0.999, so that abar_T hardly depends on T. Where abar_T is above MAX_LAST_ALPHA_BAR the
    settings are refused: sampling starts from the Gaussian alone, so its mean and variance would come out wrong.
    """

    kind: ScheduleKind = "linear"
    num_timesteps: int = 1000
    """Time steps in training (T)."""
    beta_first: float = 1e-4
    beta_last: float = 0.02

    def __post_init__(self) -> None:
        require(self, "kind", self.kind in get_args(ScheduleKind), "linear or cosine")
        require(self, "num_timesteps", 1 <= self.num_timesteps <= MAX_TIMESTEPS, f"1 to {MAX_TIMESTEPS}")
        for name in ("beta_first", "beta_last"):
            require(self, name, 0.0 < getattr(self, name) < 1.0, "above 0 and below 1")
        if self.last_alpha_bar > MAX_LAST_ALPHA_BAR:
            raise ValueError(
                f"ScheduleSpec: {self.kind} with num_timesteps {self.num_timesteps}, beta_first {self.beta_first} and "
                f"beta_last {self.beta_last} leaves abar_T = {self.last_alpha_bar:.3g} of the data: expected at most "
                f"{MAX_LAST_ALPHA_BAR}: raise num_timesteps or beta_last"
            )

    def betas(self) -> list[float]:
        """Return beta_t for t = 1 ... T; cosine: 1 - f(t) / f(t - 1), f(t) = cos^2((t/T + s)/(1 + s) pi/2)."""
        count = self.num_timesteps
        if self.kind == "linear":
            step = (self.beta_last - self.beta_first) / max(1, count - 1)
            betas = [self.beta_first + step * t for t in range(count)]
            return [min(_MAX_BETA, beta * _BETAS_ARE_FOR / count) for beta in betas]
        angles = [(t / count + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2 for t in range(count + 1)]
        f = [math.cos(angle) ** 2 for angle in angles]
        return [min(_MAX_BETA, 1 - after / before) for before, after in itertools.pairwise(f)]

    @property
    def last_alpha_bar(self) -> float:
        """abar_T: what the end of the process holds of the data, as a fraction of its variance."""
        return math.exp(math.fsum(math.log1p(-beta) for beta in self.betas()))


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
    time_power: float | None = field(default=None, metadata=ABSENT)
    """flow: the velocity's error is weighted by t to this power; null: 0, flow matching as published. What an image
    shows is decided where t is large: short trainings learn it sooner at 1. With target sample, 2 is the plain error of
    x_0."""

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
        if self.time_power is not None:
            allowed_power = self.path == "flow" and 0.0 <= self.time_power <= MAX_TIME_POWER
            require(self, "time_power", allowed_power, f"0 to {MAX_TIME_POWER} on the path flow, null on the path ddpm")

    def of_loss(self) -> dict[str, Any]:
        """Return what its loss depends on; what is read on the other path alone does not count."""
        if self.path == "flow":
            return {"path": self.path, "target": self.target, "time_power": self.time_power or 0.0}
        names = ["path", "target", "schedule", "loss_weight", "zero_terminal_snr"]
        names += ["min_snr_gamma"] if self.loss_weight == "min_snr" else []
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class SolverSpec(Settings):
    """How a process is run backwards, from noise to data."""

    default_variance: ClassVar[Variance] = "posterior"

    sampler: Sampler | None = None
    """euler, heun: of the path flow; null: ancestral, or what the kind of model says."""
    variance: Variance | None = None
    """Sampler ancestral: variance of a step's noise, that of the posterior or beta_t Sigma (large); null: large for
    priors, posterior for images."""
    eta: float = 0.0
    """Sampler ddim: 0 is deterministic, 1 as random as ancestral."""

    def __post_init__(self) -> None:
        known = self.sampler is None or self.sampler in get_args(Sampler)
        require(self, "sampler", known, f"null or one of {', '.join(get_args(Sampler))}")
        known = self.variance is None or self.variance in get_args(Variance)
        require(self, "variance", known, f"null or one of {', '.join(get_args(Variance))}")
        name = self.sampler or "null"
        require(self, "eta", 0.0 <= self.eta <= 1.0, "0 to 1")
        require(self, "eta", not self.eta or self.sampler == "ddim", f"0 with sampler {name}, or sampler ddim")
        fits = self.variance != "large" or self.sampler in (None, "ancestral")
        require(self, "variance", fits, f"null with sampler {name}, or sampler ancestral")

    @property
    def step_variance(self) -> Variance:
        """The variance of a step's noise, chosen or by default."""
        return self.variance or self.default_variance
