"""What a run would do: each stage's fingerprint, its state in the store, and why."""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.config.image_space import require_one_image_encoder, require_space_for_texts
from pipeline.config.loading import LONGEST_CHAIN, load_reused
from pipeline.config.schema import ReuseConfig, RunConfig
from pipeline.errors import UsageError
from pipeline.fingerprints import fingerprint_of
from pipeline.growth import Grown, continued_words, grow, read_grown
from pipeline.init_from import with_initial_folder
from pipeline.lineage import Lineage
from pipeline.record import PlannedEntry
from pipeline.refits import begin_with_last_fit
from pipeline.splits import may_have_seen, split_of
from pipeline.store import Completion, Store
from stages.contract.digests import remembering
from stages.contract.errors import StageError
from stages.contract.parsing import shown
from stages.contract.recipes import SHARDS, read_recipe, recipe_of
from stages.contract.secrets import redact
from stages.contract.stage import StageConfig
from stages.download_shards.config import DownloadShardsConfig
from stages.embed_clip.config import EmbedClipConfig
from stages.fit_gaussians.config import FitGaussiansConfig
from stages.formats.splits import SplitConfig
from stages.training.config import LoopConfig


@dataclass(frozen=True)
class PlannedStage:
    """A node of the graph with the artifact that it makes or takes."""

    name: str
    fingerprint: str
    completion: Completion
    inputs: tuple[str, ...]
    identity: Mapping[str, Any]
    config: StageConfig
    reused_from: str | None = None
    reason: str = ""
    takes: str = ""  # what it takes from an earlier artifact, in words
    takes_nothing: str = ""  # why it takes no shard over, where the store has some of its recipe
    streams_from: tuple[str, ...] = ()  # inputs still to be made whose shards it may take as they are done

    @property
    def state(self) -> str:
        """Return 'done', 'partial' or 'new'."""
        return self.completion.state


