"""What `corgi inspect` shows of a store, with captions that would like to be more than text."""

import base64
import html.parser
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import UsageError
from pipeline.inspection.inspect import find_target, inspect
from pipeline.store import Store
from stages.contract.runner import run_stage
from stages.contract.stage import StageContext, StageSummary
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run as run_download
from stages.embed_clip.config import EmbedClipConfig
from stages.filter_samples.config import FilterSamplesConfig
from stages.filter_samples.stage import run as run_filter
from stages.fit_gaussians.config import FitGaussiansConfig
from stages.fit_gaussians.stage import run as run_fit
from stages.formats.embeddings.writer import EncodedCaptions, ShardEmbeddings
from stages.formats.filtered import filter_inputs
from stages.formats.shards import read_shard
from stages.storage.artifact import Artifact, Output
from tests.factories import make_context, make_record, save_image
from tests.unit.stages.train_prior.pieces import prior_config

DIM = 4
CAPTIONS = [
    '<script>alert("1")</script> a red dog',
    'a dog\'s "quoted" & bold <b>dog</b>',
    "🐕 собака 狗 a dog",
    "</td></table><img src=x onerror=alert(2)>",
    "[bold red]a dog[/] that rich would colour",
    "",
    "a cat",
    "a cat and a dog",
]


def embed(config: Any, inputs: Mapping[str, Artifact], output: Output, context: StageContext) -> StageSummary:
    """Write two clouds of embeddings; captions are as near to their images as their number is small."""
    rng = np.random.default_rng(0)
    total = 0
    for name in sorted(inputs["download_shards"].done_units()):
        samples = list(read_shard(inputs["download_shards"].local(f"shards/{name}.tar")))
        rows = np.arange(total, total + len(samples))
        image = np.where(rows[:, None] % 2, [[0, 5, 0, 0]], [[5, 0, 0, 0]]) + 0.1 * rng.normal(size=(len(rows), DIM))
        text = image + rows[:, None] * [[0, 0, 0.5, 0]]
        captions = [next(iter(sample.captions), None) for sample in samples]
        text[[caption is None for caption in captions]] = np.nan
        content = ShardEmbeddings([sample.key for sample in samples], captions, [image], EncodedCaptions([text]))
        content.write(name, output, storage=np.dtype(np.float32), embed_dim=DIM, widths={})
        captioned = sum(caption is not None for caption in captions)
        output.finish_unit(name, {"rows": len(samples), "captioned": captioned, "failures": {}})
        total += len(samples)
    output.write_json("clips.json", [{"reference": "made <up>", "digest": "0" * 64, "embed_dim": DIM, "image_size": 8}])
    return StageSummary(total, counts={"images": total})


def evaluate(config: Any, inputs: Mapping[str, Artifact], output: Output, context: StageContext) -> StageSummary:
    evaluated = {"by_steps": {"steps_4": {"cosine_true": 0.75}}, "reference": {"cosine_true": 0.5}}
    output.write_json("validation.json", evaluated | {"validation_10": evaluated})
    return StageSummary(3, "pairs", metrics={"cosine_true": 0.75})


def build_store(folder: Path) -> Store:
    """Make a store with a run of five stages, by the stages themselves where they need no model."""
    for number, caption in enumerate(CAPTIONS):
        save_image(
            folder / f"images/{number}.png", color=(30 * number, 80, 200 - 20 * number), size=(20 + 9 * number, 24)
        )
        (folder / f"images/{number}.txt").write_text(caption)
    (folder / "images/8.png").write_bytes(b"<html>not found</html>")
    store = Store(str(folder / "store"))
    models = {"models": [{"kind": "pretrained", "name": "ViT-B-16", "tag": "openai"}]}
    plan: dict[str, Any] = {}

    def make(function: Any, config: Any, *sources: str) -> None:
        inputs = {source: store.artifact(source, plan[source]["fingerprint"]) for source in sources}
        plan[config.stage] = {"fingerprint": f"{len(plan):04d}", "identity": {}}
        output = store.output(config.stage, plan[config.stage]["fingerprint"])
        run_stage(function, config, inputs=filter_inputs(inputs), output=output, context=make_context())

    source = {"kind": "folder", "path": folder / "images"}
    make(run_download, DownloadShardsConfig(source=source, rows_per_shard=5, encode_format="png"))
    make(embed, EmbedClipConfig(clip=models), "download_shards")
    make(run_filter, FilterSamplesConfig(clip_score={"minimum": 0.88}), "embed_clip")
    make(run_fit, FitGaussiansConfig(num_gaussians=2), "embed_clip", "filter_samples")
    make(evaluate, prior_config("identity"), "embed_clip", "filter_samples")
    store.write_run(make_record("hostile-1", plan=plan))
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build_store(tmp_path_factory.mktemp("inspection"))


