"""The record of a run, runs/<run>/run.json: parsed and written here, and what ``--json`` prints of it."""

import math
import sys
import uuid
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from pipeline.errors import UsageError
from pipeline.names import Name
from stages.contract.measures import Measure, Protocol
from stages.contract.secrets import redact_tree
from stages.contract.texts import one_line

StageState = Literal["done", "reused", "failed", "blocked", "running", "interrupted"]
MOST_FAULTS = 5
Status = Literal["running", "done", "failed", "interrupted"]
Count = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # a larger one is nobody's, and no float


def rate_of(made: int | None, seconds: float, startup_seconds: float) -> float | None:
    """Return the items a second of a stage that made so many after its start-up; None: nothing, or not known."""
    busy = seconds - startup_seconds
    return made / busy if made and busy > 0 else None


def finite_number(value: Any) -> float | None:
    """Return a value of a record as a number; None: it is none, or not finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= sys.float_info.max else None


def finite(tree: Any) -> Any:
    """Return a document with None for numbers that are not finite, which JSON has not."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class PlannedEntry(_Part):
    """A stage as it was planned."""

    fingerprint: str = Field(pattern=r"^[\w-]{1,64}$", description="a part of paths")
    identity: dict[str, Any]

    @property
    def kind(self) -> str | None:
        """The kind of a stage's model; None: it makes none, or another version says so otherwise."""
        kind = self.identity.get("kind")
        return kind if isinstance(kind, str) else None


class StageEntry(_Part):
    """How a stage ended, or that it runs; one that failed has an error, one that ended well counts and notes."""

    name: str
    state: StageState
    seconds: FiniteFloat
    startup_seconds: FiniteFloat
    upstream: list[str] | None = Field(None, alias="followed", description="inputs that were still made when it began")
    error: str = ""
    bad_input: bool = False
    items: Count | None = None
    item_name: str = ""
    made: Count | None = Field(None, description="of the items, those that the last start made; none: not known")
    counts: dict[str, Count] = Field(default_factory=dict)
    notes: dict[str, str] = Field(default_factory=dict)
    fingerprint: str
    log: str

    @property
    def rate(self) -> float | None:
        """Items that the last start made a second, without its start-up; None: not known."""
        return rate_of(self.made, self.seconds, self.startup_seconds)


class MlflowRuns(_Part):
    """Where a run is recorded with MLflow, so that a resumed run continues the same MLflow runs.

    The ids are empty until the server gave them; ``identity``, a tag of them all, is known before.
    """

    tracking_uri: str
    experiment_id: str = ""
    run_id: str = ""
    identity: str = Field("", pattern=r"^[0-9a-f]*$")
    stages: dict[str, str] = Field(default_factory=dict, description="MLflow's run id by stage")
    model_uri: str | None = None

    @classmethod
    def at(cls, address: str, earlier: "MlflowRuns | None" = None) -> "MlflowRuns":
        """Return those of an earlier start where they are recorded at the same address, else new ones."""
        if earlier is None or earlier.tracking_uri != address:
            return cls(tracking_uri=address, identity=uuid.uuid4().hex)
        return earlier.model_copy(update={"identity": earlier.identity or uuid.uuid4().hex}, deep=True)


class RunRecord(_Part):
    """What is known of a run."""

    run: Name
    name: str
    status: Status
    started: str
    finished: str | None = None
    config_path: str
    config: dict[str, Any]
    plan: dict[Name, PlannedEntry]
    stages: list[StageEntry] = Field(default_factory=list)
    metrics: dict[str, Count | float] = Field(default_factory=dict)
    measures: dict[str, Measure] = Field(
        default_factory=dict, description="interval, number and protocol of metrics, by the same names"
    )
    protocols: dict[str, Protocol] = Field(default_factory=dict, description="those of the measures, by digest")
    artifacts: dict[str, str] = Field(default_factory=dict)
    mlflow: MlflowRuns | None = None
    seconds: FiniteFloat | None = None
    overhead_seconds: FiniteFloat | None = None

    @classmethod
    def parse(cls, content: Any, where: str) -> Self:
        """Return the record that a file holds."""
        try:
            return cls.model_validate(redact_tree(content))  # one that an earlier version wrote may hold credentials
        except ValidationError as error:
            found = "; ".join(
                one_line(f"{'.'.join(map(str, one['loc']))}: {one['msg']}", 200) for one in error.errors()[:MOST_FAULTS]
            )
            raise UsageError(
                f"{where}: {found}: expected the record of a run as this version writes it; use the version of corgi "
                "that wrote it, or remove its folder"
            ) from None

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file, without credentials in addresses."""
        content: dict[str, Any] = redact_tree(self.model_dump(by_alias=True, exclude_unset=True))
        return content

    def document(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        content = finite(self.to_json())
        return {name: content[name] for name in ("run", "status", "stages", "metrics", "artifacts") if name in content}

    def stage(self, name: str) -> StageEntry | None:
        """Return how a stage ended; None: it did not, or the run has no such stage."""
        return next((entry for entry in self.stages if entry.name == name), None)

    def figures(self, prefix: str) -> dict[str, float]:
        """Return the metrics below a prefix, without it."""
        return {name[len(prefix) :]: value for name, value in self.metrics.items() if name.startswith(prefix)}

    def as_reused(self) -> Self:
        """Return the record as a second run sees it: nothing was computed."""
        idle = {"state": "reused", "seconds": 0.0, "startup_seconds": 0.0, "made": None}
        stages = [entry.model_copy(update=idle) for entry in self.stages]
        return self.model_copy(update={"stages": stages, "seconds": 0.0, "overhead_seconds": None})
