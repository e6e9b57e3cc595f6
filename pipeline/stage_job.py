"""The work of one stage, as a task that runs in a process of its own.

Apart from the executor, whose plan and configuration such a process needs not: they would be a third of its imports.
"""

import contextlib
import copy
import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.channel import Sender
from cluster.metrics import label_process
from cluster.task_signs import TaskLimits, giving_signs
from cluster.training import use_cpus
from pipeline.logs.lines import ForwardLogs, forwarding_logs
from pipeline.processes import Environment, raising_no_secrets, report_workers
from stages.contract.digests import remembering
from stages.contract.runner import run_stage
from stages.contract.stage import Allocation, InputState, StageConfig, StageContext, StageSummary
from stages.formats.filtered import filter_inputs
from stages.storage.artifact import Artifact, Output

END = "end of the run"
"""The notice on the driver's board that asks training to end with a checkpoint; no stage has this name."""


@dataclass(frozen=True)
class StageJob:
    """All that the task of a stage needs; pickled into a worker process."""

    config: StageConfig
    identity: Mapping[str, Any]
    inputs: Mapping[str, Artifact]
    output: Output
    allocation: Allocation
    upstream: tuple[str, ...] = ()
    environment: Environment = field(default_factory=Environment)
    run: str = ""
    digests: Path | None = None
    """Where digests of files are remembered, on the driver's machine."""


def run_stage_job(job: StageJob, emit: Sender, *upstream: Any) -> StageSummary:
    """Run one stage in this process; ``upstream`` only orders the tasks."""
    use_cpus(job.allocation.cpus_per_worker)
    job.environment.enter()
    label_process(job.run, job.config.stage)
    limits = TaskLimits(job.allocation.heartbeat_timeout, job.allocation.stage_timeout)
    try:
        digests = contextlib.nullcontext() if job.digests is None else remembering(job.digests)
        signs = giving_signs(copy.copy(emit), limits)  # of its own, as a sender is for one thread
        with forwarding_logs(ForwardLogs(emit)), raising_no_secrets(), digests, signs:
            return _run_stage(job, emit)
    finally:
        emit.flush()


def _run_stage(job: StageJob, emit: Sender) -> StageSummary:
    module = importlib.import_module(f"stages.{job.config.stage}.stage")
    input_state = functools.partial(_input_state, emit, job.upstream)
    spread = functools.partial(job.environment.map_on_ray, emit=emit)
    train = functools.partial(job.environment.launch_training, ending=lambda: bool(emit.poll(END)))
    context = StageContext(emit, spread, train, job.allocation, input_state)
    report_workers(emit)
    inputs = filter_inputs(job.inputs)
    return run_stage(module.run, job.config, inputs=inputs, output=job.output, context=context, identity=job.identity)


def _input_state(emit: Sender, upstream: tuple[str, ...], name: str) -> InputState:
    """Ask the driver's board how far an input is; those that are not followed were done before the stage started."""
    ended = emit.poll(name) if name in upstream else "done"
    return "running" if ended is None else "done" if ended == "done" else "failed"
