"""The contract between the pipeline and a stage.

A stage is a package ``stages/<verb_noun>/`` with

- ``config.py``: one :class:`StageConfig` (or a union of them on ``kind``), free of torch and ray;
- ``stage.py``: ``run(config, inputs, output, context) -> StageSummary``, a plain callable.

``run`` may be started again at any time over a half-written output: it looks at ``output.done_units()`` and goes on.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeFloat, PositiveInt, ValidationInfo

from cluster.mapping import Mapper, WorkerResources
from cluster.training import TrainLauncher
from stages.artifacts import Artifact, Output
from stages.digests import file_digest
from stages.events import Event
from stages.storage import explaining, is_remote


class RuntimeOnly:
    """Marks a config field that says where or how fast to run, and so does not enter the fingerprint."""


class ByContent:
    """Marks a path field that enters the fingerprint by the content of the file or folder, never by its name."""


def beside_config(value: Any, info: ValidationInfo) -> Any:
    """Resolve a relative path beside the YAML file or one that it extends, else in the current folder."""
    if not isinstance(value, str | Path):
        return value
    path = Path(value).expanduser()
    for folder in (info.context or {}).get("folders", ()):
        if not path.is_absolute() and (Path(folder) / path).exists():
            return (Path(folder) / path).resolve()
    return path.resolve()


ExternalPath = Annotated[Path, BeforeValidator(beside_config), ByContent()]


def _beside_config_unless_uri(value: Any, info: ValidationInfo) -> Any:
    return value if isinstance(value, str) and is_remote(value) else str(beside_config(value, info))


#: A folder or file here, or at any address that fsspec knows (s3://, gs://); see :func:`address_digest`.
Address = Annotated[str, BeforeValidator(_beside_config_unless_uri), ByContent()]


class ConfigModel(BaseModel):
    """Base of every configuration section: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def identity(self) -> dict[str, Any]:
        """Return the part of the section that the result depends on, as JSON-ready data.

        Raises:
            FileNotFoundError: a file or folder named by the section is not there.
        """
        return {
            name: _identity_of(getattr(self, name), info.metadata)
            for name, info in type(self).model_fields.items()
            if not any(isinstance(mark, RuntimeOnly) for mark in info.metadata)
        }