@dataclass(frozen=True)
class Plan:
    """All nodes, in running order, and the run's id, which depends on what is computed and on nothing else."""

    name: str
    stages: Mapping[str, PlannedStage] = field(default_factory=dict)

    @property
    def split(self) -> SplitConfig | None:
        """The split that the stages keep to; None: no stage reads it."""
        found = (split_of(stage.identity) for stage in self.stages.values() if stage.reused_from is None)
        return next((split for split in found if split is not None), None)

    @property
    def run(self) -> str:
        """Return the run's id: equal plans continue the same run."""
        joined = ",".join(f"{stage.name}={stage.fingerprint}" for stage in self.stages.values())
        return f"{self.name}-{hashlib.sha256(joined.encode()).hexdigest()[:8]}"

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to run."""
        return all(stage.state == "done" for stage in self.stages.values())


def make_plan(config: RunConfig, store: Store) -> Plan:
    """Compute every fingerprint and look it up in the store."""
    store.check_format()
    with remembering(store.digests):
        return _make_plan(config, _Others(store))


@dataclass(frozen=True)
class _Others:
    """The experiments of whose artifacts some are taken: each is planned once, however many take from it."""

    store: Store
    plans: dict[ReuseConfig, Plan] = field(default_factory=dict)
    chain: tuple[ReuseConfig, ...] = ()
    """Those that are being planned now, each of which takes from the next."""

    def plan(self, reuse: ReuseConfig) -> Plan:
        """Return the plan of another experiment; UsageError: it takes from itself, or through too many."""
        if reuse not in self.plans:
            chain = (*self.chain, reuse)
            if reuse in self.chain:
                loop = (_words(one, one.config.name) for one in chain[chain.index(reuse) :])
                names = shown(" -> ".join(loop), 400)
                raise UsageError(f"{shown(reuse.config)}: reuse: it takes from itself through {names}; break the loop")
            if len(chain) > LONGEST_CHAIN:
                raise UsageError(
                    f"{shown(reuse.config)}: reuse: more than {LONGEST_CHAIN} experiments in a row take from one "
                    "another; let the first take from the last"
                )
            self.plans[reuse] = _make_plan(load_reused(reuse), replace(self, chain=chain))
        return self.plans[reuse]


def _words(reuse: ReuseConfig, path: str) -> str:
    """Return what `corgi run` takes to make another experiment, without credentials."""
    return redact(" ".join([path, *map(shlex.quote, reuse.overrides)]))


def _make_plan(config: RunConfig, others: _Others) -> Plan:
    store = others.store
    planned: dict[str, PlannedStage] = {name: _reused(name, config.reuse[name], others) for name in config.reuse}
    require_space(config, planned)
    sections = {name: with_initial_folder(name, section, store) for name, section in config.stages().items()}
    identities = {name: identity_of_section(name, section) for name, section in sections.items()}
    fingerprints = {name: stage.fingerprint for name, stage in planned.items()}
    lineage, why_not = _lineage(planned, sections, identities, store)
    inputs: dict[str, dict[str, str]] = {}
    takes: dict[str, str] = {}
    for name in list(sections):
        section = sections[name]
        inputs[name] = {source: fingerprints[source] for source in config.inputs_of(section)}
        if lineage is not None:
            lineage.add(section, recipe_of(section, identities[name], inputs[name]), inputs[name])
            takes[name] = lineage.words(section)
        if isinstance(section, FitGaussiansConfig):
            found = begin_with_last_fit(section, identities[name], inputs[name], lineage, store)
            sections[name], identities[name], takes[name] = found
        fingerprints[name] = fingerprint_of(section, identities[name], inputs[name])
    completions = store.completions({name: fingerprints[name] for name in identities})
    for name, section in sections.items():
        is_new = completions[name].state == "new"
        overlaps = config.cluster.overlap and not completions[name].complete
        planned[name] = PlannedStage(
            name,
            fingerprints[name],
            completions[name],
            config.inputs_of(section),
            identities[name],
            section,
            streams_from=_upstream(config.streams_of(section), planned) if overlaps else (),
            takes=_takes(section, inputs[name], identities[name], store, takes) if is_new else "",
            takes_nothing=why_not if is_new and name == SHARDS else "",
        )
    return Plan(config.name, _with_reasons(planned, config.name, store))


def require_space(config: RunConfig, reused: Mapping[str, PlannedStage]) -> None:
    """Refuse stages that take texts and images of embeddings made elsewhere for one space, where they are not."""
    embed = reused["embed_clip"].config if "embed_clip" in reused else None
    if isinstance(embed, EmbedClipConfig):
        shared = ("reuse.embed_clip: its clip", embed.clip)
        try:
            require_one_image_encoder(shared, config.stages())
            require_space_for_texts(shared, config.stages())
        except ValueError as error:
            raise UsageError(f"{config.name}: {error}") from None


def _lineage(
    reused: Mapping[str, PlannedStage],
    sections: dict[str, StageConfig],
    identities: dict[str, Mapping[str, Any]],
    store: Store,
) -> tuple[Lineage | None, str]:
    """Let the shards begin with those that are there; return what the stages have grown from, or why nothing."""
    grown: Grown | None = None
    if isinstance(download := sections.get(SHARDS), DownloadShardsConfig):
        begun = grow(download, identities[SHARDS], store)
        sections[SHARDS], identities[SHARDS], grown = begun.section, begun.identity, begun.grown
        if grown is None:
            return None, begun.why_not
    elif SHARDS in reused:
        grown = read_grown(store.artifact(SHARDS, reused[SHARDS].fingerprint), store)
    if grown is None:
        return None, ""
    lineage = Lineage.of(grown, store)
    for name, stage in reused.items():
        recipe = read_recipe(store.artifact(name, stage.fingerprint))
        if recipe is not None:
            lineage.add(stage.config, recipe, stage.config.inputs)
    return lineage, ""


def _takes(
    section: StageConfig,
    inputs: Mapping[str, str],
    identity: Mapping[str, Any],
    store: Store,
    of_shards: Mapping[str, str],
) -> str:
    if isinstance(section, LoopConfig):
        return continued_words(section, identity, inputs, store)
    return of_shards.get(section.stage, "")


def _upstream(streams_from: Sequence[str], planned: Mapping[str, PlannedStage]) -> tuple[str, ...]:
    unfinished = [source for source in streams_from if planned[source].state != "done"]
    return tuple(source for source in unfinished if planned[source].config.units_are_final)


def identity_of_section(name: str, section: StageConfig) -> Mapping[str, Any]:
    """Return what a stage's result depends on; UsageError: what its section names is not there, or cannot be read."""
    try:
        return section.identity()
    except FileNotFoundError as error:
        raise UsageError(f"{name}: no file or folder at {error.filename or error}; correct the path") from None
    except StageError as error:
        raise UsageError(f"{name}: {error}") from None
    except OSError as error:
        raise UsageError(
            f"{name}: {shown(error.filename or 'a file that it names')} cannot be read ({error.strerror or error}): "
            "allow it, or correct the path"
        ) from None


