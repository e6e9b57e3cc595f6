"""The runs of the dashboard's store: the smoke experiment, and copies of it that differ in what the page is to show.

| run | captions | frechet_distance | kernel_distance | else |
|---|---|---|---|---|
| smoke | as it is | 8 | protocol of all | |
| hostile-1 | 20 % | 4: the best | protocol of all | its own embeddings, 3 sampling steps, the latest |
| hostile-2 | as smoke, seed 1 | 12 | other features | |
| broken | as smoke | none | none | failed, the first |
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.record import RunRecord
from pipeline.store import Store
from stages.formats.embeddings.layout import IMAGE
from stages.formats.embeddings.reader import load_image_rows, load_keys, shard_rows
from stages.formats.generated_images import GeneratedRow, gather_rows, image_file, writing_images
from stages.formats.per_shard import save_array
from stages.formats.splits import SplitConfig, split_numbers
from stages.storage.artifact import Output

HOSTILE = "<script>document.title='owned'</script> 🐕 <img src=x onerror=alert(1)>"
UNMEASURED = "train_decoder/held_out_loss"
FRECHET, KERNEL = "evaluate/frechet_distance", "evaluate/kernel_distance"
STARTED = {"hostile-1": "2026-03-01", "hostile-2": "2026-02-01", "smoke": "2026-01-01", "broken": "2025-12-01"}
"""By which the runs are sorted, the latest first."""
OTHER_FEATURES = "Inception of somebody else"
LOST_BY_EMBEDDING = 2


@dataclass(frozen=True)
class Planted:
    """Images (shard and key) of hostile-1 with the same embedding: two of training, and a held-out one of training."""

    duplicate: tuple[tuple[str, str], tuple[str, str]]
    held_out: tuple[str, str]
    trained: tuple[str, str]


def add_runs(store: Store) -> Planted:
    """Write the copies of the smoke experiment's run, and what they made."""
    (smoke,) = store.runs()
    smoke = _measured(smoke, 8.0).model_copy(update={"started": STARTED["smoke"]})
    store.write_run(smoke)
    first, planted = _with_embeddings(_hostile(smoke, 1, store), store)
    first = _with_identity(first, {"captions": {**first.plan["train_prior"].identity["captions"], "fraction": 0.2}})
    config = copy.deepcopy(first.config)
    config["generate"]["prior"]["num_steps"] = 3
    store.write_run(_measured(first, 4.0).model_copy(update={"config": config}))
    second = _with_identity(_hostile(smoke, 2, store), {"seed": 1})
    store.write_run(_other_protocol(_measured(second, 12.0)))
    stages = [entry.model_copy(update={"state": "failed", "error": HOSTILE}) for entry in smoke.stages[:1]]
    nothing: dict[str, Any] = {"stages": stages, "metrics": {}, "measures": {}, "protocols": {}, "artifacts": {}}
    broken = {"run": "broken-1", "status": "failed", "started": STARTED["broken"]}
    store.write_run(smoke.model_copy(update=broken | nothing))
    return planted


def _hostile(smoke: RunRecord, number: int, store: Store) -> RunRecord:
    """Return a run whose prompts and notes would like to be markup, and write its images."""
    fingerprint, rng = f"hostile{number}", np.random.default_rng(number)
    output = store.output("generate", fingerprint)
    rows = [
        GeneratedRow("prior", index, image_file("prior", index), f"{HOSTILE} {index}", index, {}, None)
        for index in range(3)
    ]
    with writing_images(output, "prior", 0, in_shards=False) as add:
        for row in rows:
            add(row, rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), None)
    output.finish_unit("prior-000000", {"images": len(rows), "resolution": 16})
    gather_rows(output, ["prior-000000"])
    planned = smoke.plan["generate"].model_copy(update={"fingerprint": fingerprint})
    entries = [entry.model_copy(update={"notes": {"frechet_distance": HOSTILE}}) for entry in smoke.stages]
    run = f"hostile-{number}"
    changes = {"run": run, "started": STARTED[run], "plan": smoke.plan | {"generate": planned}, "stages": entries}
    return smoke.model_copy(update=changes)


