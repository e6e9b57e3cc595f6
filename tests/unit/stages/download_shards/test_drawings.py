import io
import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.schema import RunConfig
from stages.contract.errors import InputFault, ItemFault
from stages.contract.findings import Findings, InspectionContext
from stages.download_shards.config import DownloadShardsConfig, DrawingsSource
from stages.download_shards.drawings.icons import concept_of, read_drawings
from stages.download_shards.drawings.npm import read_package_file
from stages.download_shards.drawings.package_config import DRAWINGS, SETS
from stages.download_shards.drawings.svg import MOST_ELEMENTS, render_svg
from stages.download_shards.inspect import inspect
from stages.download_shards.sources.drawings import Drawings, chosen_drawings
from stages.download_shards.stage import run
from stages.formats.attributions import read_attributions
from stages.formats.shards import read_shard
from stages.storage.artifact import Artifact, Output
from tests.factories import make_context
from tests.icon_packages import body, concept, write_packages


@pytest.fixture
def packages(tmp_path):
    return write_packages(tmp_path / "node_modules")


def config_of(packages, **options):
    source = {"kind": "drawings", "path": packages, "resolution": 16} | options
    return DownloadShardsConfig(source=source, image_size=16, encode_format="png", rows_per_shard=5)


def convert(packages, folder, **options):
    summary = run(config_of(packages, **options), {}, Output(str(folder), "download_shards", "test"), make_context())
    samples = [sample for shard in sorted((folder / "shards").glob("*.tar")) for sample in read_shard(shard)]
    rows = [row for table in sorted((folder / "shards").glob("*.parquet")) for row in pq.read_table(table).to_pylist()]
    return summary, samples, rows


def test_drawings_come_with_names_artists_and_licences_and_without_variants(packages, tmp_path):
    summary, samples, rows = convert(packages, tmp_path / "out", sets=["twemoji", "openmoji"])
    assert summary.items == 8 + 9  # no skin tone, no hidden repetition; one drawing that two code points name
    assert [(row["artist"], row["concept"], row["license"]) for row in rows[:1]] == [
        ("twemoji", concept(0), "CC BY 4.0")
    ]
    assert {row["caption"] for row in rows} == {*(f"thing {index}" for index in range(8)), "own thing"}
    pixels = Image.open(io.BytesIO(samples[0].image)).convert("RGB")
    assert pixels.getpixel((15, 0)) == (255, 255, 255)
    assert pixels.getpixel((6, 3)) == (221, 0, 0)


def test_attributions_travel_with_the_artifact(packages, tmp_path):
    convert(packages, tmp_path / "out", captions="names_and_keywords")
    works = read_attributions(Artifact(str(tmp_path / "out"), "download_shards", "test")).works
    assert [work.license for work in works] == ["CC BY 4.0", "Apache-2.0", "CC BY-SA 4.0", "MIT", "Unicode-3.0"]
    assert "rendered at 16 x 16 pixels" in str(works[0])
    assert not works[-1].changes
    findings = Findings("download_shards", "test", "", "done")
    artifact = Artifact(str(tmp_path / "out"), "download_shards", "test")
    inspect(artifact, findings, InspectionContext(lambda name: None, 4))
    shown = next(block for block in findings.blocks if block.title == "works shown")
    assert [row[2] for row in shown.rows] == [work.license for work in works]


def test_keywords_are_further_captions(packages, tmp_path):
    _, samples, _ = convert(packages, tmp_path / "out", sets=["noto"], captions="names_and_keywords")
    assert samples[0].captions == ("thing 0", "first thing", "corner", "red")
    _, samples, rows = convert(packages, tmp_path / "uncaptioned", sets=["noto"], captions="none")
    assert not any(sample.captions for sample in samples)
    assert "caption" not in rows[0]


def test_held_out_concepts_are_chosen_by_hash_alike_for_all_artists_and_lengths(tmp_path):
    def held_out(packages, name, **options):
        source = DrawingsSource(kind="drawings", path=packages, concepts="held_out", held_out=0.3, **options)
        return {icon.concept for icon in chosen_drawings(source, name)}

    few, many = (write_packages(tmp_path / str(number), number) for number in (20, 60))
    chosen = held_out(many, "twemoji")
    assert 0 < len(chosen) < 60
    assert {held_out(many, name) == chosen for name in ("noto", "fluent-emoji-flat")} == {True}
    assert held_out(few, "twemoji") == {one for one in chosen if one <= concept(19) or len(one) < 5}
    assert held_out(many, "twemoji", seed=1) != chosen
    seen = DrawingsSource(kind="drawings", path=many, concepts="seen", held_out=0.3)
    assert {one.concept for one in chosen_drawings(seen, "twemoji")} == {concept(index) for index in range(60)} - chosen
    common = DrawingsSource(kind="drawings", path=many, only_common=True)
    assert len(chosen_drawings(common, "openmoji")) == 60  # not the one that its artist alone drew


def test_a_concept_is_its_code_points_without_the_variation_selector():
    assert concept_of("\u2764\ufe0f\u200d\U0001f525") == "2764-200d-1f525"


def test_the_fingerprint_knows_content_and_choice_and_not_the_path(packages, tmp_path):
    def identity(**options):
        return DrawingsSource(**({"kind": "drawings", "path": packages} | options)).identity()

    assert identity() == identity(path=write_packages(tmp_path / "elsewhere"))
    assert identity() != identity(path=write_packages(tmp_path / "other", 9))
    assert identity(seed=1) == identity()  # all concepts: nothing is held out
    assert identity(concepts="seen", seed=1) != identity(concepts="seen")
    pinned = identity(path=None)["content"]
    assert pinned == sorted(DRAWINGS[name].integrity for name in SETS)
    with pytest.raises(ValueError, match="each once"):
        identity(sets=["noto", "noto"])


