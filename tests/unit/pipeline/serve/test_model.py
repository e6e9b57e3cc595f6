"""Batches whose rows do not depend on each other."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from torch.nn.modules.module import register_module_forward_pre_hook

from cluster.errors import QueueFull
from cluster.serve import Compute, ServeOptions
from models.decoders.sampling import DecoderSampling
from models.priors.spec import PriorSampling
from pipeline.export.bundle import load_bundle
from pipeline.serve.app import AppMaker
from pipeline.serve.command import possible_images
from pipeline.serve.limits import Limits
from pipeline.serve.model import Made, ModelSource, Wanted
from stages.contract.errors import ArtifactError
from stages.encoders.config import TextStatesConfig
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


@pytest.fixture(scope="module")
def source_of_states(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """Return a model whose prior reads token states."""
    settings = SamplingSettings(PriorSampling(num_steps=8), DecoderSampling(num_steps=1))
    states = TextStatesConfig.model_validate({"clip": {"max_length": 24}})
    made = save_tiny_bundle(tmp_path_factory.mktemp("states"), settings, text_states=states)
    return ModelSource("nowhere", str(made), BATCH)


@pytest.mark.parametrize("others", [["a", "", "b"], ["a blue ring", "a large blue ring in the top left corner", "b c"]])
def test_an_embedding_is_the_same_beside_longer_and_shorter_prompts(
    source_of_states: ModelSource, others: list[str]
) -> None:
    system, _ = load_bundle(Path(source_of_states.name), batch_size=BATCH)
    assert system.rows_agree()
    seeds = list(range(5, 5 + BATCH))
    alone = system.imagine_independently(["a red star"] * BATCH, [5] * BATCH)[0]
    for row in range(BATCH):
        prompts, own = list(others), seeds[1:]
        prompts.insert(row, "a red star")
        own.insert(row, 5)
        assert torch.equal(system.imagine_independently(prompts, own)[row], alone)
    assert torch.equal(system.imagine(["a red star"], [5])[0], alone), "corgi generate embeds each prompt so, too"


def test_a_served_model_of_token_states_samples_each_prompt_by_itself(source_of_states: ModelSource) -> None:
    compute, one = source_of_states(), Wanted("a red star", 3)
    (alone,) = compute([one])
    made = compute([Wanted("a large blue ring in the top left corner", 1), one, one, Wanted("a", 2)])
    assert np.array_equal(made[1].image, alone.image)
    assert np.array_equal(made[2].image, alone.image)
    assert not np.array_equal(made[0].image, alone.image)


@pytest.mark.parametrize(("seed", "is_same"), [(3, True), (3 + 2**31, False), (3 + 2**52, False)])
def test_the_upper_bits_of_a_seed_count(source: ModelSource, seed: int, is_same: bool) -> None:
    system, _ = load_bundle(Path(source.name))
    for made in (system.imagine, system.generate):
        low, other = (np.asarray(made(["a red star"], [one])) for one in (3, seed))
        assert np.array_equal(low, other) is is_same
    embedding = system.imagine(["a red star"], [3])
    low, other = (system.decode(embedding, [one]) for one in (3, seed))
    assert np.array_equal(low, other) is is_same, "the decoder's own noise"


class Recorder:
    """A backend that holds ``most`` requests at a time, as the server's does."""

    def __init__(self, most: int) -> None:
        self.most, self.pending = most, 0

    async def compute(self, wanted: Wanted) -> Made:
        if self.pending >= self.most:
            raise QueueFull("as many requests wait as may")
        self.pending += 1
        await asyncio.sleep(0.01)
        self.pending -= 1
        return Made(np.zeros((8, 8, 3), np.uint8), "tiny-1", {})


@pytest.mark.parametrize(("queue", "batch", "replicas", "most"), [(1, 1, 1, 2), (2, 3, 2, 8), (256, 8, 1, 16)])
def test_no_request_is_allowed_that_is_always_refused(
    queue: int, batch: int, replicas: int, most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ServeOptions("127.0.0.1", 0, batch, queue, replicas)
    limits = Limits(images=possible_images(16, options))
    printed = capsys.readouterr().err
    assert ("may ask for" in printed) is (most < 16)
    assert f"{most} images, not for 16 (--most-images): {queue} may wait" in printed or most == 16
    client = TestClient(AppMaker("tiny-1", limits, ())(Recorder(options.most)))  # type: ignore[arg-type]
    assert client.get("/about").json()["most_images"] == most
    codes = [
        client.post("/generate", json={"prompt": "a", "num_images": num}).status_code for num in (1, most, most + 1)
    ]
    assert codes == [200, 200, 422]


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
