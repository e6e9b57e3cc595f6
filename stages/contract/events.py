"""What a running stage tells the world: progress, metrics, images. Plain data, sent through ``StageContext.emit``."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """How far a stage is: ``done`` of ``total`` units (shards, steps, images), and items so far for a rate."""

    done: int
    total: int
    unit: str
    items: int = 0
    note: str = ""


@dataclass(frozen=True)
class Metrics:
    """Named numbers at a training step (or at step 0 for a stage without steps)."""

    values: dict[str, float]
    step: int = 0


@dataclass(frozen=True)
class LoggedImage:
    """A PNG to show on the dashboard; ``name`` has no folder and no suffix."""

    name: str
    png: bytes = field(repr=False)
    step: int = 0


@dataclass(frozen=True)
class Log:
    """One line for the stage's log; ``level`` as in :mod:`logging` ('INFO', 'WARNING', ...)."""

    message: str
    level: str = "INFO"


Event = Progress | Metrics | LoggedImage | Log