def test_what_is_missing_or_of_another_licence_is_one_sentence(packages, monkeypatch, tmp_path):
    config = config_of(packages)
    Drawings(config.source, config).check()
    (packages / DRAWINGS["noto"].name / "package.json").write_text(json.dumps({"license": "none"}))
    with pytest.raises(InputFault, match=r"noto: its licence is none, expected Apache-2.0: give a folder"):
        Drawings(config.source, config).check()
    (packages / DRAWINGS["noto"].name / "package.json").unlink()
    with pytest.raises(InputFault, match="there is no such file: give a folder in which `npm install`"):
        Drawings(config.source, config).check()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputFault, match=r"there is no npm to fetch it: install Node.js"):
        read_package_file(DRAWINGS["noto"], "icons.json", None)
    RunConfig.model_validate({"name": "a", "download_shards": {"source": {"kind": "drawings"}}})


def test_an_archive_that_is_not_the_pinned_one_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho other > package-1.0.0.tgz\n")
    npm.chmod(0o755)
    with pytest.raises(InputFault, match=r"npm brought another @iconify-json/noto 1.2.9 than the pinned one"):
        read_package_file(DRAWINGS["noto"], "icons.json", None)
    npm.write_text("#!/bin/sh\necho 'no network' >&2\nexit 1\n")
    with pytest.raises(InputFault, match=r"npm cannot fetch @iconify-json/noto 1.2.9 \(no network\): connect"):
        read_package_file(DRAWINGS["noto"], "icons.json", None)
    assert not list(tmp_path.glob(".corgi/packages/*"))


def test_damaged_packages_are_one_sentence(packages):
    config = config_of(packages)
    for content, reason in {"{": "EOF", '{"icons": {"thing-0": {}}}': "icons.thing-0.body: Field required"}.items():
        (packages / DRAWINGS["twemoji"].name / "icons.json").write_text(content)
        with (
            pytest.raises(InputFault, match=f"twemoji/icons.json: .*{reason}.*: give the package"),
            Drawings(config.source, config).parts(),
        ):
            pass


def svg(content):
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} viewBox="0 0 36 36">{content}</svg>'


_DOUBLING = "".join(f'<g id="a{n}"><use href="#a{n + 1}"/><use href="#a{n + 1}"/></g>' for n in range(20))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('<image href="/etc/passwd"/>', "an element image"),
        ("<script>x</script>", "an element script"),
        ("<style>@import url(file:///x)</style>", "an element style"),
        ('<filter><feImage href="a.png"/></filter>', "an element feImage"),
        ("<text>a</text>", "an element text"),
        ('<use href="other.svg#a"/>', "a reference out of the drawing"),
        ('<use xlink:href="file:///etc/passwd"/>', "a reference out of the drawing"),
        ('<path fill="url( http://127.0.0.1/a )" d="M0 0h9v9z"/>', "a reference out of the drawing"),
        ('<path style="fill:url(\'x.svg#a\')" d="M0 0h9v9z"/>', "a reference out of the drawing"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><g/>', "a declaration"),
        ('<g id="a"><use href="#a"/></g>', "more than 50 deep"),
        (f'{_DOUBLING}<path id="a20" d="M0 0h9v9z"/>', f"more than {MOST_ELEMENTS:,} elements"),
        ("<g>" * 60 + "</g>" * 60, "more than 50 deep"),
        ("<g>", "mismatched tag"),
        (f"<g>{'x' * 1_000_000}</g>", "file too large"),
    ],
)
def test_svg_that_reaches_out_or_grows_is_refused(content, reason):
    with pytest.raises(ItemFault, match=reason):
        render_svg(svg(content), 16)


def test_what_is_refused_is_counted_and_the_others_are_kept(tmp_path):
    packages = write_packages(tmp_path / "in", bodies={"thing-3": '<image href="/etc/passwd"/>'})
    summary, _, rows = convert(packages, tmp_path / "out", sets=["noto"])
    assert summary.items == 7
    assert [row["error_message"] for row in rows if row["status"] != "success"] == [
        "unsupported image format: the drawing has an element image"
    ]


def test_paints_and_references_inside_are_rendered():
    paint = '<defs><linearGradient id="p"><stop stop-color="#0f0"/></linearGradient></defs>'
    image = Image.open(io.BytesIO(render_svg(svg(f'{paint}<rect width="36" height="36" fill="url(#p)"/>'), 16)))
    assert image.size == (16, 16)
    assert image.convert("RGB").getpixel((8, 8)) == (0, 255, 0)
    assert body(0, 0) != body(1, 0)


def test_an_icon_that_is_no_square_stands_in_the_middle_of_one():
    icon = {"body": '<rect width="36" height="18" fill="#00f"/>', "height": 18}
    content = json.dumps({"icons": {"wide": icon}, "width": 36, "height": 36}).encode()
    [found] = read_drawings(content, b'{"1f600": "wide"}', "test")
    image = Image.open(io.BytesIO(render_svg(found.svg, 16))).convert("RGB")
    assert image.size == (16, 16)
    assert [image.getpixel((8, row)) for row in (1, 8, 14)] == [(255, 255, 255), (0, 0, 255), (255, 255, 255)]
