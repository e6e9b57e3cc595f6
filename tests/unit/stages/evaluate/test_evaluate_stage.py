import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.scenes import Scene, make_scenes, render_scenes
from stages.artifacts import Artifact, Output
from stages.contract import StageSummary
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, FolderClip
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.stage import run
from stages.events import Event, Picture
from stages.text_to_image import encode_png
from tests.factories import make_context, save_tiny_clip

NUM = 96
SCENES = make_scenes(NUM, split="heldout")
Draw = Callable[[list[Scene]], np.ndarray]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipConfig:
    folder = save_tiny_clip(tmp_path_factory.mktemp("clip"))
    return ClipConfig(models=(FolderClip(kind="folder", path=folder),))


def true_pictures(scenes: list[Scene]) -> np.ndarray:
    return render_scenes(scenes, 64).numpy()


def noise(scenes: list[Scene]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (len(scenes), 64, 64, 3), dtype=np.uint8)


def drawn(folder: Path, sets: dict[str, Draw], clip: ClipConfig, *, with_scenes: bool = True) -> Artifact:
    """An artifact as generate leaves it, with pictures of the test's choice and the true embeddings."""
    output = Output(str(folder), "generate", "g")
    rows = []
    for name, draw in sets.items():
        for index, (scene, picture) in enumerate(zip(SCENES, draw(SCENES), strict=True)):
            fields = dataclasses.asdict(scene) if with_scenes else None
            file = f"images/{name}/{index:05d}.png"
            prompt = f"a {scene.color} {scene.shape}"
            rows.append({"set": name, "index": index, "file": file, "prompt": prompt, "scene": fields})
            output.write_bytes(file, encode_png(picture, {"prompt": prompt}))
    output.write_bytes("samples.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    buffer = io.BytesIO()
    np.save(buffer, ClipEncoder(clip).encode_images(render_scenes(SCENES, 64)).numpy())
    output.write_bytes("embeddings/prior/000000.npy", buffer.getvalue())
    return output


def judge(
    folder: Path, clip: ClipConfig, source: Artifact, events: list[Event] | None = None, **fields: object
) -> StageSummary:
    output = Output(str(folder), "evaluate", "e")
    return run(
        EvaluateConfig.model_validate({"clip": clip, **fields}), {"generate": source}, output, make_context(events)
    )


def test_true_renders_are_all_right_and_noise_is_near_chance(clip: ClipConfig, tmp_path: Path) -> None:
    sets = {"prior": true_pictures, "text_embedding": noise, "reconstruction": true_pictures}
    events: list[Event] = []
    summary = judge(tmp_path / "e", clip, drawn(tmp_path / "g", sets, clip), events)
    metrics = summary.metrics
    assert summary.items == NUM
    for prefix in ("accuracy", "reconstruction"):
        assert [metrics[f"{prefix}/{name}"] for name in ("color", "shape", "both")] == [1.0, 1.0, 1.0]
    for prefix in ("control/text_embedding", "control/unrelated"):
        assert metrics[f"{prefix}/color"] < 0.3
        assert metrics[f"{prefix}/shape"] < 0.4
        assert metrics[f"{prefix}/both"] < 0.1
    assert metrics["chance/both"] == pytest.approx(1 / 48)
    assert metrics["control/unrelated/both"] == pytest.approx(metrics["chance/both"], abs=0.02)

    document = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert document["metrics"] == metrics
    assert document["num_pictures"] == {"prior": NUM, "text_embedding": NUM, "reconstruction": NUM}
    assert document["clip_score_models"]["conditioning"] == [clip.models[0].reference]
    assert [event.name for event in events if isinstance(event, Picture)] == ["confusion"]
    with Image.open(tmp_path / "e" / "confusion.png") as plot:
        assert plot.width > 800


def test_perfect_embeddings_have_cosine_one(clip: ClipConfig, tmp_path: Path) -> None:
    metrics = judge(tmp_path / "e", clip, drawn(tmp_path / "g", {"prior": true_pictures}, clip)).metrics
    assert metrics["cosine/true"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["cosine/picture_true"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["cosine/unrelated"] < metrics["cosine/true"]
    assert metrics["embedding/norm_ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["embedding/retrieval_at_1"] == 1.0


def test_prompts_without_scenes_get_the_clip_score_alone(clip: ClipConfig, tmp_path: Path) -> None:
    source = drawn(tmp_path / "g", {"prior": true_pictures}, clip, with_scenes=False)
    other = ClipConfig(models=(FolderClip(kind="folder", path=save_tiny_clip(tmp_path / "judge", seed=5)),))
    metrics = judge(tmp_path / "e", clip, source, judge=other).metrics
    assert set(metrics) == {"clip_score/conditioning", "clip_score/judge"}
    assert metrics["clip_score/conditioning"] != metrics["clip_score/judge"]
    assert all(0 <= value <= 100 for value in metrics.values())
