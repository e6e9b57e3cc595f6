"""The plan of an evaluation: what a run has made, by its record, and what is generated and evaluated anew.

Nothing of what the run was made from is looked at: its sources may have changed since, or be gone.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.config.schema import RunConfig
from pipeline.errors import UsageError
from pipeline.fingerprints import fingerprint_of
from pipeline.plan import Plan, PlannedStage, identity_of_section, require_space
from pipeline.record import RunRecord
from pipeline.store import Store
from pipeline.stored_models import find_missing_models
from stages.contract.digests import remembering
from stages.contract.stage import StageConfig

AGAIN = ("generate", "evaluate")


def plan_evaluation(config: RunConfig, recorded: RunConfig, record: RunRecord, store: Store) -> Plan:
    """Plan what is done anew, by a configuration with overrides; ``recorded`` is the run's own.

    Raises:
        UsageError: something is not in the store any more that the run made, or a section names what is not there.
    """
    sections = {name: section for name, section in config.stages().items() if name in AGAIN}
    planned = _made_before(config, record, store, without=sections)
    require_space(config, planned)
    fingerprints = {name: stage.fingerprint for name, stage in planned.items()}
    identities: dict[str, Mapping[str, Any]] = {}
    with remembering(store.digests):
        for name, given in list(sections.items()):
            sections[name] = section = _with_stored_models(given, recorded.stages().get(name), record, store)
            identities[name] = identity_of_section(name, section)
            inputs = {source: fingerprints[source] for source in config.inputs_of(section)}
            fingerprints[name] = fingerprint_of(section, identities[name], inputs)
    completions = store.completions({name: fingerprints[name] for name in sections})
    for name, section in sections.items():
        planned[name] = PlannedStage(
            name, fingerprints[name], completions[name], config.inputs_of(section), identities[name], section
        )
    return Plan(config.name, planned)


def _made_before(
    config: RunConfig, record: RunRecord, store: Store, *, without: Mapping[str, StageConfig]
) -> dict[str, PlannedStage]:
    """Return all other stages of the record, which are there."""
    entries = {name: entry for name, entry in record.plan.items() if name not in without}
    completions = store.completions({name: entry.fingerprint for name, entry in entries.items()})
    before = dict.fromkeys([*config.stages(), *config.reuse, *entries])
    missing = [name for name in before if name not in without and not (name in entries and completions[name].complete)]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise UsageError(
            f"run {record.run}: {', '.join(missing)} {are} not complete in the store {store.uri}: expected all that "
            f"the run makes before generate: finish it with `corgi run {record.config_path}`, if its sources are as "
            "they were, or evaluate another run"
        )
    own = config.stages()
    planned = {}
    for name, entry in entries.items():
        section = own.get(name) or _section_elsewhere(name, entry.fingerprint, store)
        inputs = config.inputs_of(section) if name in own else ()
        planned[name] = PlannedStage(
            name, entry.fingerprint, completions[name], inputs, entry.identity, section, reused_from=record.config_path
        )
    return planned


def _section_elsewhere(name: str, fingerprint: str, store: Store) -> StageConfig:
    """Return the section by which another run made an artifact that this one reused; where none is known, an empty one.

    The experiment's file, which ``reuse`` names, may say something else by now.
    """
    for other in store.runs():
        entry = other.plan.get(name)
        if entry is None or entry.fingerprint != fingerprint or not other.config.get(name):
            continue
        try:
            return RunConfig.model_validate(other.config).stages()[name]
        except (ValidationError, KeyError):  # of another version
            continue
    return StageConfig()


def _with_stored_models(
    section: StageConfig, recorded: StageConfig | None, record: RunRecord, store: Store
) -> StageConfig:
    """Return a section that reads from the store what overrides left as it was, and is a folder here no more."""
    entry = record.plan.get(section.stage)
    if entry is None or type(section) is not type(recorded):
        return section
    found = find_missing_models(recorded, entry.identity, store)
    same = [name for name in type(section).model_fields if getattr(section, name) == getattr(recorded, name)]
    return section.model_copy(update={name: getattr(found, name) for name in same})
