"""Run one stage over its output folder and seal it: manifest first, completion marker last."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from stages.contract.stage import StageConfig, StageContext, StageFunction, StageSummary
from stages.formats.embeddings import see_kept
from stages.storage.artifact import COMPLETE, MANIFEST, Artifact, Output


def run_stage(
    function: StageFunction,
    config: StageConfig,
    *,
    inputs: Mapping[str, Artifact],
    output: Output,
    context: StageContext,
    identity: Mapping[str, Any] | None = None,
) -> StageSummary:
    """Run the stage and seal its artifact; the stage itself goes on from whatever units are done.

    Embeddings are handed to it as filter_samples left them, where that stage is in the graph. ``identity`` is the
    config's, where the caller knows it: to find it, sources on this machine would be read once more.
    """
    output.sweep()
    summary = function(config, see_kept(inputs), output, context)
    known = config.identity() if identity is None else identity
    output.write_json(MANIFEST, manifest_of(config, known, inputs, output, summary))
    output.write_bytes(COMPLETE, b"")
    return summary


def manifest_of(
    config: StageConfig,
    identity: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
    output: Output,
    summary: StageSummary,
) -> dict[str, Any]:
    """Describe an artifact: what made it, from what, and what came out."""
    return {
        "stage": output.stage,
        "fingerprint": output.fingerprint,
        "code_version": config.code_version,
        "config": identity,
        "inputs": {name: artifact.fingerprint for name, artifact in sorted(inputs.items())},
        "summary": dataclasses.asdict(summary),
    }
