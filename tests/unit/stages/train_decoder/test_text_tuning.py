"""A trained decoder goes on with texts: from where it was, bit for bit, on captioned images alone."""

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from models.decoders.base import Decoder
from models.decoders.sampling import DecoderSampling
from models.decoders.stable_diffusion.model import StableDiffusionDecoder
from stages.contract.errors import InputFault
from stages.encode_latents.config import EncodeLatentsConfig
from stages.encode_latents.stage import run as encode
from stages.formats.model_folders import load_model_state
from stages.inference.loading import load_decoder
from stages.storage.artifact import Artifact, Output
from stages.storage.filesystems import open_address
from stages.train_decoder.captions import KEPT_SHARDS
from stages.train_decoder.check import check
from stages.train_decoder.config import TrainDecoderConfig
from stages.train_decoder.stage import make_task, run
from stages.train_decoder.text_tuning import TextTunedTask
from stages.training.task import BatchPart, RankInfo
from tests.tiny_stable_diffusion import generate_with_diffusers, save_tiny_stable_diffusion
from tests.unit.stages.encoded import DIM, SIDE, SIZES, context, make_embeddings, make_shards
from tests.unit.stages.train_decoder.test_encoded_stages import make_inputs

CPU = RankInfo(0, 1, torch.device("cpu"))
SAMPLING = DecoderSampling(num_steps=3, guidance_scale=1.5)
KINDS: dict[str, dict[str, Any]] = {
    "pixel": {
        "kind": "pixel_diffusion",
        "network": {"unshuffle": 4, "channels": [32], "layout_channels": 4, "layout_resolution": 4, "token_dim": 16},
    },
    "latent": {
        "kind": "latent_diffusion",
        "network": {"kind": "unet", "channels": [32]},
        "conditioning": {"num_tokens": 2, "layout_channels": 4, "layout_resolution": 4, "layout_hidden": 16,
                         "token_dim": 16},
    },
    "stable": {"kind": "stable_diffusion"},
}  # fmt: skip
OTHER: dict[str, dict[str, Any]] = {  # shapes that another decoder may have
    "pixel": {"network": KINDS["pixel"]["network"] | {"channels": [64]}},
    "latent": {"network": KINDS["latent"]["network"] | {"channels": [64]}},
    "stable": {"conditioning": {"num_tokens": 3}},
}


@pytest.fixture(scope="module", autouse=True)
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> None:
    KINDS["stable"]["path"] = str(save_tiny_stable_diffusion(tmp_path_factory.mktemp("sd") / "checkpoint"))


