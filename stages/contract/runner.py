"""Run one stage over its output folder and seal it: manifest first, completion marker last."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stages.contract.documents import Manifest
from stages.contract.recipes import earlier_artifacts, recipe_of
from stages.contract.stage import StageConfig, StageContext, StageFunction, StageSummary
from stages.storage.artifact import COMPLETE, Artifact, Output


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

    ``identity`` is the config's, where the caller knows it: finding it would read local sources once more.
    """
    output.sweep()
    found = config.identity() if identity is None else identity
    if config.grows:
        recipe = recipe_of(config, found, {name: one.fingerprint for name, one in inputs.items()})
        recipe.write(output)
        context = replace(context, earlier=earlier_artifacts(output, recipe))
    summary = function(config, inputs, output, context)
    output.sweep()  # what workers that were lost meanwhile had begun to write
    Manifest(
        stage=output.stage,
        fingerprint=output.fingerprint,
        code_version=config.code_version,
        config=found,
        inputs={name: artifact.fingerprint for name, artifact in sorted(inputs.items())},
        summary=summary,
    ).write(output)
    output.check_lease()
    output.write_bytes(COMPLETE, b"")
    return summary
