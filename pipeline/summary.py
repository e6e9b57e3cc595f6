"""What is recorded of a run as a whole: the data it learned from, and the model that came of it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.plan import Plan
from pipeline.results import StageResult

if TYPE_CHECKING:
    from pipeline.tracking import RunTracker

FAILED = "failed_"


def log_provenance(tracker: "RunTracker", results: Mapping[str, StageResult], plan: Plan) -> None:
    """Record how many images there were, how many captions the prior may use, and what was lost, by cause."""
    download = results.get("download_shards")
    if download is None or not download.summary:
        return
    counts = download.summary["counts"]
    prior = results.get("train_prior")
    used = prior.summary.get("counts", {}).get("captioned") if prior else None
    tracker.log_provenance(
        images=counts["images"],
        captioned=counts["captioned"] if used is None else used,
        failures={name.removeprefix(FAILED): count for name, count in counts.items() if name.startswith(FAILED)},
        source=f"artifacts/download_shards/{plan.stages['download_shards'].fingerprint}",
        digest=plan.stages["download_shards"].fingerprint,
    )
