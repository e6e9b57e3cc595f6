"""`corgi init`: what it finds in a folder, a list and a webdataset, and that what it writes is an experiment."""

import csv
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.loading import load_config
from pipeline.config.paths import require_files
from pipeline.errors import UsageError
from pipeline.initialize.advice import advise
from pipeline.initialize.document import document
from pipeline.initialize.sources import default_name, source_of
from pipeline.initialize.survey import Survey, script_of, survey
from pipeline.plan import make_plan
from pipeline.store import Store
from stages.contract.errors import InputFault


def png(number: int, size: tuple[int, int] = (90, 70)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(folder: Path, count: int = 12, caption: str = "a photograph") -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:03d}.png").write_bytes(png(number))
        (folder / f"{number:03d}.txt").write_text(f"{caption} {number}", encoding="utf-8")
    return folder


def initialized(address: Path, folder: Path) -> tuple[Survey, Path]:
    """Write the experiment for a path, and plan it."""
    source, file = source_of(str(address)), folder / "made.yaml"
    found = survey(source)
    file.write_text(document(default_name(str(address)), source, found, advise(found), str(file)), encoding="utf-8")
    config = load_config(file, [f"store={folder / 'store'}"])
    require_files(config, str(file))
    plan = make_plan(config, Store(config.store))
    assert {stage.state for stage in plan.stages.values()} == {"new"}
    return found, file


