"""Which artifact a run is whose weights a training begins with (``init_from: RUN``)."""

from pipeline.errors import UsageError
from pipeline.store import Store
from stages.contract.stage import StageConfig
from stages.contract.texts import show_value
from stages.training.config import LoopConfig
from stages.training.init_config import names_run


def with_initial_folder(name: str, section: StageConfig, store: Store) -> StageConfig:
    """Return a section whose ``init_from`` is an address, where it was a run's id.

    Raises:
        UsageError: there is no such run in the store, or it has no trained model of the stage.
    """
    if not isinstance(section, LoopConfig) or section.init_from is None or not names_run(section.init_from):
        return section
    where = f"{name}.init_from: found {show_value(section.init_from)}"
    record = store.read_run(section.init_from)
    if record is None:
        known = ", ".join(one.run for one, _ in zip(store.runs(), range(5), strict=False)) or "none yet"
        raise UsageError(
            f"{where}, which is no file or folder here, and no run of the store {store.uri}; runs there: {known}; give "
            "one of these, or the folder of a trained model"
        )
    planned = record.plan.get(name)
    artifact = None if planned is None else store.artifact(name, planned.fingerprint)
    if artifact is None or not artifact.is_complete:
        found = "has no such stage" if artifact is None else "has not finished that stage"
        raise UsageError(f"{where}, a run that {found}; finish it by `corgi run`, or name another")
    return section.model_copy(update={"init_from": artifact.path(section.model_folder)})