def _with_embeddings(record: RunRecord, store: Store) -> tuple[RunRecord, Planted]:
    """Return the run with random embeddings, of which two pairs alone are near to one another, and some lost images."""
    earlier = store.artifact("embed_clip", record.plan["embed_clip"].fingerprint)
    output = store.output("embed_clip", "planted")
    for name in set(earlier.sizes()) - {"recipe.json"}:  # by which a later run would find and use it
        with earlier.open(name) as file:
            output.write_bytes(name, file.read())
    positions = [(shard, key) for shard in shard_rows(earlier) for key in load_keys(earlier, shard)]
    split = SplitConfig.model_validate(record.plan["train_prior"].identity["split"])
    is_held_out = split_numbers([key for _, key in positions], split) < split.validation + split.test
    trained = [at for at, one in zip(positions, is_held_out, strict=True) if not one]
    held_out = [at for at, one in zip(positions, is_held_out, strict=True) if one]
    planted = Planted((trained[1], trained[8]), held_out[0], trained[20])
    same = {planted.duplicate[1]: planted.duplicate[0], planted.held_out: planted.trained}
    dims = {shard: load_image_rows(earlier, shard).shape[1] for shard in shard_rows(earlier)}
    shards = {shard: (load_keys(earlier, shard), dim) for shard, dim in dims.items()}
    _write_random(output, earlier.done_units(), same, shards)
    planned = record.plan["embed_clip"].model_copy(update={"fingerprint": "planted"})
    entries = [
        entry.model_copy(update={"counts": {**entry.counts, "failed_corrupt_image": LOST_BY_EMBEDDING}})
        if entry.name == "embed_clip" else entry
        for entry in record.stages
    ]  # fmt: skip
    return record.model_copy(update={"plan": record.plan | {"embed_clip": planned}, "stages": entries}), planted


def _write_random(
    output: Output,
    records: Mapping[str, Mapping[str, Any]],
    same: Mapping[tuple[str, str], tuple[str, str]],
    shards: Mapping[str, tuple[list[str], int]],
) -> None:
    rng = np.random.default_rng(0)
    rows = {
        (shard, key): rng.normal(size=dim).astype(np.float32) for shard, (keys, dim) in shards.items() for key in keys
    }
    rows |= {copied: rows[original] for copied, original in same.items()}
    for number, (shard, (keys, _)) in enumerate(shards.items()):
        failures = {"corrupt_image": LOST_BY_EMBEDDING} if number == 0 else {}
        with output.collecting():
            save_array(output, IMAGE, shard, np.stack([rows[shard, key] for key in keys]))
            output.finish_unit(shard, {**records[shard], "failures": failures})


def _with_identity(record: RunRecord, changes: Mapping[str, Any]) -> RunRecord:
    planned = record.plan["train_prior"]
    planned = planned.model_copy(update={"identity": {**planned.identity, **changes}})
    return record.model_copy(update={"plan": record.plan | {"train_prior": planned}})


def _measured(record: RunRecord, frechet: float) -> RunRecord:
    measure = replace(record.measures[FRECHET], value=frechet, low=frechet - 0.5, high=frechet + 0.5, n=240)
    measures = {name: one for name, one in record.measures.items() if name != UNMEASURED}  # as of an earlier version
    changes = {"metrics": {**record.metrics, FRECHET: frechet}, "measures": {**measures, FRECHET: measure}}
    return record.model_copy(update=changes)


def _other_protocol(record: RunRecord) -> RunRecord:
    known = record.measures[KERNEL]
    protocols = {**record.protocols, "f" * 16: {**record.protocols[known.protocol], "features": OTHER_FEATURES}}
    measures = {**record.measures, KERNEL: replace(known, protocol="f" * 16)}
    return record.model_copy(update={"measures": measures, "protocols": protocols})
