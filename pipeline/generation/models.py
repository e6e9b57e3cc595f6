"""The models of a finished run, put together to a system that draws."""

import torch

from pipeline.config import RunConfig
from pipeline.errors import UsageError
from pipeline.record import RunRecord
from pipeline.store import Store
from stages.encoders.config import with_trained
from stages.inference.loading import load_text_to_image
from stages.inference.text_to_image import TextToImage


def load_system(store: Store, record: RunRecord, *, batch_size: int | None = None) -> TextToImage:
    """Load the models of a run; whatever the run's own ``generate`` section says of solvers and encoders holds.

    Raises:
        UsageError: a model is not there, or the run draws nothing.
    """
    missing = [stage for stage in ("train_prior", "train_decoder") if stage not in record.artifacts]
    config = RunConfig.model_validate(record.config).generate
    if missing or config is None:
        raise UsageError(
            f"run {record.run}: has no finished {' and '.join(missing) or 'generate section'}; "
            f"finish it with `corgi run {record.config_path}`, or name another run (corgi status shows all)"
        )
    inputs = {stage: store.artifact(stage, record.plan[stage].fingerprint) for stage in config.inputs}
    on_gpu = torch.cuda.is_available() and config.resources.gpus_per_worker
    return load_text_to_image(
        with_trained(config.clip, inputs),
        inputs["train_prior"],
        inputs["train_decoder"],
        config.sampling,
        upsamplers=[inputs[name] for name in config.upsampler_stages],
        t5=config.t5,
        batch_size=batch_size or config.batch_size,
        device="cuda" if on_gpu else "cpu",
    )


def find_run_of(store: Store, name: str, where: str) -> RunRecord:
    """Return the run that an image names: by its id, or by the fingerprint of the run's own generate stage.

    Raises:
        UsageError: the store has no such run.
    """
    records = list(store.runs())
    for record in records:
        planned = record.plan.get("generate")
        if name == record.run or (planned is not None and name == planned.fingerprint):
            return record
    known = ", ".join(record.run for record in records[:5]) or "none yet"
    raise UsageError(
        f"--again: {where} was drawn by the run {name}, which the store {store.uri} has not; runs there: {known}; "
        "name its store with --store"
    )