def _identity_of(value: Any, metadata: list[Any]) -> Any:
    if isinstance(value, ConfigModel):
        return value.identity()
    if isinstance(value, tuple | list):
        return [_identity_of(item, metadata) for item in value]
    if isinstance(value, dict):
        return {str(key): _identity_of(item, metadata) for key, item in value.items()}
    if isinstance(value, Path):
        return content_digest(value)
    if isinstance(value, str) and any(isinstance(mark, ByContent) for mark in metadata):
        return address_digest(value)
    return value


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's relative file names and contents (a README.md says nothing to us).

    Raises:
        FileNotFoundError: nothing is at the path.
    """
    if not path.exists():
        raise FileNotFoundError(str(path))
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.name != "README.md")
    for file in files:
        digest.update(file.relative_to(path).as_posix().encode() + b"\0" if file != path else b"")
        digest.update(file_digest(file))
    return digest.hexdigest()


def address_digest(address: str) -> str:
    """Return the digest of a local path's content, or of a remote one's names and checksums as its store tells them.

    Raises:
        FileNotFoundError: nothing is at the local path.
        InputFault: the remote address cannot be read, or nothing is there.
    """
    if not is_remote(address):
        return content_digest(Path(address))
    listed = json.dumps(remote_checksums(address, "**"))
    return hashlib.sha256(listed.encode()).hexdigest()


def remote_checksums(address: str, pattern: str) -> list[list[str]]:
    """List the files below a remote address (or the one there) that match, by name, with their stores' checksums.

    Raises:
        InputFault: the address cannot be read, or nothing is there.
    """
    import fsspec

    with explaining(address):
        # Of its own, so that one listing, made now, answers for all files.
        fs, root = fsspec.core.url_to_fs(address, skip_instance_cache=True)
        root = root.rstrip("/")
        found = sorted(str(name) for name, info in fs.glob(f"{root}/{pattern}", detail=True).items() if _is_file(info))
        if not found:
            fs.info(root)  # which raises where there is nothing
            found = [root] if fs.isfile(root) else []
        return [[name[len(root) + 1 :] or name.rpartition("/")[2], str(fs.checksum(name))] for name in found]


def _is_file(info: Mapping[str, Any]) -> bool:
    return bool(info["type"] == "file")


class Resources(ConfigModel):
    """What a stage asks of the machines; never part of a fingerprint."""

    num_workers: PositiveInt | None = Field(
        None, description="parallel workers; none: one per cpus_per_worker CPUs for data stages, one for training"
    )
    cpus_per_worker: PositiveInt | None = Field(None, description="CPUs per worker; none: the stage's own default")
    gpus_per_worker: NonNegativeFloat | Literal["auto"] = Field(
        "auto", description="GPUs per worker; auto: 1 where the machines have GPUs and the stage can use one, else 0"
    )


class StageConfig(ConfigModel):
    """Base of a stage's section.

    ``stage`` is the identity string (package, YAML key, graph node, MLflow child run, artifact folder);
    ``code_version`` is raised whenever the same config and inputs would now give another result;
    ``work`` says how the stage spreads: over shards, over a training group, or not at all.
    """

    stage: ClassVar[str]
    code_version: ClassVar[int] = 1
    uses_gpu: ClassVar[bool] = False
    work: ClassVar[Literal["shards", "training", "single"]] = "shards"

    resources: Annotated[Resources, RuntimeOnly()] = Resources()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the stages whose artifacts this one reads."""
        raise NotImplementedError(f"{type(self).__name__} must declare its inputs")

    @property
    def follows(self) -> tuple[str, ...]:
        """Those of the inputs whose units it takes one by one (:mod:`stages.following`) while they are still made."""
        return ()

    @property
    def units_are_final(self) -> bool:
        """Whether a unit that has its record is never changed any more, so that others may follow this stage."""
        return False

    def check(self) -> None:
        """Look at what the section names outside the store, before anything starts; nothing to look at by default.

        Raises:
            InputFault: a file is missing or has not what the section says of it.
        """


@dataclass(frozen=True)
class GrantedResources:
    """The resources a running stage was given, with every ``auto`` resolved."""

    num_workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0
    workers_beside: int | None = None  # workers as long as an input that it follows still runs; none: num_workers

    @property
    def workers_at_first(self) -> int:
        """How many workers it starts with."""
        return self.num_workers if self.workers_beside is None else self.workers_beside

    @property
    def cpus(self) -> int:
        """CPUs of all workers that it starts with."""
        return self.workers_at_first * self.cpus_per_worker

    @property
    def gpus(self) -> float:
        """GPUs of all workers that it starts with."""
        return self.workers_at_first * self.gpus_per_worker

    def for_shards(self, *, same_node: bool = False) -> WorkerResources:
        """Return them as what the workers of a map over shards hold."""
        return WorkerResources(
            self.num_workers, self.cpus_per_worker, self.gpus_per_worker, same_node, self.workers_beside
        )


InputState = Literal["running", "done", "failed"]


def _is_done(name: str) -> InputState:
    return "done"


@dataclass(frozen=True)
class StageContext:
    """What a stage may use of the outside: where to report, how to spread work, how to start a training group."""

    emit: Callable[[Event], None]
    map_shards: Mapper
    launch_training: TrainLauncher
    resources: GrantedResources = field(default_factory=GrantedResources)
    input_state: Callable[[str], InputState] = _is_done  # of an input, by its stage's name


@dataclass(frozen=True)
class StageSummary:
    """What a finished stage says of itself; it goes to the manifest, the report and the dashboard.

    ``items`` counts what the stage handled in all (images, steps x batch, prompts), for the rate in the table;
    ``counts`` holds integers such as failures by cause; ``metrics`` holds measured figures; ``notes`` holds the words
    that figures need to be read right (a device, a network's name).
    """

    items: int
    item_name: str = "images"
    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


class StageFunction(Protocol):
    """The shape of every ``stages.<name>.stage.run``."""

    def __call__(
        self, config: Any, inputs: Mapping[str, Artifact], output: Output, context: StageContext
    ) -> StageSummary:
        """Make ``output`` from ``inputs``."""