def test_a_folder_is_counted_with_sizes_captions_and_duplicates(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", 300)
    (folder / "again.png").write_bytes(png(5))
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.md").write_text("of no image")
    found, file = initialized(folder, tmp_path)
    assert (found.entries, found.looked_at, found.captioned, found.duplicates) == (302, 302, 300, 1)
    assert (found.median_side, found.main_script, sum(found.faults.values())) == (70, "LATIN", 1)
    text = file.read_text()
    assert "300 captioned images are enough to train a small CLIP on" in text
    assert "Exact duplicates: 1 of those looked at." in text
    assert "An added image trains this CLIP anew" in text
    assert "reuse.train_clip.config" in text
    assert yaml.safe_load(text)["train_clip"]["augmentation"]["flip"] == 0.5


def test_a_large_folder_is_looked_at_in_parts(tmp_path: Path) -> None:
    found = survey(source_of(str(write_folder(tmp_path / "images", 2600))))
    assert found.entries == 2600
    assert found.looked_at == 2000
    assert found.estimated_captioned == 2600


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_list_of_addresses_is_read_and_none_is_fetched(tmp_path: Path, suffix: str) -> None:
    rows = [{"Image_URL": f"http://127.0.0.1:9/{n}.jpg", "Title": "der Hund, links"} for n in range(400)]
    path = tmp_path / f"list.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    found, file = initialized(path, tmp_path)
    assert (found.entries, found.captioned, found.median_side) == (400, 400, None)
    source = yaml.safe_load(file.read_text())["download_shards"]["source"]
    assert (source["url_column"], source["caption_column"]) == ("Image_URL", "Title")


def test_a_webdataset_is_read(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"{shard:05d}.tar", "w") as tar:
            for number in range(5):
                for name, content in ((f"{shard}{number}.png", png(number)), (f"{shard}{number}.txt", b"on the left")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    found, file = initialized(tmp_path / "shards", tmp_path)
    assert (found.entries, found.captioned, found.duplicates, found.with_sides) == (10, 10, 5, 10)
    written = yaml.safe_load(file.read_text())
    assert written["train_decoder"]["augmentation"]["flip"] == 0.0  # as captions say left
    assert written["clip"]["models"] == [{"kind": "pretrained", "name": "ViT-B-32", "tag": "openai"}]


def test_images_without_captions_get_a_prior_that_needs_none(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(png(number))
    found, file = initialized(folder, tmp_path)
    written = yaml.safe_load(file.read_text())
    assert (found.captioned, written["train_prior"]["text_dropout"]) == (0, 1.0)
    assert written["generate"]["prompts"]["kind"] == "unconditional"


def write_shapes(folder: Path, shapes: list[tuple[int, int]]) -> Path:
    folder.mkdir()
    for number, shape in enumerate(shapes):
        (folder / f"{number:02d}.png").write_bytes(png(number, shape))
    return folder


def test_images_of_several_aspect_ratios_get_buckets_and_keep_their_ratios(tmp_path: Path) -> None:
    shapes = [(160, 90), (90, 160), (100, 100), (150, 100), (200, 90)]
    found, file = initialized(write_shapes(tmp_path / "images", shapes), tmp_path)
    assert found.cropped([(1, 1)]) == pytest.approx((2 * 7 / 16 + 0 + 1 / 3 + 11 / 20) / 5)
    text = file.read_text()
    written = yaml.safe_load(text)
    assert written["train_decoder"]["buckets"] == {"step": 16}
    assert written["download_shards"]["resize_mode"] == "keep_ratio"
    assert "# 48x80, 64x64, 80x48: a square loses 35% of an image's area on average, the nearest of these" in text


@pytest.mark.parametrize("shapes", [[(100, 100), (110, 100), (100, 105)], [(100, 90)] * 3, [(125, 100)] * 3])
def test_images_that_are_nearly_square_get_squares(tmp_path: Path, shapes: list[tuple[int, int]]) -> None:
    written = yaml.safe_load(initialized(write_shapes(tmp_path / "images", shapes), tmp_path)[1].read_text())
    assert "buckets" not in written["train_decoder"]
    assert "resize_mode" not in written["download_shards"]


def test_metadata_beside_images_names_its_columns(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images")
    for one in folder.glob("*.txt"):
        one.unlink()
    (folder / "metadata.csv").write_text("file,text\n" + "".join(f"{n:03d}.png,a thing\n" for n in range(12)))
    for given in (folder, folder / "metadata.csv"):
        source = source_of(str(given))
        assert (source["kind"], source["file_column"], source["caption_column"]) == ("folder", "file", "text")
        assert survey(source).captioned == 12


HOSTILE = 'x: "y"\n# z\n- {a: b}\u2028\u0085\x1b[2J\t&anchor *alias !!python/object:os.system'


def test_hostile_names_and_captions_stay_data(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / 'im: "a" # {b}\n- c\u2028 &d', 3, caption=HOSTILE)
    found, file = initialized(folder, tmp_path)
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert written["download_shards"]["source"] == {"kind": "folder", "path": str(folder.resolve())}
    assert found.captioned == 3
    assert not any(char in file.read_text(encoding="utf-8") for char in "\x1b\u2028\u0085\t")
    assert written["name"].isascii()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("nothing", None, "there is no .*nothing: give a folder"),
        ("list.csv", "file_name,caption\na.jpg,b\n", r"no column of web addresses .*call it metadata\.csv"),
        ("list.csv", "a,b\nc,d\n", "no column of web addresses .*call the column of the addresses url"),
        ("image.xyz", "", "none of the files that are read"),
        ("list.json", "{", "init: "),
    ],
)
def test_what_cannot_be_read_is_reported(tmp_path: Path, name: str, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=words):
        survey(source_of(str(tmp_path / name)))


def test_a_folder_of_nobody_is_reported() -> None:
    with pytest.raises(InputFault, match="~nobody-at-all is no path here"):
        source_of("~nobody-at-all")


def test_the_command_writes_a_new_file_and_never_over_another(tmp_path: Path) -> None:
    folder, out = write_folder(tmp_path / "images"), tmp_path / "mine.yaml"
    done = CliRunner().invoke(app, ["init", str(folder), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["entries"] == 12
    before = out.read_bytes()
    with pytest.raises(UsageError, match="is there already, and is left as it is"):
        CliRunner().invoke(app, ["init", str(folder), "--out", str(out)], catch_exceptions=False)
    assert out.read_bytes() == before
    assert f"corgi run {out}" in out.read_text()


def test_scripts_differ() -> None:
    texts = {"a dog": "LATIN", "собака": "CYRILLIC", "一只狗": "CJK", "12 !?": "", "كلب": "ARABIC"}
    assert {text: script_of(text) for text in texts} == texts