def corgi(*words: str, command: str = "inspect") -> str:
    done = CliRunner().invoke(app, [command, *words], catch_exceptions=False)
    assert done.exit_code == 0
    return str(done.stdout)


@pytest.fixture(scope="module")
def shown(store: Store) -> dict[str, Any]:
    document = json.loads(corgi("hostile", "--store", store.uri, "--json"))
    return {one["stage"]: one for one in document["artifacts"]}


@pytest.fixture(scope="module")
def page(store: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("page") / "new" / "report.html"
    assert "report.html: " in corgi("hostile", "--store", store.uri, "--out", str(file), command="report")
    assert [one.name for one in file.parent.iterdir()] == ["report.html"]
    return file.read_text()


def test_shards_show_counts_losses_captions_and_sizes(shown: dict[str, Any]) -> None:
    tables = shown["download_shards"]["tables"]
    assert tables["counts"] == {"images": 8, "captioned": 7, "rows": 9}
    assert tables["losses by cause"] == [
        {"cause": "failed_unsupported_format", "count": 1, "fraction of rows": "11.11%"}
    ]
    (lost,) = tables["lost samples by unit (most first)"]
    assert (lost["cause"], lost["count"]) == ("unsupported_format", 1)
    assert tables["captions per image"] == [
        {"captions": 0, "images": 1, "fraction": "12.5%"}, {"captions": 1, "images": 7, "fraction": "87.5%"},
    ]  # fmt: skip
    words = {row["word"]: row["count"] for row in tables["most frequent words"]}
    assert (words["a"], words["dog"], words["cat"], words["собака"]) == (7, 6, 2, 1)
    assert tables["caption texts"]["different"] == 7
    lengths = tables["caption lengths"][0]
    assert (lengths["smallest"], lengths["largest"]) == (min(map(len, filter(None, CAPTIONS))), max(map(len, CAPTIONS)))
    sides = {row["pixels"]: row["images"] for row in tables["shorter side in pixels (original)"]}
    assert sides == {"16 to 31": 8}
    assert [row["cause"] for row in tables["lost entries (first ones)"]] == ["unsupported_format"]


def test_embeddings_show_the_captions_nearest_and_farthest(shown: dict[str, Any]) -> None:
    tables = shown["embed_clip"]["tables"]
    nearest = [row["caption"] for row in tables["images nearest to their caption"]]
    assert nearest == [caption for caption in CAPTIONS if caption]  # as the embeddings were made
    assert [row["caption"] for row in tables["images farthest from their caption"]] == nearest[::-1]
    (found,) = (rows for title, rows in tables.items() if title.startswith("captions nearest and farthest"))
    first = next(row for row in found if row["which"] == "nearest")
    assert (first["its caption"], first["caption found"]) == (CAPTIONS[0], CAPTIONS[0])
    assert tables["CLIP models"][0]["normalised"] == "no"
    assert float(tables["norms of image embeddings"][0]["median"]) == pytest.approx(5, abs=0.3)


def test_removed_samples_gaussians_and_evaluations_are_reported(shown: dict[str, Any]) -> None:
    stages = shown
    removed = stages["filter_samples"]["tables"]["removed (some)"]
    assert {row["cause"] for row in removed} == {"low_clip_score"}
    gaussians = stages["fit_gaussians"]["tables"]
    assert gaussians["members of a Gaussian"]["empty"] == 0
    kept = stages["filter_samples"]["tables"]["counts"]["images"]
    (occupancy,) = (rows for title, rows in gaussians.items() if title.startswith("occupancy"))
    assert sum(row["embeddings"] for row in occupancy) == kept < 8
    prior = stages["train_prior"]["tables"]
    assert prior["held-out pairs, by sampling steps"] == [
        {"measure": "cosine_true", "steps_4": "0.75", "reference": "0.5"}
    ]
    assert prior["held-out pairs, by training step (steps_4)"] == [{"step": 10, "cosine_true": "0.75"}]


def test_images_lie_inside_the_page(shown: dict[str, Any], page: str) -> None:
    titles = {stage: one["images"] for stage, one in shown.items()}
    assert titles["download_shards"] == ["samples"]
    assert titles["embed_clip"] == ["images nearest to their caption", "images farthest from their caption"]
    assert titles["filter_samples"] == ["removed"]
    assert titles["fit_gaussians"][0] == "images nearest to the means of the largest Gaussians"
    reader = Reader()
    reader.feed(page)
    images = {str(attributes["alt"]): str(attributes["src"]) for tag, attributes in reader.tags if tag == "img"}
    assert set(images) == {title for several in titles.values() for title in several}
    for source in images.values():
        with Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))) as sheet:
            assert min(sheet.size) > 100


