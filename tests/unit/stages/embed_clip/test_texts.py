"""Captions in embed_clip: several of an image, and the token states of text encoders; on to a prior that reads them."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from models.priors.diffusion.spec import DiffusionPriorSpec, GaussianPriorSpec
from models.priors.spec import PriorSampling, TextStateSpec, TransformerSpec
from models.priors.text import TextFeatures
from models.priors.training import training_batch, training_random_inputs
from stages.contract.errors import ArtifactError, InputFault
from stages.embed_clip.check import check
from stages.embed_clip.config import EmbedClipConfig
from stages.embed_clip.stage import run
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import TextStatesConfig
from stages.encoders.text import make_text_encoder
from stages.formats.clips import read_clips
from stages.formats.embeddings.layout import read_text_encoders
from stages.formats.embeddings.reader import open_text_states
from stages.storage.artifact import Artifact, Output
from stages.train_prior.data import Pairs, load_pairs
from tests.factories import WORDS, folder_digests, interrupt_after, make_context, save_tiny_clip, save_tiny_t5
from tests.unit.stages.train_prior.pieces import prior_config

CAPTIONS: list[list[str]] = [
    ["a red star", "a small red star at the top left", "star"],
    [],
    ["blue ring"],
    ["", "  ", "a green cross", "green cross"],
    ["   "],
]
MANY = [[" ".join(words), words[0]] for words in zip(*[iter(WORDS.split())] * 2, strict=False)]


def write_shard(folder: Path, name: str, captions: list[list[str]]) -> None:
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / f"shards/{name}.tar", "w") as tar:
        for row, texts in enumerate(captions):
            buffer = io.BytesIO()
            Image.new("RGB", (32, 32), (row * 20 % 256, 90, int(name) * 60)).save(buffer, "PNG")
            members = {"png": buffer.getvalue(), "json": json.dumps({"captions": texts}).encode()}
            if texts:
                members["txt"] = texts[0].encode()
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{name}{row:04d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    Output(str(folder), "download_shards", "s").finish_unit(name, {})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {"clip": save_tiny_clip(root / "clip"), "t5": save_tiny_t5(root / "t5")}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for number, captions in enumerate((CAPTIONS, MANY, [["a teal square"], []])):
        write_shard(folder, f"{number:05d}", captions)
    return folder


def section(models: dict[str, Path], **fields: Any) -> EmbedClipConfig:
    clip = {"models": [{"kind": "folder", "path": models["clip"]}]}
    states = {"t5": {"path": models["t5"], "max_length": 6}, "clip": {"max_length": 5}}
    content = {"clip": clip, "storage": "float32", "batch_size": 3, "text_states": states} | fields
    return EmbedClipConfig.model_validate(content)


def embed(config: EmbedClipConfig, shards: Path, folder: Path, context: Any = None) -> tuple[Output, Any]:
    output = Output(str(folder), "embed_clip", "e")
    inputs = {"download_shards": Artifact(str(shards), "download_shards", "s")}
    return output, run(config, inputs, output, context or make_context())


@pytest.fixture(scope="module")
def embedded(models: dict[str, Path], shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Output:
    return embed(section(models), shards, tmp_path_factory.mktemp("embedded"))[0]


def test_every_caption_has_its_embedding_and_its_states(embedded: Output, models: dict[str, Path]) -> None:
    config = section(models)
    encoder = make_text_encoder(ClipEncoder(config.clip), config.text_states, device="cpu")
    first = ["a red star", None, "blue ring", "a green cross", None]
    extra = ["a small red star at the top left", "star", "green cross"]
    metadata = pq.read_table(embedded.local("metadata/metadata_00000.parquet")).to_pydict()
    assert metadata["caption"] == first
    assert metadata["has_caption"] == [True, False, True, True, False]
    table = pq.read_table(embedded.local("extra_captions/extra_captions_00000.parquet")).to_pydict()
    assert (table["row"], table["caption"]) == ([0, 0, 3], extra)
    assert table["key"] == [metadata["key"][row] for row in table["row"]]
    text = np.load(embedded.local("text_emb/text_emb_00000.npy"))
    further = np.load(embedded.local("extra_text_emb/extra_text_emb_00000.npy"))
    for row, caption in enumerate([*first, *extra]):
        stored = np.concatenate([text, further])[row]
        expected = encoder.encode([caption or ""])
        if caption is None:
            assert np.isnan(stored).all()
        else:
            np.testing.assert_allclose(stored, expected.embedding[0].numpy(), rtol=1e-5, atol=1e-6)
        for name, width in (("t5", 12), ("clip", 32)):
            states = open_text_states(embedded, "00000", name, width=width).of(row)
            direct = expected.states[name][0].numpy() if caption else np.zeros((0, width))
            assert states.shape == direct.shape  # at their true length
            np.testing.assert_allclose(states, direct, rtol=1e-5, atol=1e-5)


def test_the_layout_without_states_and_with_one_caption_is_the_old_one(
    models: dict[str, Path], embedded: Output, tmp_path: Path
) -> None:
    write_shard(tmp_path / "shards", "00000", [texts[:1] for texts in CAPTIONS[:3]])
    output, summary = embed(section(models, text_states=None), tmp_path / "shards", tmp_path / "out")
    assert sorted(folder_digests(tmp_path / "out")) == [
        "clips.json",
        "img_emb/img_emb_00000.npy",
        "metadata/metadata_00000.parquet",
        "plan.json",
        "text_emb/text_emb_00000.npy",
        "units/00000.json",
    ]
    assert output.read_json("units/00000.json") == {"rows": 3, "captioned": 2, "failures": {}}
    assert summary.counts == {"images": 3, "captioned": 2}
    for kind in ("img_emb", "text_emb"):
        with_states = np.load(embedded.local(f"{kind}/{kind}_00000.npy"))
        assert np.array_equal(np.load(output.local(f"{kind}/{kind}_00000.npy")), with_states[:3], equal_nan=True)
    assert read_text_encoders(output) == {}


def test_a_killed_run_resumes_to_the_same_bytes(
    models: dict[str, Path], shards: Path, embedded: Output, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        embed(section(models), shards, tmp_path, make_context(map_shards=interrupt_after(1)))
    _, summary = embed(section(models), shards, tmp_path)
    assert folder_digests(tmp_path) == folder_digests(Path(embedded.uri))
    assert summary.counts["extra_captions"] == 3 + len(MANY)
    other = section({**models, "t5": save_tiny_t5(tmp_path / "other", seed=1)})
    Output(str(tmp_path), "embed_clip", "e").remove("units/00002.json")
    with pytest.raises(ArtifactError, match="the weights behind the name have changed"):
        embed(other, shards, tmp_path)


def test_half_precision_is_the_same_numbers_rounded(
    models: dict[str, Path], shards: Path, embedded: Output, tmp_path: Path
) -> None:
    output, _ = embed(section(models, storage="float16"), shards, tmp_path)
    for kind in ("t5_states", "clip_states", "extra_text_emb"):
        rounded = np.load(output.local(f"{kind}/{kind}_00001.npy"))
        assert np.array_equal(rounded, np.load(embedded.local(f"{kind}/{kind}_00001.npy")).astype(np.float16))


def test_states_too_large_for_the_storage_are_refused(models: dict[str, Path], shards: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    huge = save_tiny_t5(tmp_path / "t5")
    weights = load_file(huge / "model.safetensors")
    weights["encoder.final_layer_norm.weight"] *= 1e6
    save_file(weights, huge / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        InputFault, match=r"text states of t5 in shard 00000 do not fit into float16: .*storage: float32"
    ):
        embed(section({**models, "t5": huge}, storage="float16"), shards, tmp_path / "out")


def test_a_missing_encoder_is_reported_before_anything_starts(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=r"embed_clip\.text_states\.t5\.path: there is no folder"):
        check(section(models, text_states={"t5": {"path": tmp_path / "nowhere"}}))


def loss_of(prior: Any, image: torch.Tensor, text: TextFeatures) -> torch.Tensor:
    random_inputs = training_random_inputs(prior.spec, list(range(len(image))), text_dropout=0.0)
    loss: torch.Tensor = prior(training_batch(image, text, random_inputs))["loss"]
    return loss


def trained_a_little(pairs: Pairs, settings: DiffusionPriorSpec) -> Any:
    """Take some steps, because an untrained network answers with the mean whatever it reads."""
    torch.manual_seed(0)
    prior = settings.build()
    prior.measure(pairs.image, pairs.text)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    image, text = pairs.take(torch.arange(len(pairs)), torch.zeros(len(pairs)))
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(prior, image, text).mean().backward()
        optimizer.step()
    return prior.eval()


def test_from_captions_to_a_prior_that_reads_their_states(embedded: Output) -> None:
    names = ("t5", "clip")
    encoders = read_text_encoders(embedded)
    divided = load_pairs(prior_config("gaussian"), embedded, names)
    pairs, held_out = divided.train, divided.held_out
    assert [int(count) for count in pairs.starts.diff().unique()] == [1, 2]
    states = {name: TextStateSpec(encoders[name].width, encoders[name].max_length) for name in names}
    network = TransformerSpec(width=16, num_layers=1, num_heads=2, text_states=states)
    embed_dim = read_clips(embedded).embed_dim
    prior = trained_a_little(pairs, GaussianPriorSpec(embed_dim=embed_dim, network=network))
    image, text = held_out.take(torch.arange(len(held_out)), torch.full((len(held_out),), 0.9))
    loss, seeds, sampling = loss_of(prior, image, text), list(range(len(image))), PriorSampling(num_steps=3)
    generated = prior.sample(text, seeds, sampling)
    assert loss.isfinite().all()
    assert generated.isfinite().all()
    for name in names:  # each kind of states counts, in the loss and in sampling
        changed = dict(text.states)
        changed[name] = type(changed[name])(changed[name].values.flip(0).flip(2), changed[name].lengths)
        other = TextFeatures(text.embedding, changed)
        assert not torch.allclose(loss_of(prior, image, other), loss)
        assert not torch.allclose(prior.sample(other, seeds, sampling), generated)


def test_the_section_selects_the_states() -> None:
    assert TextStatesConfig.model_validate({"clip": True}).clip is not None
    assert TextStatesConfig.model_validate({"clip": False}).clip is None
