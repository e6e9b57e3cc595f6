"""Batches whose rows do not depend on each other."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from cluster.serve import Compute
from models.decoders.sampling import DecoderSampling
from models.priors.spec import PriorSampling
from pipeline.serve.model import ModelSource, Wanted
from stages.contract.errors import ArtifactError
from stages.inference.sampling import SamplingSettings
from tests.factories import save_tiny_bundle

BATCH = 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    settings = SamplingSettings(PriorSampling(num_steps=2), DecoderSampling(num_steps=2))
    return ModelSource("nowhere", str(save_tiny_bundle(tmp_path_factory.mktemp("made"), settings)), BATCH)


def test_an_image_is_the_same_in_every_row_beside_any_others(source: ModelSource) -> None:
    compute, one = source(), Wanted("a red star", 3)
    (alone,) = compute([one])
    assert (alone.run, alone.settings["decoder_steps"], alone.image.shape) == ("tiny-1", 2, (32, 32, 3))
    for row in range(BATCH):
        crowd = [Wanted(f"number {number}", 10 * row + number) for number in range(BATCH)]
        crowd[row] = one
        made = compute(crowd)
        assert len(made) == BATCH
        assert np.array_equal(made[row].image, alone.image)
        assert sum(np.array_equal(other.image, alone.image) for other in made) == 1


def shapes_seen(compute: Compute, wanted: list[Wanted]) -> list[torch.Size]:
    """Return the shapes that the networks' layers are given; few kernels show in an image how many rows they had."""
    found: list[torch.Size] = []
    with register_module_forward_pre_hook(
        lambda module, inputs: found.extend(one.shape for one in inputs if isinstance(one, torch.Tensor))
    ):
        compute(wanted)
    return found


def test_the_networks_are_given_full_batches_alone(source: ModelSource) -> None:
    compute = source()
    full = shapes_seen(compute, [Wanted(f"number {number}", number) for number in range(BATCH)])
    assert len(full) > 10
    assert shapes_seen(compute, [Wanted("a red star", 3)]) == full


def test_a_damaged_model_is_refused(source: ModelSource) -> None:
    folder = Path(source.name)
    weights = folder / "prior" / "model.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:100])
        with pytest.raises(ArtifactError):
            source()
    finally:
        weights.write_bytes(kept)