class Reader(html.parser.HTMLParser):
    """Gathers tags with their attributes, and the texts of cells."""

    inside = False

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "td":
            self.cells.append("")
        self.inside = tag == "td"

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.cells[-1] += data


def test_the_page_shows_captions_as_plain_text(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    for caption in filter(None, CAPTIONS):
        assert caption in reader.cells
    allowed = {"html", "head", "meta", "link", "title", "style", "body", "main", "header", "h1", "h2", "h3", "p",
               "span", "strong", "details", "summary", "div", "dl", "dt", "dd", "pre", "table", "thead", "tbody",
               "tr", "th", "td", "img"}  # fmt: skip
    assert {tag for tag, _ in reader.tags} <= allowed
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on")]


def test_the_page_asks_nothing_of_any_server(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    named = [attributes.get(name) for _, attributes in reader.tags for name in ("src", "href", "srcset", "action")]
    assert all(address.startswith("data:") for address in named if address)
    assert "url(" not in page
    assert "@import" not in page
    assert 'http-equiv="Content-Security-Policy" content="default-src &#x27;none&#x27;; img-src data:' in page


def test_the_page_begins_with_a_summary_and_folds_the_rest(page: str) -> None:
    heads = [page.index(f"<h2>{title}</h2>") for title in ("How good", "Details")]
    assert page.index("<h1>") < heads[0] < heads[1] < page.index("<details>")
    assert "<details open>" not in page
    assert page.count("<details>") == page.count("<summary>") >= 8


def test_an_artifact_has_a_page_too(store: Store, tmp_path: Path) -> None:
    corgi(f"{store.uri}/artifacts/fit_gaussians/0003", "--out", str(tmp_path / "a.html"), command="report")
    assert "<details open><summary>fit_gaussians: done" in (tmp_path / "a.html").read_text()


def test_text_shows_markup_as_it_is(store: Store) -> None:
    text = corgi("hostile-1", "--store", store.uri)
    for words in ("[bold red]a dog[/]", "<script>alert(", "🐕 собака", "low_clip_score", "occupancy of the 2 largest"):
        assert words in text


def test_an_artifact_is_found_by_its_folder_and_knows_what_it_was_made_from(store: Store) -> None:
    folder = f"{store.uri}/artifacts/fit_gaussians/0003"
    (found,) = inspect(find_target(folder, "elsewhere"), max_shards=1)
    assert (found.stage, found.state) == ("fit_gaussians", "done")
    assert "examples: the nearest of 1 of 2 shards" in found.notes


def test_half_an_artifact_shows_its_progress(store: Store, tmp_path: Path) -> None:
    half = Store(str(tmp_path)).output("download_shards", "half")
    whole = store.artifact("download_shards", "0000")
    for suffix in (".tar", ".parquet", "_stats.json"):
        half.write_bytes(f"shards/00000{suffix}", whole.open(f"shards/00000{suffix}").read())
    half.finish_unit("00000", whole.done_units()["00000"])
    (found,) = inspect(find_target(half.uri, "elsewhere"), max_shards=4)
    document = found.to_json()
    assert document["state"] == "partial"
    assert document["tables"]["counts"] == {"finished units": 1, "rows": 5, "images": 5, "captioned": 5}


def test_what_is_neither_run_nor_artifact_is_reported(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder, but no artifact"):
        find_target(str(tmp_path), store.uri)
    with pytest.raises(UsageError, match="run nobody: not found in the store"):
        find_target("nobody", store.uri)


def test_a_damaged_image_is_left_out_of_the_sheet_and_reported(store: Store, tmp_path: Path) -> None:
    copy = Store(str(tmp_path)).output("download_shards", "copy")
    whole = store.artifact("download_shards", "0000")
    content = whole.open("shards/00000.tar").read()
    start = content.index(b"\x89PNG")
    for suffix, data in ((".tar", content[: start + 30] + b"\0" * 40 + content[start + 70 :]), (".parquet", None)):
        copy.write_bytes(f"shards/00000{suffix}", data or whole.open(f"shards/00000{suffix}").read())
    copy.finish_unit("00000", whole.done_units()["00000"])
    (found,) = inspect(find_target(copy.uri, "elsewhere"), max_shards=4)
    assert any(note.startswith("not shown: shard 00000, key") for note in found.notes)
    assert any(isinstance(Image.open(io.BytesIO(b.png)), Image.Image) for b in found.blocks if hasattr(b, "png"))
