"""Read a run's artifacts or a whole store, compare, set aside if asked to, and say what was found."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.schema import STAGES, is_trained
from pipeline.console import PlainTable
from pipeline.inspection.inspect import find_target
from pipeline.store import Store
from pipeline.verification.documents import DocumentFault, check_documents
from stages.contract.secrets import redact_addresses
from stages.storage.artifact import Artifact
from stages.storage.verification import Verified, set_damage_aside, still_damaged, verify

_THREADS = 8  # a disk or a remote store is faster for several readers; checksums leave Python's lock


@dataclass
class Verification:
    """What was found of a store, or of some artifacts in it."""

    store: Store
    artifacts: list[Verified] = field(default_factory=list)
    documents: int = 0
    faults: list[DocumentFault] = field(default_factory=list)
    aside: dict[str, list[str]] = field(default_factory=dict)
    """By artifact, what the next run makes again."""

    @property
    def is_whole(self) -> bool:
        """Whether everything is what was written."""
        return not self.faults and not any(one.damaged for one in self.artifacts)


def examine(target: str | None, store: str, *, everything: bool, set_aside: bool) -> Verification:
    """Read the artifacts of a run, of one artifact's address, or (``everything``) all that the store holds."""
    if everything:
        found = Verification(Store(store))
        artifacts, runs = list(found.store.artifacts(STAGES)), found.store.run_names()
    else:
        chosen = find_target(target, store)
        found = Verification(chosen.store)
        artifacts, runs = list(chosen.artifacts), [chosen.record.run] if chosen.record is not None else []
    for fault in check_documents(found.store, runs):
        found.documents += 1
        found.faults += [fault] if fault is not None else []
    with ThreadPoolExecutor(_THREADS) as pool:
        found.artifacts = [verify(artifact, pool) for artifact in artifacts]
    if set_aside:
        _set_aside(found)
    return found


def _set_aside(found: Verification) -> None:
    for one in (one for one in found.artifacts if one.damaged):
        artifact = one.artifact
        with found.store.lock([artifact]):
            output = found.store.output(artifact.stage, artifact.fingerprint)
            damaged = still_damaged(artifact, one.damaged)
            again = set_damage_aside(output, damaged, is_trained=is_trained(artifact.stage)) if damaged else []
        found.aside[artifact.uri] = again


def verification_document(found: Verification) -> dict[str, Any]:
    """Return what was found as JSON-ready data."""
    return {
        "status": "whole" if found.is_whole else "damaged",
        "artifacts": [
            {
                "stage": one.artifact.stage,
                "fingerprint": one.artifact.fingerprint,
                "files": one.files,
                "bytes": one.bytes,
                "without_checksum": one.without,
                "damaged": [{"file": error.name, "unit": error.unit, "error": str(error)} for error in one.damaged],
                "set_aside": found.aside.get(one.artifact.uri, []),
            }
            for one in found.artifacts
        ],
        "documents": found.documents,
        "damaged_documents": [{"file": fault.file, "error": fault.message} for fault in found.faults],
    }


def verification_table(found: Verification) -> PlainTable:
    """Return a line for each artifact, and one for the store's own documents."""
    table = PlainTable(title=f"verification of {redact_addresses(found.store.uri)}")
    table.heading("artifact")
    for heading in ("files", "bytes", "damaged", "without checksum"):
        table.heading(heading, justify="right")
    for one in found.artifacts:
        numbers = (one.files, one.bytes, len(one.damaged), one.without)
        table.row(_title(one.artifact), *(f"{number:,}" for number in numbers))
    table.row("store, runs, models, databases", f"{found.documents:,}", "", f"{len(found.faults):,}", "")
    return table


def verification_lines(found: Verification) -> Iterator[str]:
    """Yield a line for each damaged file, and what to do."""
    for one in found.artifacts:
        yield from map(str, one.damaged)
        if again := found.aside.get(one.artifact.uri):
            yield f"{_title(one.artifact)}: set aside, to be made again by the next `corgi run`: {_shorten(again)}"
    yield from (fault.message for fault in found.faults)


def _title(artifact: Artifact) -> str:
    return f"{artifact.stage} {artifact.fingerprint}"


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
