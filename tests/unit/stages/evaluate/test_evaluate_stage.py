import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook

from cluster.item_progress import begin_item, samples_of_item
from cluster.mapping import Growing, Items, MakeWorker, WorkerResources, map_in_process
from models.scenes.render import render_scenes
from models.scenes.scene import Scene
from models.scenes.vocabulary import SHAPES
from models.similarity import block_cosine, frechet_distance
from stages.contract.errors import InputFault
from stages.contract.events import Event, LoggedImage, Progress
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, FolderClip
from stages.evaluate.check import check
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.reduction import mean_figures
from stages.evaluate.results import Results
from stages.evaluate.stage import run
from stages.storage.artifact import Output
from tests.factories import make_context, save_tiny_clip
from tests.unit.stages.evaluate.evaluated import (
    NUM,
    SCENES,
    MakeImages,
    evaluate,
    generated,
    make_config,
    noise,
    true_images,
)


def test_true_renders_are_all_right_and_noise_is_near_chance(clip: ClipConfig, tmp_path: Path) -> None:
    sets: dict[str, Callable[[list[Scene]], np.ndarray]] = {
        "prior": true_images, "text_embedding": noise, "reconstruction": true_images,
    }  # fmt: skip
    events: list[Event] = []
    summary = evaluate(tmp_path / "e", clip, generated(tmp_path / "g", sets, clip), events)
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
    assert document["num_images"] == {"prior": NUM, "text_embedding": NUM, "reconstruction": NUM}
    assert document["clip_score_models"]["conditioning"] == [clip.models[0].reference]
    assert [event.name for event in events if isinstance(event, LoggedImage)] == ["confusion"]
    with Image.open(tmp_path / "e" / "confusion.png") as plot:
        assert plot.width > 800


