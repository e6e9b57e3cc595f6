"""Two workers on Ray generate the images, to the bit, and find the figures, that one process does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.mapping import Mapper, map_in_process
from cluster.pool import map_on_ray
from cluster.session import session
from stages.contract.stage import Allocation, StageSummary
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.stage import run as run_evaluate
from stages.formats.generated_images import GeneratedRecord
from stages.generate.config import GenerateConfig
from stages.generate.stage import run as run_generate
from stages.storage.artifact import Artifact, Output
from tests.factories import folder_digests, make_context, save_tiny_clip, save_tiny_decoder, save_tiny_prior

IMAGES = 150  # three units of each set


@pytest.mark.thorough
def test_two_workers_make_what_one_process_does(tmp_path: Path) -> None:
    clip = save_tiny_clip(tmp_path / "clip")
    inputs: dict[str, Artifact] = {
        "train_prior": save_tiny_prior(tmp_path / "prior", clip),
        "train_decoder": save_tiny_decoder(tmp_path / "decoder", clip),
    }
    section = {"models": [{"kind": "folder", "path": str(clip)}]}
    alone = make(tmp_path / "alone", section, inputs, map_in_process, 1)
    with session(None, 2):
        together = make(tmp_path / "together", section, inputs, map_on_ray, 2)

    images = [folder_digests(tmp_path / name / "generate") for name in ("alone", "together")]
    one, two = ({file: digest for file, digest in found.items() if "timing" not in file} for found in images)
    assert len([file for file in one if file.startswith("images/")]) == 2 * IMAGES
    assert one == two
    assert dict(together.metrics) == pytest.approx(dict(alone.metrics), rel=1e-9, abs=1e-9)
    assert "frechet_distance" in alone.metrics
    assert together.protocols == alone.protocols


def make(
    folder: Path, clip: Mapping[str, Any], inputs: Mapping[str, Artifact], mapper: Mapper, workers: int
) -> StageSummary:
    """Generate and evaluate; return what the evaluation found."""
    solvers = {"prior": {"num_steps": 2}, "decoder": {"num_steps": 2}}
    prompts, sets = {"kind": "scenes", "num": IMAGES}, ["prior", "reconstruction"]
    generate = GenerateConfig.model_validate({"clip": clip, "prompts": prompts, "sets": sets, **solvers})
    context = make_context(map_shards=mapper, resources=Allocation(num_workers=workers))
    generated = Output(str(folder / "generate"), "generate", "g")
    run_generate(generate, inputs, generated, context)
    assert len(GeneratedRecord.done(generated)) == 6
    evaluate = EvaluateConfig.model_validate({"clip": clip, "features": {"kind": "clip"}})
    return run_evaluate(evaluate, {"generate": generated}, Output(str(folder / "evaluate"), "evaluate", "e"), context)
