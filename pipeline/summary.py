"""What is recorded of a run as a whole: the data it learned from, and the model that came of it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from pipeline.captions import caption_fraction, pseudo_weight
from pipeline.config.schema import RunConfig
from pipeline.outbox.operations import Provenance
from pipeline.plan import Plan
from pipeline.record import RunRecord
from pipeline.results import StageResult
from pipeline.store import Store
from pipeline.stored_models import find_stored_models
from stages.generate.config import GenerateConfig

if TYPE_CHECKING:
    from pipeline.tracking import RunTracker

FAILED, SKIPPED = "failed_", "skipped_"
PSEUDO_COUNTS = ("pseudo_captions", "pseudo_captioned", "empty_pseudo_captions")
REQUIREMENTS = ["mlflow"]
"""What of package indexes a process needs that loads a registered model; this project is on none of them."""


def provenance(results: Mapping[str, StageResult], plan: Plan) -> Provenance | None:
    """Return images, captions that the prior may use, what other stages read of them, and what was lost or skipped."""
    download = results.get("download_shards")
    if download is None or download.summary is None:
        return None
    counts = download.summary.counts
    prior = results.get("train_prior")
    used = prior.summary.counts.get("captioned") if prior is not None and prior.summary is not None else None
    fractions = {name: caption_fraction(stage.identity) for name, stage in plan.stages.items()}
    return Provenance(
        images=counts["images"],
        captioned=counts["captioned"] if used is None else used,
        failures=_by_cause(counts, FAILED),
        skips=_by_cause(counts, SKIPPED),
        captions={name: fraction for name, fraction in fractions.items() if fraction is not None},
        pseudo_captions=_pseudo_captions(results, plan),
        source=f"artifacts/download_shards/{plan.stages['download_shards'].fingerprint}",
        digest=plan.stages["download_shards"].fingerprint,
    )


def _pseudo_captions(results: Mapping[str, StageResult], plan: Plan) -> dict[str, float]:
    """Return how many pseudo-captions there are, of how many images, and their weight in each stage that reads any."""
    made = results.get("caption_images")
    counts = {} if made is None or made.summary is None else made.summary.counts
    found: dict[str, float] = {name: count for name, count in counts.items() if name in PSEUDO_COUNTS}
    weights = {name: pseudo_weight(stage.identity) for name, stage in plan.stages.items()}
    return found | {f"weight/{name}": weight for name, weight in weights.items() if weight is not None}


def _by_cause(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): count for name, count in counts.items() if name.startswith(prefix)}


def register_model(tracker: "RunTracker", experiment: RunConfig, record: RunRecord, store: Store) -> None:
    """Register the run's text-to-image model, so that ``mlflow.pyfunc.load_model`` generates images."""
    if experiment.generate is None:
        return
    from pipeline.export.bundle import write_run
    from pipeline.serving import serving_settings

    config = cast(GenerateConfig, find_stored_models(experiment.generate, record.plan["generate"].identity, store))
    inputs = {name: store.artifact(name, record.plan[name].fingerprint) for name in config.inputs}
    with tracker.temporary_folder() as folder:
        bundle = folder / "bundle"
        write_run(bundle, config, inputs, run=record.run)
        tracker.register_model(f"corgi-{record.name}", bundle, REQUIREMENTS, serving_settings(config.sampling))
