"""Images of several aspect ratios, by every surface of a finished model: Python, the command line, the server."""

import json
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from models.decoders.buckets import DecoderBuckets
from models.decoders.sampling import DecoderSampling
from models.priors.spec import PriorSampling
from pipeline import TextToImage
from pipeline.cli import app
from pipeline.errors import UsageError
from pipeline.serve.app import AppMaker
from pipeline.serve.limits import Limits
from pipeline.serve.model import Made, ModelSource, Wanted
from stages.inference.sampling import SamplingSettings
from tests.factories import save_image, save_tiny_bundle

SIZES = ["48x80", "64x64", "80x48"]
BATCH = 2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = SamplingSettings(PriorSampling(num_steps=1), DecoderSampling(num_steps=1))
    decoder = {"resolution": 64, "buckets": DecoderBuckets(step=16, size_conditioning=True)}
    return save_tiny_bundle(tmp_path_factory.mktemp("made"), settings, of_decoder=decoder)


def test_in_python(bundle: Path, tmp_path: Path) -> None:
    model = TextToImage.load(bundle, device="cpu")
    assert model.sizes == SIZES
    assert model.generate("a red star")[0].size == (64, 64)
    assert model.generate("a red star", size="80x48")[0].size == (80, 48)
    source = save_image(tmp_path / "a.png", size=(50, 90))
    assert model.vary(source, size="48x80")[0].size == (48, 80)
    assert model.edit(source, "a blue ring", size="48x80", strength=0.0).size == (48, 80)
    with pytest.raises(UsageError, match=r"found 96x64: allowed are .*: 48x80, 64x64, 80x48"):
        model.generate("a red star", size="96x64")


def test_on_the_command_line(bundle: Path, tmp_path: Path) -> None:
    store = ["--store", str(tmp_path / "store")]
    asked = ["generate", str(bundle), "--prompt", "a red star", "--out", str(tmp_path / "out"), *store]
    made = CliRunner().invoke(app, [*asked, "--size", "80x48", "--json"])
    assert made.exit_code == 0, made.output
    (path,) = [entry["path"] for entry in json.loads(made.stdout)["images"]]
    with Image.open(path) as opened:
        assert opened.size == (80, 48)
    again = ["generate", str(bundle), "--again", path, "--out", str(tmp_path / "again"), "--json", *store]
    (entry,) = json.loads(CliRunner().invoke(app, again).stdout)["images"]
    assert entry["pixel_equal"]
    refused = CliRunner().invoke(app, [*asked, "--size", "96x64"])
    assert isinstance(refused.exception, UsageError | SystemExit)
    assert "--size: found 96x64: allowed are" in refused.output + str(refused.exception)


def test_a_servers_batch_of_several_sizes_gives_each_as_if_alone(bundle: Path) -> None:
    compute = ModelSource("nowhere", str(bundle), BATCH)()
    wanted = [Wanted("a", 1, "80x48"), Wanted("a", 1), Wanted("b", 2, "80x48")][:BATCH]
    together = compute(wanted)
    assert [one.image.shape for one in together] == [(48, 80, 3), (64, 64, 3)]
    assert [one.settings.get("decoder_size") for one in together] == ["80x48", None]
    for one, request in zip(together, wanted, strict=True):
        assert np.array_equal(one.image, compute([request])[0].image)


class Recorder:
    """A backend whose images are white, of the wanted size."""

    async def is_ready(self) -> bool:
        return True

    async def compute(self, wanted: Wanted) -> Made:
        width, height = map(int, (wanted.size or "64x64").split("x"))
        return Made(np.full((height, width, 3), 255, np.uint8), "tiny-1", {})


def test_a_request_may_ask_for_the_models_sizes_alone() -> None:
    client = TestClient(AppMaker("tiny-1", Limits(), tuple(SIZES))(Recorder()))  # type: ignore[arg-type]
    assert client.get("/about").json()["sizes"] == SIZES
    assert client.post("/generate", json={"prompt": "a", "size": "80x48"}).status_code == 200
    refused = client.post("/generate", json={"prompt": "a", "size": "96x64"})
    assert refused.status_code == 422
    assert "'48x80', '64x64' or '80x48'" in refused.json()["detail"]
    alike = TestClient(AppMaker("tiny-1", Limits(), ())(Recorder()))  # type: ignore[arg-type]
    assert alike.post("/generate", json={"prompt": "a", "size": "64x64"}).status_code == 422
    assert alike.post("/generate", json={"prompt": "a"}).status_code == 200
