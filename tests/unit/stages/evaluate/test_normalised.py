"""Where models learned from embeddings of length 1, the true images' are brought to it before they are compared."""

import logging
from pathlib import Path

import pytest

from stages.contract.documents import Manifest
from stages.contract.stage import StageSummary
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, FolderClip
from stages.formats.model_folders import save_model
from stages.storage.artifact import COMPLETE, Artifact, Output
from tests.factories import save_tiny_clip
from tests.unit.stages.evaluate.evaluated import evaluate, generated, true_images

OF_LENGTHS = {
    "embedding/cosine_centred": 1, "embedding/norm_ratio": 1, "embedding/variance_ratio": 1,
    "embedding/frechet_distance": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ClipConfig:
    folder = tmp_path_factory.mktemp("clips")
    saved = (save_tiny_clip(folder / str(seed), seed=seed) for seed in (0, 1))
    return ClipConfig(models=tuple(FolderClip(kind="folder", path=path) for path in saved))


def protocol_of(summary: StageSummary, figure: str) -> dict[str, str]:
    return dict(summary.protocols[summary.measures[figure].protocol])


@pytest.mark.parametrize("num", [16, 64])
def test_a_perfect_prior_of_normalised_embeddings_is_perfect(clips: ClipConfig, tmp_path: Path, num: int) -> None:
    raw, normalised = (
        evaluate(
            tmp_path / f"e{of}",
            clips,
            generated(tmp_path / f"g{of}", {"prior": true_images}, clips, num=num, normalised=of),
        )
        for of in (False, True)
    )
    for name, expected in OF_LENGTHS.items():
        assert raw.metrics[name] == pytest.approx(expected, abs=1e-3), name
        assert normalised.metrics[name] == pytest.approx(expected, abs=1e-3), name
        assert "normalised" not in protocol_of(raw, name)
        assert protocol_of(normalised, name) == protocol_of(raw, name) | {"normalised": "yes"}
    same = ("cosine/true", "cosine/unrelated", "embedding/cmmd", "cosine/image_true", "clip_score/conditioning")
    for name in same:  # in which lengths do not count
        assert normalised.metrics[name] == pytest.approx(raw.metrics[name], abs=1e-4), name
    for name in ("embedding/cmmd", "cosine/image_true", "clip_score/conditioning", "cmmd", "frechet_distance"):
        assert normalised.measures[name].protocol == raw.measures[name].protocol, name


def of_earlier_version(store: Path, clips: ClipConfig) -> Artifact:
    """Images of a decoder of normalised embeddings, as generate left them before it noted the CLIP models."""
    source = generated(store / "artifacts/generate/g", {"prior": true_images}, clips, num=16, normalised=True)
    output = Output(source.uri, source.stage, source.fingerprint)
    Path(output.path("clips.json")).unlink()
    Manifest(
        stage="generate", fingerprint="g", code_version=5, config={}, inputs={"train_decoder": "d"},
        summary=StageSummary(items=16, item_name="images"),
    ).write(output)  # fmt: skip
    output.write_bytes(COMPLETE, b"")
    return Artifact(output.uri, output.stage, output.fingerprint)


def test_images_of_an_earlier_version_are_of_what_their_decoder_learned_from(
    clips: ClipConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = of_earlier_version(tmp_path, clips)
    with caplog.at_level(logging.WARNING):
        without = evaluate(tmp_path / "without", clips, source)
    assert "nothing says whether its embeddings were normalised" in caplog.text
    assert without.metrics["embedding/norm_ratio"] != pytest.approx(1, abs=0.1)
    assert "normalised" not in protocol_of(without, "embedding/norm_ratio")
    decoder = Output(str(tmp_path / "artifacts/train_decoder/d"), "train_decoder", "d")
    save_model(decoder, "decoder", {}, {"clip": ClipEncoder(clips).identities.with_normalised().to_json()})
    found = evaluate(tmp_path / "found", clips, source)
    assert found.metrics["embedding/norm_ratio"] == pytest.approx(1, abs=1e-3)
    assert protocol_of(found, "embedding/norm_ratio")["normalised"] == "yes"