def _reused(name: str, reuse: ReuseConfig, others: _Others) -> PlannedStage:
    """Resolve ``reuse.<stage>.config`` to the artifact that the other experiment makes in this store."""
    other = others.plan(reuse).stages.get(name)
    if other is None:
        raise UsageError(f"reuse.{name}.config: {reuse.config} has no stage {name}; name an experiment that has one")
    words = _words(reuse, str(reuse.config))
    return PlannedStage(name, other.fingerprint, other.completion, (), other.identity, other.config, reused_from=words)


def _with_reasons(planned: Mapping[str, PlannedStage], run_name: str, store: Store) -> dict[str, PlannedStage]:
    earlier = next((record for record in store.runs(f"{run_name}-") if record.name == run_name), None)
    past = earlier.plan if earlier else {}
    found = {}
    for name, stage in planned.items():
        streams = [f"takes the shards of {one} as they come, where there is room" for one in stage.streams_from]
        begins = [] if stage.state == "done" else _initial(stage.config)
        anew = [f"no shard is taken over: {stage.takes_nothing}"] if stage.takes_nothing else []
        reasons = (_reason(stage, planned, past.get(name)), *anew, *begins, *streams, *_other_split(stage, planned))
        found[name] = replace(stage, reason="; ".join(reasons))
    return found


def _initial(section: StageConfig) -> list[str]:
    lineage = section.lineage if isinstance(section, LoopConfig) else {}
    return [f"begins with the weights of {address}" for address in lineage.values()]


def _other_split(stage: PlannedStage, planned: Mapping[str, PlannedStage]) -> list[str]:
    """Say where a model of another experiment may know what this one validates on."""
    validated = [one for one in planned.values() if not one.reused_from and split_of(one.identity) is not None]
    if not stage.reused_from or split_of(stage.identity) is None or not validated:
        return []
    if not may_have_seen(stage.identity, validated[0].identity):
        return []
    return [f"its split is another's: it may have trained on images that {validated[0].name} validates on"]


def _reason(stage: PlannedStage, planned: Mapping[str, PlannedStage], past: PlannedEntry | None) -> str:
    if stage.reused_from:
        return f"taken from {stage.reused_from}" + ("" if stage.state == "done" else ", which has not made it yet")
    if stage.state == "done":
        return "complete in the store"
    if stage.state == "partial":
        total = stage.completion.units_planned
        return f"{stage.completion.units_done} of {total or 'an unknown number of'} units done"
    if stage.takes:
        return redact(stage.takes)
    changed = [source for source in stage.inputs if planned[source].state != "done"]
    if past is None:
        return "never made with this config"
    keys = _changed_keys(past.identity, stage.identity)
    causes = [f"{key}: {before!r} -> {after!r}" for key, before, after in keys]
    causes += [f"input {source} is {planned[source].state}" for source in changed]
    if [key for key, *_ in keys] == ["training.num_steps"] and not changed:
        causes.append(_why_anew(stage.config))
    return redact("; ".join(causes)) or "never made from these inputs"


def _why_anew(section: StageConfig) -> str:
    """Say why a training of another number of steps begins by itself."""
    if isinstance(section, LoopConfig) and not section.training.can_go_on:
        return (
            f"it starts anew, as every rate of schedule {section.training.schedule} depends on num_steps: "
            "those of schedule constant do not"
        )
    if isinstance(section, LoopConfig) and not section.can_go_on:
        return "it starts anew, as a distillation follows the last step"
    return "it starts anew, as no checkpoint of fewer steps is kept"


def _changed_keys(before: Any, after: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        names = dict.fromkeys([*after, *before])
        return [
            change
            for name in names
            for change in _changed_keys(before.get(name), after.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if before == after else [(key, before, after)]
