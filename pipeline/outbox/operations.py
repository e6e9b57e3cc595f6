"""What a run records with MLflow, as plain data that is sent now, or kept in the store and sent later.

Each is one line of JSON. Applying one twice is the same as applying it once (:class:`pipeline.tracking.RunTracker`), so
that whoever is not sure whether it was sent sends it again.
"""

import base64
import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, astuple
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.record import StageState
from stages.contract.events import LoggedImage, LoggedSteps, Metrics, RolledBack
from stages.contract.parsing import load_json
from stages.contract.secrets import redact_tree
from stages.contract.stage import StageSummary

LARGEST_LINE = 64 << 20  # bytes
_CHECKSUM = b', "crc32": '
RunEnd = Literal["done", "failed", "interrupted"]
_LARGE = ("png", "page", "rows")  # in which no credentials are looked for
_SUMMARY = TypeAdapter(StageSummary)


def now_ms() -> int:
    """Return the time as MLflow counts it."""
    return time.time_ns() // 1_000_000


class _Operation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    time: int = Field(default_factory=now_ms, description="in milliseconds: when it was, not when it is sent")

    @property
    def writes_files(self) -> bool:
        """Whether it needs the server's store of files as well as its database."""
        return False


class ConfigLogged(_Operation):
    """The resolved config, as parameters and as a file."""

    kind: Literal["config"] = "config"
    config: dict[str, Any]
    text: str

    @property
    def writes_files(self) -> bool:
        """It does: config.yaml."""
        return True


class Provenance(_Operation):
    """What the run learned from: images, captions, failures and skips by cause, and where the data lies."""

    kind: Literal["provenance"] = "provenance"
    images: int
    captioned: int
    failures: dict[str, int] = Field(default_factory=dict)
    skips: dict[str, int] = Field(default_factory=dict)
    captions: dict[str, float] = Field(default_factory=dict)
    pseudo_captions: dict[str, float] = Field(default_factory=dict)
    source: str = ""
    digest: str = ""


class StageBegun(_Operation):
    """A stage starts."""

    kind: Literal["begun"] = "begun"
    stage: str
    config: dict[str, Any]


class MetricsLogged(_Operation):
    """Numbers at a step of a stage."""

    kind: Literal["metrics"] = "metrics"
    stage: str
    step: int
    values: dict[str, float]

    @classmethod
    def of(cls, stage: str, event: Metrics) -> "MetricsLogged":
        """Return what a stage's event asks for."""
        return cls(stage=stage, step=event.step, values=event.values, time=event.time or now_ms())

    def event(self) -> Metrics:
        """Return the event again."""
        return Metrics(dict(self.values), self.step)


class RollBackLogged(_Operation):
    """A training of a stage went back to an earlier step; ``time`` is when."""

    kind: Literal["roll_back"] = "roll_back"
    stage: str
    to_step: int
    from_step: int

    @classmethod
    def of(cls, stage: str, event: RolledBack) -> "RollBackLogged":
        """Return what a stage's event asks for."""
        return cls(stage=stage, **asdict(event))

    def event(self) -> RolledBack:
        """Return the event again."""
        return RolledBack(self.to_step, self.from_step, self.time)


class StepsLogged(_Operation):
    """What a training had logged before; what the tracker has of it counts once."""

    kind: Literal["steps"] = "steps"
    stage: str
    rows: list[tuple[int, int, dict[str, float]]] = Field(repr=False, description="step, time, numbers")
    roll_backs: list[tuple[int, int, int]] = Field([], description="to which step, from which, time")

    @classmethod
    def of(cls, stage: str, event: LoggedSteps) -> "StepsLogged":
        """Return what a stage's event asks for."""
        rows = [(row.step, row.time, row.values) for row in event.rows]
        return cls(stage=stage, rows=rows, roll_backs=[astuple(one) for one in event.roll_backs])

    def event(self) -> LoggedSteps:
        """Return the event again."""
        rows = (Metrics(values, step, time=time) for step, time, values in self.rows)
        return LoggedSteps(tuple(rows), tuple(RolledBack(*one) for one in self.roll_backs))


class ImageLogged(_Operation):
    """An image of a stage."""

    kind: Literal["image"] = "image"
    stage: str
    name: str
    step: int
    png: str = Field(repr=False, description="base64")

    @classmethod
    def of(cls, stage: str, event: LoggedImage) -> "ImageLogged":
        """Return what a stage's event asks for."""
        png = base64.b64encode(event.png).decode()
        return cls(stage=stage, name=event.name, step=event.step, png=png, time=event.time or now_ms())

    def event(self) -> LoggedImage:
        """Return the event again."""
        return LoggedImage(self.name, base64.b64decode(self.png), self.step)

    @property
    def writes_files(self) -> bool:
        """It does."""
        return True


class StageEnded(_Operation):
    """How a stage ended."""

    kind: Literal["ended"] = "ended"
    stage: str
    state: StageState
    seconds: float
    summary: dict[str, Any] | None = None
    per_second: float | None = Field(None, description="items that it made; none: not known")

    @classmethod
    def of(
        cls,
        stage: str,
        state: StageState,
        seconds: float,
        summary: StageSummary | None,
        per_second: float | None = None,
    ) -> "StageEnded":
        """Return what the end of a stage asks for."""
        found = None if summary is None else asdict(summary)
        return cls(stage=stage, state=state, seconds=seconds, summary=found, per_second=per_second)

    def stage_summary(self) -> StageSummary | None:
        """Return the stage's summary."""
        return None if self.summary is None else _SUMMARY.validate_python(self.summary)


class ModelFinished(_Operation):
    """The run's model is in the store, and is to be registered from there."""

    kind: Literal["model"] = "model"

    @property
    def writes_files(self) -> bool:
        """It does: the model's weights."""
        return True


class ReportLogged(_Operation):
    """The run's report, one HTML file."""

    kind: Literal["report"] = "report"
    page: str = Field(repr=False, description="without credentials")

    @property
    def writes_files(self) -> bool:
        """It does: report.html."""
        return True


class RunEnded(_Operation):
    """How the whole run ended."""

    kind: Literal["run_ended"] = "run_ended"
    status: RunEnd


Operation = (
    ConfigLogged
    | Provenance
    | StageBegun
    | MetricsLogged
    | RollBackLogged
    | StepsLogged
    | ImageLogged
    | StageEnded
    | ModelFinished
    | ReportLogged
    | RunEnded
)
_ADAPTER: TypeAdapter[Operation] = TypeAdapter(Annotated[Operation, Field(discriminator="kind")])


def to_line(operation: Operation) -> bytes:
    """Return it as a line of JSON with a checksum of the rest as its last field, without credentials."""
    content = operation.model_dump()
    large: Mapping[str, Any] = {name: content.pop(name) for name in _LARGE if name in content}
    line = json.dumps(redact_tree(content) | large, default=str).encode()
    return line.removesuffix(b"}") + _CHECKSUM + str(zlib.crc32(line)).encode() + b"}\n"


def from_line(line: bytes) -> Operation:
    """Return what a line holds; ValueError: it is damaged."""
    line, _, checksum = line.rstrip().rpartition(_CHECKSUM)
    if checksum != str(zlib.crc32(line + b"}")).encode() + b"}":
        raise ValueError("its checksum is not that of its content")
    try:
        return _ADAPTER.validate_python(load_json(line + b"}", max_bytes=LARGEST_LINE))
    except ValidationError as error:
        found = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, found['loc']))}: {found['msg']}") from None