def config(kind: str, **changes: Any) -> Any:
    section = {
        "resolution": SIDE,
        "training": {"num_steps": 4, "batch_size": 4, "learning_rate": 0.01, "warmup_steps": 1, "ema_decay": 0.0},
        "samples": {"num_images": 2, "num_steps": 2},
        **KINDS[kind],
    }
    return TypeAdapter(TrainDecoderConfig).validate_python(section | changes)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def inputs(kind: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return inputs_of(kind, tmp_path_factory.mktemp("inputs"))


def inputs_of(kind: str, folder: Path) -> dict[str, Artifact]:
    made = make_inputs(folder, "kl")
    if kind != "stable":
        return made
    latents = Output(str(folder / "stable"), "encode_latents", "d")
    encoding = KINDS[kind] | {"resolution": SIDE}
    encode(TypeAdapter(EncodeLatentsConfig).validate_python(encoding), made, latents, context())
    return made | {"encode_latents": latents}


@pytest.fixture(scope="module")
def trained(kind: str, inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Output:
    return train(config(kind), inputs, tmp_path_factory.mktemp(kind))


def train(settings: Any, inputs: dict[str, Artifact], folder: Path) -> Output:
    output = Output(str(folder), "train_decoder", "f")
    run(settings, {name: inputs[name] for name in settings.inputs}, output, context())
    return output


def tuned(kind: str, trained: Artifact, **changes: Any) -> Any:
    text = {"text_dropout": 0.1} | changes.pop("text", {})
    return config(kind, text=text, init_from=trained.path("decoder"), **changes)


def task_of(settings: Any, inputs: dict[str, Artifact]) -> TextTunedTask:
    task = make_task(settings, inputs)
    task.setup(CPU)
    assert isinstance(task, TextTunedTask)
    return task


def sample_with_text(decoder: Decoder, text: float) -> torch.Tensor:
    embeddings = torch.linspace(-1, 1, 2 * DIM).reshape(2, DIM)
    return decoder.sample(embeddings, [1, 2], SAMPLING, torch.full((2, DIM), text))


def test_at_first_it_is_the_trained_decoder_bit_for_bit(
    kind: str, trained: Output, inputs: dict[str, Artifact]
) -> None:
    task = task_of(tuned(kind, trained), inputs)
    decoder, before = task.decoder_of(task.build_model()), load_decoder(trained)[0]
    assert decoder.reads_text
    assert not before.reads_text
    expected = sample_with_text(before, 0.0)
    for text in (-1.0, 0.5, float("nan")):
        assert torch.equal(sample_with_text(decoder, text), expected)
    kept, own = before.state_dict(), decoder.state_dict()
    assert all(torch.equal(own[name], kept[name]) for name in kept)


def test_it_learns_to_read_texts_and_is_loaded_as_such(
    kind: str, trained: Output, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    output = train(tuned(kind, trained), inputs, tmp_path)
    decoder, _ = load_decoder(output)
    assert decoder.reads_text
    assert not torch.equal(sample_with_text(decoder, -1.0), sample_with_text(decoder, 1.0))
    assert torch.equal(sample_with_text(decoder, float("nan")), decoder.sample(*no_text(), SAMPLING))
    assert not torch.equal(edited(decoder, -1.0), edited(decoder, 1.0))
    on = task_of(tuned(kind, output), inputs)  # one that reads texts goes on as it is
    assert torch.equal(sample_with_text(on.decoder_of(on.build_model()), 1.0), sample_with_text(decoder, 1.0))


def edited(decoder: Decoder, text: float) -> torch.Tensor:
    embeddings, seeds = no_text()
    images = torch.zeros(2, 3, SIDE, SIDE)
    return decoder.edit(images, embeddings, seeds, SAMPLING, strength=0.7, text=torch.full((2, DIM), text))


def no_text() -> tuple[torch.Tensor, list[int]]:
    return torch.linspace(-1, 1, 2 * DIM).reshape(2, DIM), [1, 2]


def test_only_captioned_images_are_seen_with_their_own_captions(
    kind: str, trained: Output, inputs: dict[str, Artifact]
) -> None:
    task = task_of(tuned(kind, trained, text={"text_dropout": 0.0}), inputs)
    captioned = (sum(SIZES) + 1) // 2  # every other one
    assert sum(task.sizes()) == captioned
    batch = task.prepare(BatchPart(0, 0, captioned, captioned))
    np.testing.assert_allclose(batch["text"], -batch["embeddings"], atol=1e-3)  # captions are their images' negatives
    few = task_of(tuned(kind, trained, captions={"fraction": 0.4}), inputs)
    assert 0 < sum(few.sizes()) < captioned


def test_a_fraction_of_texts_is_left_out(kind: str, trained: Output, inputs: dict[str, Artifact]) -> None:
    task = task_of(tuned(kind, trained, text={"text_dropout": 0.5}), inputs)
    missing = task.prepare(BatchPart(0, 0, 64, 64))["text"].isnan().all(1).float().mean()
    assert 0.2 < missing < 0.8


def test_what_does_not_fit_is_reported(kind: str, trained: Output, inputs: dict[str, Artifact], tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=r"init_from: .*there, and .* here: expected the same"):
        task_of(tuned(kind, trained, **OTHER[kind]), inputs).build_model()
    with pytest.raises(InputFault, match=r"train_decoder\.text: no image has a caption that may be used"):
        task_of(tuned(kind, trained, captions={"fraction": 0.0}), inputs)
    with pytest.raises(InputFault, match=r"init_from: .* holds no config\.json and no model\.safetensors"):
        check(config(kind, init_from=str(tmp_path)))
    check(tuned(kind, trained))


def test_the_decoder_may_lie_in_a_remote_store(kind: str, trained: Output, inputs: dict[str, Artifact]) -> None:
    address = f"memory://models/{kind}/decoder"
    fs, root = open_address(address)
    fs.put(trained.path("decoder"), root, recursive=True)
    settings = config(kind, text={"text_dropout": 0.1}, init_from=address)
    check(settings)
    task, local = task_of(settings, inputs), task_of(tuned(kind, trained), inputs)
    own = task.decoder_of(task.build_model()).state_dict()
    assert all(
        torch.equal(own[name], value) for name, value in local.decoder_of(local.build_model()).state_dict().items()
    )
    with pytest.raises(InputFault, match=r"init_from: memory://none/decoder holds no config\.json"):
        check(config(kind, init_from="memory://none/decoder"))


def test_texts_count_only_where_they_are_read(kind: str, trained: Output) -> None:
    few = {"captions": {"fraction": 0.3}}
    assert config(kind, **few).identity() == config(kind).identity()
    assert "text" not in config(kind).identity()
    assert tuned(kind, trained, **few).identity() != tuned(kind, trained).identity()


def test_low_rank_additions_learn_beside_the_texts_and_diffusers_is_reported_both(tmp_path: Path) -> None:
    made = inputs_of("stable", tmp_path / "inputs")
    start = train(config("stable"), made, tmp_path / "start")
    output = train(tuned("stable", start, tuning={"kind": "lora", "rank": 2}), made, tmp_path / "tuned")
    before, after = load_model_state(start, "decoder"), load_model_state(output, "decoder")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    attention = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")
    assert any(name.endswith(attention) for name in changed)
    assert all(name.endswith(attention) or ".conditioner." in name for name in changed)
    decoder, _ = load_decoder(output)
    assert isinstance(decoder, StableDiffusionDecoder)
    embeddings, text = torch.ones(1, DIM), torch.full((1, DIM), 2.0)
    conditional, unconditional = decoder.prompt_embeddings(embeddings, text)
    assert not torch.equal(conditional, decoder.prompt_embeddings(embeddings)[0])
    theirs = generate_with_diffusers(
        Path(output.path("decoder/pipeline")), conditional, unconditional, side=SIDE, num_steps=3
    )
    ours = decoder.sample(embeddings, [3], DecoderSampling(num_steps=3, guidance_scale=2.0), text)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_another_training_begins_as_the_trained_decoder(
    kind: str, trained: Output, inputs: dict[str, Artifact]
) -> None:
    for address in (trained.path("decoder"), trained.uri):
        settings = config(kind, init_from=address)
        check(settings)
        task = task_of(settings, inputs)
        own, kept = task.decoder_of(task.build_model()).state_dict(), load_decoder(trained)[0].state_dict()
        assert own.keys() == kept.keys()
        assert all(torch.equal(own[name], kept[name]) for name in kept)
        assert settings.lineage == {"init_from": address}
    assert settings.identity()["init_from"]
    assert "init_from" not in config(kind).identity()


def test_weights_that_do_not_fit_are_named_with_both_shapes(
    kind: str, trained: Output, inputs: dict[str, Artifact]
) -> None:
    settings = config(kind, init_from=trained.path("decoder"), **OTHER[kind])
    with pytest.raises(InputFault, match=r"train_decoder\.init_from: .* is (\[|no such).* there, and here "):
        task_of(settings, inputs).build_model()


def test_texts_are_tuned_on_a_trained_decoder_alone(kind: str) -> None:
    with pytest.raises(ValidationError, match="text is given without init_from"):
        config(kind, text={"text_dropout": 0.1})


class CountedFiles(Artifact):
    """Counts how often each file is opened."""

    @cached_property
    def opened(self) -> Counter[str]:
        return Counter()

    def local(self, name: str, *, record: str | None = None, may_sample: bool = True) -> Path:
        self.opened[name] += 1
        return super().local(name, record=record, may_sample=may_sample)


def test_setup_reads_each_of_many_shards_a_few_times(tmp_path: Path) -> None:
    """There are more shards than those whose captions are kept in memory."""
    sizes = [2] * (KEPT_SHARDS + 6)
    embedded = make_embeddings(tmp_path / "e", sizes=sizes)
    counted = CountedFiles(embedded.uri, embedded.stage, embedded.fingerprint)
    inputs = {"download_shards": make_shards(tmp_path / "s", sizes=sizes), "embed_clip": counted}
    settings = config("pixel", text={"text_dropout": 0.1}, init_from=str(tmp_path / "decoder"))
    task = task_of(settings, inputs)
    assert task.sizes() == [1] * len(sizes)  # every other image has a caption
    assert {name for name in counted.opened if name.startswith("metadata/")} == {
        f"metadata/metadata_{shard:05d}.parquet" for shard in range(len(sizes))
    }
    assert max(counted.opened.values()) <= 3
