"""What the stages of a plan ask of the machines that they would run on; nothing is started for it."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.errors import ClusterError
from cluster.machines import Machines
from cluster.session import existing_address, session, this_machine
from pipeline.allocation import allocate_all, describe_demand
from pipeline.config.schema import ClusterConfig
from pipeline.plan import Plan
from stages.contract.stage import Allocation, StageConfig
from stages.contract.texts import one_line


@dataclass(frozen=True)
class Demands:
    """What each stage that is still to run asks for, in words, and of what."""

    stages: Mapping[str, str] = field(default_factory=dict)
    machines: str = ""


def demands_of(plan: Plan, cluster: ClusterConfig) -> Demands:
    """Return what a run would ask for; UsageError: something that its machines can never give."""
    sections = [stage.config for stage in plan.stages.values() if stage.state != "done" and not stage.reused_from]
    address = existing_address(cluster.address)
    try:
        machines = this_machine(cluster.num_cpus) if address is None else _machines_at(address, cluster)
        words = "not known before Ray starts here" if machines is None else _describe(machines)
    except ClusterError as error:
        machines, words = None, f"not known: {one_line(str(error), 400)}"
    if machines is None:
        return Demands({section.stage: _as_configured(section) for section in sections}, words)
    allocations = allocate_all(sections, machines)
    return Demands({name: _describe_demand(one, machines) for name, one in allocations.items()}, words)


def _machines_at(address: str, cluster: ClusterConfig) -> Machines:
    with contextlib.ExitStack() as stack:
        return stack.enter_context(session(address, None, cluster.allow_unauthenticated))


def _describe_demand(allocation: Allocation, machines: Machines) -> str:
    more = ", more as nodes come" if allocation.grows and machines.nodes else ""  # of one machine, none are known
    return describe_demand(allocation) + more


def _describe(machines: Machines) -> str:
    found = f"{machines.num_cpus} CPUs ({machines.node_cpus} on the largest node), {machines.num_gpus:g} GPUs"
    if not machines.declared:
        return found
    return f"{found}; with its autoscaler up to {machines.cpus_in_the_end} CPUs, {machines.gpus_in_the_end:g} GPUs"


def _as_configured(section: StageConfig) -> str:
    asked = section.resources
    workers, cpus = asked.num_workers or "as many as fit", asked.cpus_per_worker or "some"
    gpus = f" + {asked.gpus_per_worker:g} GPU" if isinstance(asked.gpus_per_worker, float) else ""
    return f"{workers} x {cpus} CPU{gpus}"
