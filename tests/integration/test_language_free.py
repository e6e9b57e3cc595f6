"""Language-free for real: every caption of the target set is poisoned, and nothing that is made of it changes a bit."""

import importlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from models.scenes.render import render_scenes
from models.scenes.scene import make_scenes
from pipeline.config.loading import load_config
from pipeline.config.schema import RunConfig
from stages.contract.documents import Manifest
from stages.contract.runner import run_stage
from stages.formats.shards import read_shard
from stages.formats.training_logs import TRAINING_LOG
from stages.storage.artifact import Artifact, Output
from tests.factories import folder_digests, save_tiny_prior
from tests.unit.stages.encoded import context

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RATES = ("samples_per_second", "data_wait_fraction", "cpu_utilisation")  # how fast it went is not what came of it
NUM = 20
TINY = (
    "train_decoder.generator.channels=[16,16]", "train_decoder.discriminator.channels=[16,16,16]",
    "train_decoder.losses.embedding_noise=3.0", "train_decoder.samples.num_images=2",
    "train_decoder.training.num_steps=3", "train_decoder.training.batch_size=4",
    "train_decoder.training.warmup_steps=1", "train_decoder.training.validation_interval=null",
    "generate.prompts.num=3", "generate.prior.num_steps=2",
)  # fmt: skip


def plain_captions() -> list[str]:
    return [f"a small blue ring number {number}" for number in range(NUM)]


def poisoned_captions() -> list[str]:
    """Return other texts for all; among them a NUL, emoji, 100 KB, markup, and none at all."""
    odd = ["\0\0 a NUL", "\N{SKULL} \N{PILE OF POO} emoji", "poison " * 15_000, "<script>'; DROP TABLE", "", "  \n "]
    return [*odd, *(f"poison {number}: everything is a lie" for number in range(NUM - len(odd)))]


def make_set(folder: Path, captions: Sequence[str]) -> Path:
    """Write the target set as webdataset shards: the same images, whatever the captions."""
    folder.mkdir(parents=True)
    images = render_scenes(make_scenes(NUM, 5, "night", "train"), 64).numpy()
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for row in range(shard, NUM, 2):
                buffer = io.BytesIO()
                Image.fromarray(images[row]).save(buffer, "PNG")
                for suffix, content in (("png", buffer.getvalue()), ("txt", captions[row].encode())):
                    member = tarfile.TarInfo(f"{row:05d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def experiment(source: Path, *overrides: str) -> RunConfig:
    words = [f"download_shards.source={{kind: webdataset, path: {source}}}", *TINY, *overrides]
    return load_config(CONFIGS / "language_free_stylegan2.yaml", words)


def run_graph(config: RunConfig, folder: Path, prior: Artifact, last: str = "evaluate") -> dict[str, Any]:
    """Run every stage of the experiment up to the last in this process; the prior is another run's."""
    made: dict[str, Artifact] = {"train_prior": prior}
    for name, section in config.stages().items():
        if last in made:
            break
        stage = importlib.import_module(f"stages.{name}.stage")
        output = Output(str(folder / name), name, f"the-{name}")
        inputs = {source: made[source] for source in config.inputs_of(section)}
        run_stage(stage.run, section, inputs=inputs, output=output, context=context())
        made[name] = output
    return made


def what_came_of(artifact: Artifact) -> dict[str, Any]:
    """Return the digest of every file, but for what tells seconds, of which the metrics without rates are returned."""
    metrics = {name: value for name, value in Manifest.of(artifact).summary.metrics.items() if name not in RATES}
    metrics.pop("decoder/images_per_second", None)
    digests = folder_digests(Path(artifact.uri))
    timed = ("manifest.json", "units/", "timing/", TRAINING_LOG)
    units = {path.name: without_origin(path) for path in Path(artifact.uri, "units").glob("*0*.json")}
    return {"metrics": metrics, "units": units} | {n: d for n, d in digests.items() if not n.startswith(timed)}


def without_origin(record: Path) -> dict[str, Any]:
    """Return a unit's record, but for which shard it was made from: a shard's content is that of its captions, too."""
    found: dict[str, Any] = json.loads(record.read_text())
    found.pop("made_from", None)
    return found | {"seal": found["seal"]["files"]}


def captions_in(artifact: Artifact) -> list[tuple[str, ...]]:
    return [sample.captions for name in artifact.glob("shards/*.tar") for sample in read_shard(artifact.local(name))]


def images_in(artifact: Artifact) -> list[bytes | None]:
    return [sample.image for name in artifact.glob("shards/*.tar") for sample in read_shard(artifact.local(name))]


def test_poisoned_captions_change_nothing(tmp_path: Path) -> None:
    prior = save_tiny_prior(tmp_path / "prior", CONFIGS / "assets/tiny_clip")
    runs = []
    for name, captions in (("plain", plain_captions()), ("poisoned", poisoned_captions())):
        config = experiment(make_set(tmp_path / name / "set", captions))
        assert "train_prior" in config.reuse
        runs.append(run_graph(config, tmp_path / name, prior))
    plain, poisoned = runs
    captions_read, poison = (captions_in(run["download_shards"]) for run in runs)
    assert all(one != other for one, other in zip(captions_read, poison, strict=True))  # the poison is in the shards
    assert images_in(plain["download_shards"]) == images_in(poisoned["download_shards"])
    assert set(plain) == {"train_prior", "download_shards", "embed_clip", "train_decoder", "generate", "evaluate"}
    for name in ("embed_clip", "train_decoder", "generate", "evaluate"):
        assert what_came_of(plain[name]) == what_came_of(poisoned[name]), name
    assert Manifest.of(plain["embed_clip"]).summary.counts == {"captioned": 0, "images": NUM}


def test_the_poison_shows_where_captions_are_read(tmp_path: Path) -> None:
    """Without `texts: false` the same comparison fails, so it would see a stage that reads captions."""
    runs = []
    for name, captions in (("plain", plain_captions()), ("poisoned", poisoned_captions())):
        config = experiment(make_set(tmp_path / name / "set", captions), "embed_clip.texts=true")
        runs.append(run_graph(config, tmp_path / name, Artifact("", "train_prior", ""), last="embed_clip"))
    plain, poisoned = (what_came_of(run["embed_clip"]) for run in runs)
    changed = {name.partition("/")[0] for name in plain if plain[name] != poisoned.get(name)}
    assert {"text_emb", "metadata"} <= changed
    assert "img_emb" not in changed


def test_texts_are_left_out_of_the_identity_only_where_there_are_none() -> None:
    free, semi = load_config(CONFIGS / "language_free.yaml"), load_config(CONFIGS / "quickstart.yaml")
    assert free.embed_clip is not None
    assert semi.embed_clip is not None
    assert free.embed_clip.identity()["texts"] is False
    assert "texts" not in semi.embed_clip.identity()
