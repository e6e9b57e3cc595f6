"""The models from outside that an experiment names, in its store: put there before it runs, found there afterwards."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pipeline.plan import Plan
from pipeline.store import Store
from stages.contract.config import ConfigModel
from stages.contract.digests import content_digest, remembering
from stages.contract.stage import StageConfig
from stages.encoders.config import FolderModel
from stages.formats.stored_models import is_stored, model_in, store_model

_Find = Callable[[FolderModel, str], FolderModel]


def with_stored_models(plan: Plan, store: Store) -> Plan:
    """Copy the models that the plan's stages name by folders into the store; return the plan that reads them there."""

    def keep(model: FolderModel, digest: str) -> FolderModel:
        assert model.folder is not None
        store_model(store.uri, model.folder, digest, without=model.unused_files)
        return model.stored(store.uri, digest)

    with remembering(store.local_base / "digests.db"):
        stages = {
            name: stage if stage.reused_from else replace(stage, config=_replaced(stage.config, stage.identity, keep))
            for name, stage in plan.stages.items()
        }
    return replace(plan, stages=stages)


def find_stored_models(section: StageConfig, identity: Mapping[str, Any], store: Store) -> StageConfig:
    """Return a stage's section that reads from the store what that holds of the models named by folders.

    ``identity`` is that of the section when it ran: it names these models by their content.
    """

    def find(model: FolderModel, digest: str) -> FolderModel:
        return model.stored(store.uri, digest) if is_stored(model_in(store.uri, digest)) else model

    found: StageConfig = _replaced(section, identity, find)
    return found


def find_missing_models(section: StageConfig, identity: Mapping[str, Any], store: Store) -> StageConfig:
    """Return a section as :func:`find_stored_models` does, with models whose folders are here as they are."""

    def find(model: FolderModel, digest: str) -> FolderModel:
        is_here = model.folder is None or model.folder.exists()
        return model if is_here or not is_stored(model_in(store.uri, digest)) else model.stored(store.uri, digest)

    found: StageConfig = _replaced(section, identity, find)
    return found


def _replaced(value: Any, identity: Any, find: _Find) -> Any:
    """Return a section with its models replaced; it is walked side by side with its identity."""
    if isinstance(value, FolderModel) and (folder := value.folder) is not None:
        known = identity.get("path") if isinstance(identity, Mapping) else None
        if known is None and not folder.exists():
            return value
        return find(value, known or content_digest(folder))
    if isinstance(value, tuple):
        parts = identity if isinstance(identity, list) and len(identity) == len(value) else [None] * len(value)
        return tuple(_replaced(one, part, find) for one, part in zip(value, parts, strict=True))
    if not isinstance(value, ConfigModel):
        return value
    of_fields = identity if isinstance(identity, Mapping) else {}
    fields = {name: getattr(value, name) for name in type(value).model_fields}
    changed = {name: _replaced(field, of_fields.get(name), find) for name, field in fields.items()}
    changes = {name: new for name, new in changed.items() if new is not fields[name] and new != fields[name]}
    return value.model_copy(update=changes) if changes else value
