"""The store's own documents, damaged or by another hand."""

import json
import math
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz import seeds
from tests.fuzz.structures import mutate_files, mutate_json, mutate_json_lines, pack_files, unpack_files
from tests.fuzz.target import Run, Target
from tests.fuzz.targets.lists import write_tree


def _runs() -> list[bytes]:
    from tests.factories import make_entry, make_record

    plan = {"embed_clip": {"fingerprint": "f", "identity": {"a": 1}}}
    entries = [make_entry("embed_clip", counts={"images": 3}), make_entry("generate", "failed", error="no images")]
    mlflow = {"tracking_uri": "sqlite:///x", "experiment_id": "1", "run_id": "r", "stages": {"embed_clip": "s"}}
    changes: dict[str, Any] = {
        "stages": entries,
        "plan": plan,
        "mlflow": mlflow,
        "metrics": {"a/b": 1.5},
        "seconds": 2.0,
    }
    return [
        json.dumps(make_record("tiny-1", **changes).to_json()).encode(),
        json.dumps(make_record("a-1").to_json()).encode(),
    ]


def _prepare_runs() -> Run:
    from pipeline.heartbeat import Life
    from pipeline.report import runs_table, stage_table
    from pipeline.store import Store

    def run(data: bytes, folder: Path) -> object:
        (folder / "runs" / "tiny-1").mkdir(parents=True)
        (folder / "runs" / "tiny-1" / "run.json").write_bytes(data)
        store = Store(str(folder))
        record = store.find_run(None)
        json.dumps(record.document())
        return runs_table([record], [Life(record.status)]), stage_table(record)

    return run


def _stores() -> list[bytes]:
    return [b'{"format": 1}']


def _prepare_store() -> Run:
    from pipeline.store import Store

    def run(data: bytes, folder: Path) -> object:
        (folder / "store.json").write_bytes(data)
        Store(str(folder)).check_format()
        return "read"

    return run


def _artifacts() -> list[bytes]:
    manifest = {
        "stage": "download_shards", "fingerprint": "f", "code_version": 1, "config": {"a": 1}, "inputs": {"x": "y"},
        "summary": {"items": 3, "counts": {"images": 3}, "metrics": {"yield": 1.0}, "notes": {}},
    }  # fmt: skip
    unit = {"rows": 3, "images": 2, "captioned": 1, "failures": {"timeout": 1}}
    documents = {"manifest.json": manifest, "units/00000.json": unit, "plan.json": {"units": 1}}
    return [pack_files({name: json.dumps(content).encode() for name, content in documents.items()})]


def _prepare_artifact() -> Run:
    from pipeline.store import Store
    from stages.contract.documents import Manifest, Totals
    from stages.formats.shards import ShardRecord

    def run(data: bytes, folder: Path) -> object:
        store = Store(str(folder))
        artifact = store.artifact("download_shards", "f")
        write_tree(Path(artifact.uri), unpack_files(data))
        records = ShardRecord.done(artifact)
        return store.completion("download_shards", "f").state, Manifest.of(artifact), Totals.of(records.values()).named

    return run


def _leases() -> list[bytes]:
    from stages.storage.leases import Holder

    return [Holder("t", "night-7", 41, "smoke-1", "yesterday", lock="boot", beat=5).to_bytes()]


def _prepare_lease() -> Run:
    from stages.storage.leases import Holder

    def run(data: bytes, folder: Path) -> object:
        holder = Holder.parse(data)
        if holder is None:
            return None
        assert abs(holder.timeout) < math.inf  # one that is no number never passes
        return holder.words, Holder.parse(holder.to_bytes())

    return run


def _generated_rows() -> list[bytes]:
    row = {
        "set": "prior",
        "index": 0,
        "file": "images/prior/00000.png",
        "prompt": "a",
        "seed": 1,
        "settings": {},
        "scene": None,
    }
    return [seeds.to_json_lines([row, row])]


def _prepare_generated_rows() -> Run:
    from stages.formats.generated_images import read_rows
    from stages.storage.artifact import Artifact

    def run(data: bytes, folder: Path) -> object:
        (folder / "samples.jsonl").write_bytes(data)
        return read_rows(Artifact(str(folder), "generate", "f"))

    return run


def _mutate_documents(rng: Random, data: bytes) -> bytes:
    return mutate_files(lambda name: mutate_json)(rng, data)


TARGETS = (
    Target("run_record", _runs, _prepare_runs, (mutate_json,)),
    Target("store_format", _stores, _prepare_store, (mutate_json,), weight=0.3),
    Target("lease", _leases, _prepare_lease, (mutate_json,), weight=0.3),
    Target("artifact_documents", _artifacts, _prepare_artifact, (_mutate_documents,)),
    Target("generated_rows", _generated_rows, _prepare_generated_rows, (mutate_json_lines,), weight=0.5),
)