def test_perfect_embeddings_have_cosine_one(clip: ClipConfig, tmp_path: Path) -> None:
    metrics = evaluate(tmp_path / "e", clip, generated(tmp_path / "g", {"prior": true_images}, clip)).metrics
    assert metrics["cosine/true"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["cosine/image_true"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["cosine/unrelated"] < metrics["cosine/true"]
    assert metrics["embedding/norm_ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["embedding/retrieval_at_1"] == 1.0


def test_images_of_one_prompt_are_no_unrelated_ones(clip: ClipConfig, tmp_path: Path) -> None:
    prompts = ["a", "b", "a", "a", "c", "b", "", ""]  # nobody knows whether those without a text are of one
    source = generated(tmp_path / "g", {"prior": true_images}, clip, num=8, prompts=prompts)
    found = evaluate(tmp_path / "e", clip, source)
    true = ClipEncoder(clip).encode_images(render_scenes(SCENES[:8], 64)).double()
    cosines = torch.stack([block_cosine(row.expand_as(true), true, [true.shape[1]]) for row in true])
    own = torch.tensor([[one == other != "" for other in prompts] for one in prompts]) | torch.eye(8, dtype=torch.bool)
    expected = float(torch.stack([row[~related].mean() for row, related in zip(cosines, own, strict=True)]).mean())
    for name, other in (("cosine/unrelated", "cosine/true"), ("cosine/image_unrelated", "cosine/image_true")):
        assert found.metrics[name] == pytest.approx(expected, abs=1e-6)
        protocols = [found.protocols[found.measures[one].protocol] for one in (name, other)]
        assert protocols[0] == {**protocols[1], "unrelated": "of another caption and image"}
    same = generated(tmp_path / "one", {"prior": true_images}, clip, num=8, prompts=["a"] * 8)
    assert not [name for name in evaluate(tmp_path / "f", clip, same).metrics if name.startswith("cosine/unrelated")]


def test_what_several_workers_measured_is_what_one_does(clip: ClipConfig, tmp_path: Path) -> None:
    source = generated(tmp_path / "g", {"prior": noise, "reconstruction": true_images}, clip)
    one = evaluate(tmp_path / "one", clip, source)
    output = Output(str(tmp_path / "two"), "evaluate", "e")
    context = dataclasses.replace(make_context(), map_shards=the_last_units_first)
    two = run(make_config(clip), {"generate": source}, output, context)
    assert dict(two.metrics) == pytest.approx(dict(one.metrics), rel=1e-9, abs=1e-12)
    assert two.measures.keys() == one.measures.keys()
    assert two.protocols == one.protocols


def the_last_units_first(make_worker: MakeWorker, items: Items, resources: WorkerResources) -> Iterator[Any]:
    """Map as two workers may, each with networks of its own."""
    assert not isinstance(items, Growing)
    for part in (items[2:], items[:2]):
        yield from map_in_process(make_worker, part[::-1], resources)


def test_a_figure_that_is_no_finite_number_costs_itself(clip: ClipConfig, tmp_path: Path) -> None:
    def alike(scenes: list[Scene]) -> np.ndarray:
        return np.repeat(true_images(scenes[:1]), len(scenes), axis=0)

    prompts = [f"prompt {number}" for number in range(8)]
    source = generated(
        tmp_path / "g", {"prior": noise}, clip, num=8, with_scenes=False, photographs=alike, prompts=prompts
    )
    summary = evaluate(tmp_path / "e", clip, source)
    missing = [name for name, note in summary.notes.items() if "no finite number" in note]
    assert missing
    assert not set(missing) & set(summary.metrics)
    assert "cosine/image_true" in summary.metrics
    assert json.loads((tmp_path / "e/metrics.json").read_text())


def test_a_mean_of_zeros_that_is_no_fraction_has_no_interval(tmp_path: Path) -> None:
    results = Results()
    results.add(mean_figures({"clip_score/conditioning": np.zeros(3)}, seed=0), {})
    assert results.measures["clip_score/conditioning"].high is None
    results.add(mean_figures({"accuracy/both": np.zeros(3)}, seed=0, are_fractions=True), {})
    assert results.measures["accuracy/both"].high == pytest.approx(0.561, abs=1e-3)


def test_figures_of_all_pairs_are_of_two_images_at_least(clip: ClipConfig) -> None:
    with pytest.raises(ValueError, match="pairwise_images"):
        make_config(clip, pairwise_images=1)


def test_figures_have_intervals_numbers_and_protocols(clip: ClipConfig, tmp_path: Path) -> None:
    source = generated(tmp_path / "g", {"prior": noise, "reconstruction": true_images}, clip)
    all_pairs = evaluate(tmp_path / "all", clip, source)
    some_pairs = evaluate(tmp_path / "some", clip, source, pairwise_images=40)
    measures = all_pairs.measures
    assert set(all_pairs.metrics) - set(measures) == {f"chance/{name}" for name in ("color", "shape", "both")}
    for name, measure in measures.items():
        assert all_pairs.metrics[name] == measure.value
        assert measure.protocol in all_pairs.protocols
        if "unrelated" not in name and measure.low is not None and measure.high is not None:
            assert measure.low <= measure.value <= measure.high, name
    assert measures["reconstruction/frechet_distance"].value < 1e-3 < measures["frechet_distance"].low
    assert measures["coverage"].value < measures["reconstruction/coverage"].value == 1
    assert measures["cmmd"].value > measures["reconstruction/cmmd"].value
    protocol = all_pairs.protocols[measures["frechet_distance"].protocol]
    assert set(protocol) == {
        "set", "prompts", "seed", "features", "weights", "resize", "true_images", "num_true", "images",
    }  # fmt: skip
    numbers = [some_pairs.measures[name].n for name in ("frechet_distance", "kernel_distance", "cosine/true")]
    assert numbers == [96, 40, 40]
    assert some_pairs.metrics["frechet_distance"] == all_pairs.metrics["frechet_distance"]


@pytest.mark.parametrize("fewer", ["true", "generated"])
def test_figures_of_other_numbers_of_images_are_not_compared(clip: ClipConfig, tmp_path: Path, fewer: str) -> None:
    num, num_true = (20, 12) if fewer == "true" else (12, 20)
    source, folder = generated(tmp_path / "g", {"prior": noise}, clip, num=num), tmp_path / "real"
    folder.mkdir()
    for number, image in enumerate(true_images(SCENES[:num_true])):
        Image.fromarray(image).save(folder / f"{number:02d}.png")
    one, other = (
        evaluate(tmp_path / str(most), clip, source, real=folder, pairwise_images=most).measures for most in (20, 15)
    )
    for name in ("kernel_distance", "cmmd", "precision", "recall", "density", "coverage"):
        assert one[name].protocol != other[name].protocol, name
    assert one["frechet_distance"].protocol == other["frechet_distance"].protocol, "which is of all images"


def test_figures_are_compared_where_the_true_images_are_the_same(clip: ClipConfig, tmp_path: Path) -> None:
    def protocols(name: str, make: MakeImages, unit_images: int = 64, **fields: Any) -> list[str]:
        source = generated(
            tmp_path / name, {"prior": noise}, clip, with_scenes=False, photographs=make, unit_images=unit_images
        )
        found = evaluate(tmp_path / f"{name}-evaluated", clip, source, **fields)
        return [found.measures[figure].protocol for figure in ("frechet_distance", "cmmd", "cosine/image_true")]

    one, same = protocols("one", true_images), protocols("same", true_images, unit_images=32)
    assert one == same  # however the images are cut into units
    for name, others in (
        ("other", lambda scenes: true_images(scenes)[::-1].copy()),
        ("smaller", lambda scenes: render_scenes(scenes, 32).numpy()),
    ):
        assert not set(protocols(name, others)) & set(one), "the same captions, of other images"

    folder = tmp_path / "real"
    folder.mkdir()
    for number, image in enumerate(true_images(SCENES)[:4]):
        Image.fromarray(image).save(folder / f"{number}.png")
    real = protocols("unchanged", true_images, real=folder)
    assert real[2] == one[2], "pairs are of the images that the prompts describe"
    Image.fromarray(noise(SCENES)[0]).save(folder / "3.png")
    assert not set(protocols("changed", true_images, real=folder)[:2]) & set(real)


def test_a_unit_is_noted_as_it_is_worked_on(clip: ClipConfig, tmp_path: Path) -> None:
    source = generated(tmp_path / "g", {"prior": noise}, clip, num=64)
    (tmp_path / "real").mkdir()
    for number, image in enumerate(true_images(SCENES)):
        Image.fromarray(image).save(tmp_path / "real" / f"{number}.png")
    sets: dict[str, dict[str, Any]] = {"described": {}, "folder": {"real": tmp_path / "real"}}
    for name, fields in sets.items():
        begin_item()
        noted: set[int] = set()
        seen = register_module_forward_pre_hook(lambda module, inputs, noted=noted: noted.add(samples_of_item()))
        try:
            evaluate(tmp_path / name, clip, source, batch_size=4, **fields)
        finally:
            seen.remove()
        noted.add(samples_of_item())
        assert max(noted) == (NUM if fields else 64)
        assert noted >= set(range(0, max(noted), 4))


def test_the_figures_are_reported_as_they_are_made(clip: ClipConfig, tmp_path: Path) -> None:
    sets: dict[str, MakeImages] = {"prior": noise, "text_embedding": noise}
    for name, num, with_scenes in (("many", NUM, True), ("few", 5, True), ("no truth", 5, False), ("one", 1, True)):
        source = generated(tmp_path / name, sets, clip, num=num, with_scenes=with_scenes)
        events: list[Event] = []
        evaluate(tmp_path / f"{name}-evaluated", clip, source, events)
        steps = [event for event in events if isinstance(event, Progress) and event.unit == "steps of the figures"]
        assert [event.done for event in steps] == list(range(1, steps[0].total + 1)), name
        assert len(steps) == {"many": 43, "few": 13, "no truth": 2, "one": 2}[name]


def test_scores_of_categories_are_those_of_their_images(clip: ClipConfig, tmp_path: Path) -> None:
    source = generated(
        tmp_path / "g", {"prior": true_images}, clip, with_scenes=False, categories=lambda scene: scene.color
    )
    summary = evaluate(tmp_path / "e", clip, source)
    names = [f"clip_score/conditioning/Category/{color}" for color in sorted({scene.color for scene in SCENES})]
    found = {name: measure for name, measure in summary.measures.items() if "Category" in name}
    assert sorted(found) == names
    assert sum(measure.n for measure in found.values()) == NUM
    mean = sum(measure.n * measure.value for measure in found.values()) / NUM
    assert mean == pytest.approx(summary.metrics["clip_score/conditioning"])
    assert len({measure.protocol for measure in found.values()}) == len(found)


def test_no_category_hides_another(clip: ClipConfig, tmp_path: Path) -> None:
    names = dict(zip(SHAPES, ("动物", "食物", "A/B", "A&B", "x", "y"), strict=True))
    source = generated(tmp_path / "g", {"prior": true_images}, clip, categories=lambda scene: names[scene.shape])
    summary = evaluate(tmp_path / "e", clip, source)
    found = [measure for name, measure in summary.measures.items() if "Category" in name]
    assert sum(measure.n for measure in found) == NUM
    shown = {summary.protocols[measure.protocol]["category"] for measure in found}
    assert shown == {f"Category/{name}" for name in names.values()}


def test_images_of_no_prompt_get_no_clip_score(clip: ClipConfig, tmp_path: Path) -> None:
    source = generated(tmp_path / "g", {"unconditional": true_images}, clip, with_scenes=False)
    summary = evaluate(tmp_path / "e", clip, source, independent_clip=clip)
    assert summary.metrics == {}
    assert summary.notes["clip_score/conditioning"] == "the images were generated from no prompts"
    assert summary.notes["clip_score/independent"] == "the images were generated from no prompts"


def test_the_distance_of_embeddings_is_that_of_all_of_them(clip: ClipConfig, tmp_path: Path) -> None:
    source = generated(tmp_path / "g", {"prior": true_images}, clip, shift=2.0)
    found = evaluate(tmp_path / "e", clip, source, pairwise_images=40).measures
    dims = ClipEncoder(clip).embed_dim
    assert found["embedding/frechet_distance"].value == pytest.approx(4 * dims, rel=1e-3)  # the means alone differ
    assert found["embedding/frechet_distance"].n == NUM
    assert found["embedding/frechet_distance/true_halves"].value > 0


def test_distances_are_of_features_that_conditioned_nothing_unless_others_are_named(
    clip: ClipConfig, tmp_path: Path
) -> None:
    source = generated(tmp_path / "g", {"prior": noise}, clip, num=4)
    output = Output(str(tmp_path / "e"), "evaluate", "e")
    found = run(EvaluateConfig(clip=clip), {"generate": source}, output, make_context())
    assert found.notes["frechet_distance"] == "EfficientNet-Lite0 (ImageNet), 4 images, 4 true ones"
    assert found.protocols[found.measures["cmmd"].protocol]["features"].startswith("CLIP")


def test_features_may_be_those_of_any_clip(clip: ClipConfig, tmp_path: Path) -> None:
    other = ClipConfig(models=(FolderClip(kind="folder", path=save_tiny_clip(tmp_path / "other", seed=5)),))
    source = generated(tmp_path / "g", {"prior": noise}, clip, num=8)
    found = evaluate(tmp_path / "e", clip, source, features={"kind": "clip", "clip": other})
    of_other, of_own = (ClipEncoder(one).identities.models[0].digest for one in (other, clip))
    for figure, weights in (("frechet_distance", of_other), ("cmmd", of_other), ("cosine/image_true", of_own)):
        assert found.protocols[found.measures[figure].protocol]["weights"] == weights, figure
    encoder = ClipEncoder(other)
    expected = frechet_distance(
        encoder.encode_images(noise(SCENES[:8])), encoder.encode_images(true_images(SCENES[:8]))
    )
    assert found.metrics["frechet_distance"] == pytest.approx(float(expected), rel=1e-3)


def test_prompts_without_scenes_get_the_clip_score_alone(clip: ClipConfig, tmp_path: Path) -> None:
    source = generated(tmp_path / "g", {"prior": true_images}, clip, with_scenes=False)
    other = ClipConfig(models=(FolderClip(kind="folder", path=save_tiny_clip(tmp_path / "other", seed=5)),))
    metrics = evaluate(tmp_path / "e", clip, source, independent_clip=other).metrics
    assert set(metrics) == {"clip_score/conditioning", "clip_score/independent"}  # no Fréchet distance: nothing is true
    assert metrics["clip_score/conditioning"] != metrics["clip_score/independent"]
    assert all(0 <= value <= 100 for value in metrics.values())


def test_the_distance_to_true_images_is_small_for_true_ones_and_names_its_features(
    clip: ClipConfig, tmp_path: Path
) -> None:
    near, far = (
        evaluate(tmp_path / f"e-{name}", clip, generated(tmp_path / f"g-{name}", {"prior": make}, clip))
        for name, make in (("true", true_images), ("noise", noise))
    )
    assert near.metrics["frechet_distance"] == pytest.approx(0, abs=1e-3)
    assert far.metrics["frechet_distance"] > 0.1
    assert abs(near.metrics["kernel_distance"]) < 0.1 * far.metrics["kernel_distance"]
    assert far.metrics["frechet_distance/true_halves"] == near.metrics["frechet_distance/true_halves"] > 0
    encoder = ClipEncoder(clip)
    expected = frechet_distance(encoder.encode_images(noise(SCENES)), encoder.encode_images(true_images(SCENES)))
    assert far.metrics["frechet_distance"] == pytest.approx(float(expected), rel=1e-3)
    name = f"CLIP {Path(clip.models[0].reference).name} ({encoder.identities.models[0].digest[:8]})"
    assert far.notes == {"frechet_distance": f"{name}, {NUM} images, {NUM} true ones", "clip_score/conditioning": name}
    assert json.loads((tmp_path / "e-noise/metrics.json").read_text())["notes"] == far.notes


def test_without_scenes_the_distance_needs_a_folder_of_true_images(clip: ClipConfig, tmp_path: Path) -> None:
    source = generated(tmp_path / "g", {"prior": true_images}, clip, with_scenes=False)
    without = evaluate(tmp_path / "e", clip, source)
    assert "frechet_distance" not in without.metrics
    assert without.notes["frechet_distance"] == "the prompts have no true images: set evaluate.real"
    for number, image in enumerate(true_images(SCENES)):
        path = tmp_path / "real/deep" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    near = evaluate(tmp_path / "e-real", clip, source, real=tmp_path / "real", batch_size=40)
    assert near.metrics["frechet_distance"] == pytest.approx(0, abs=1e-3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputFault, match=r"evaluate\.real: .* holds 0 images"):
        evaluate(tmp_path / "e-empty", clip, source, real=tmp_path / "empty")


def test_what_the_distance_needs_is_looked_for_before_anything_starts(clip: ClipConfig, tmp_path: Path) -> None:
    weights = {"kind": "inception", "path": tmp_path / "none.pth"}
    for fields, fault in (
        ({"features": weights}, r"evaluate\.features\.path: there is no file"),
        ({"real": tmp_path / "nowhere"}, r"evaluate\.real: there is no folder"),
    ):
        with pytest.raises(InputFault, match=fault):
            check(EvaluateConfig.model_validate({"clip": clip, **fields}))


def test_a_file_that_holds_no_inception_is_reported(clip: ClipConfig, tmp_path: Path) -> None:
    source = generated(tmp_path / "g", {"prior": true_images}, clip)
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    features = {"kind": "inception", "path": tmp_path / "weights.pth"}
    with pytest.raises(InputFault, match=r"evaluate\.features\.path: .*weights\.pth cannot be used"):
        evaluate(tmp_path / "e", clip, source, features=features)
