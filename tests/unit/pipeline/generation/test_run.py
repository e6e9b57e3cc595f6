"""Every mode of generation with a tiny run: what comes out, and that it can be made again from its own file."""

import json
import resource
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.console import Terminal
from pipeline.errors import UsageError
from pipeline.generation.models import load_system
from pipeline.generation.options import Options
from pipeline.generation.run import _write, generate_for_options
from pipeline.generation.view import GenerationView
from pipeline.options import STORE_VARIABLE
from pipeline.store import Store
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, FolderClip
from stages.formats.model_folders import save_model
from stages.storage.artifact import Output
from tests.factories import make_record, save_image, save_tiny_clip, save_tiny_decoder, save_tiny_prior
from tests.unit.models.decoders.stylegan2.factories import make_generator

RUN = "tiny-12345678"
SIDE = 32


def make_store(folder: Path, *, stylegan: bool = False) -> Store:
    clip = save_tiny_clip(folder / "clip")
    save_tiny_prior(folder / "store/artifacts/train_prior/tiny", clip)
    decoder = folder / "store/artifacts/train_decoder/tiny"
    save_tiny_decoder(decoder, clip, resolution=SIDE)
    if stylegan:
        encoder = ClipEncoder(ClipConfig(models=(FolderClip(kind="folder", path=clip),)))
        generator = make_generator(embed_dim=encoder.embed_dim)
        config = {"model": generator.spec.to_dict(), "clip": encoder.identities.to_json()}
        save_model(Output(str(decoder), "train_decoder", "tiny"), "decoder", generator, config)
    section = {
        "clip": {"models": [{"kind": "folder", "path": str(clip)}]},
        "prompts": {"kind": "list", "texts": ["a red star"]},
        "prior": {"num_steps": 2}, "decoder": {"num_steps": 4}, "batch_size": 4,
    }  # fmt: skip
    trained = ("train_prior", "train_decoder")
    config = {"name": "tiny", "generate": section, "reuse": {stage: {"config": "other.yaml"} for stage in trained}}
    store = Store(str(folder / "store"))
    prints = dict.fromkeys(trained, "tiny") | {"generate": "g1"}
    plan = {stage: {"fingerprint": fingerprint, "identity": {}} for stage, fingerprint in prints.items()}
    artifacts = dict.fromkeys(trained, "x")
    store.write_run(make_record(RUN, config=config, config_path="tiny.yaml", artifacts=artifacts, plan=plan))
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def cat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("images") / "cat.png"
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


def generate(store: Store, out: Path, **options: Any) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    entries = written(store, Options(run="tiny", **options), out)
    return entries, [pixels(Path(entry["path"])) for entry in entries]


def written(store: Store, options: Options, out: Path) -> list[dict[str, Any]]:
    with GenerationView(Terminal(stderr=True)) as view:
        return list(generate_for_options(store, options, out, view))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


MODES: dict[str, dict[str, Any]] = {
    "text": {"prompt": ("a red star", "a blue ring", "a small cross", "green", "a", "the top"), "seed": 5},
    "variation": {"image": "cat", "variations": 3},
    "interpolation": {"start": "cat", "end": "a small blue ring at the top left", "steps": 3, "seed": 2},
    "edit": {"image": "cat", "edit": "a red star", "candidates": 3, "keep": 2, "strength": 0.5},
    "arithmetic": {"image": "cat", "edit": "a red star", "instead_of": "a blue ring", "strength": 1.5},
}


@pytest.mark.parametrize("mode", MODES)
def test_each_request_generates_signed_images_that_can_be_made_again(
    store: Store, cat: Path, tmp_path: Path, mode: str
) -> None:
    options = {name: str(cat) if value == "cat" else value for name, value in MODES[mode].items()}
    entries, images = generate(store, tmp_path, **options)
    assert [entry["mode"] for entry in entries] == [mode] * len(entries)
    assert len(entries) == {"text": 6, "variation": 3, "interpolation": 3, "edit": 2, "arithmetic": 1}[mode]
    assert len({image.tobytes() for image in images}) == len(images)
    last = Path(entries[-1]["path"])
    with Image.open(last) as image:
        about = image.info
    assert about["run"] == RUN
    assert about["seed"] == str(entries[-1]["seed"])
    assert about["prompt"] == entries[-1]["prompt"]
    assert json.loads(about["settings"])["decoder_steps"] == 4
    (again,) = written(store, Options(again=last), tmp_path / "again")
    assert again["pixel_equal"]
    assert np.array_equal(pixels(Path(again["path"])), images[-1])
    with Image.open(again["path"]) as image:
        assert image.info == about


def test_images_are_written_and_reported_as_they_are_made(
    store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prompts = tuple(f"a red star, {number}" for number in range(6))
    with GenerationView(Terminal(stderr=True)) as view:
        made = generate_for_options(store, Options(run="tiny", prompt=prompts), tmp_path, view)
        next(made)
        assert [path.name for path in tmp_path.glob("*")] == ["00000.png"], "before others, of which batches are made"
        made.close()  # as an interruption does
    assert [path.name for path in tmp_path.glob("*")] == ["00000.png"]

    words = [f"--prompt={prompt}" for prompt in prompts]
    reply = CliRunner().invoke(app, ["generate", "tiny", *words, "--out", str(tmp_path), "--store", store.uri])
    assert reply.exit_code == 0, reply.output
    assert reply.stdout.splitlines() == [
        f"{tmp_path}/{number:05d}.png  {prompt}" for number, prompt in enumerate(prompts, 1)
    ]
    assert f"generate: loading the models of run {RUN}\n" in capfd.readouterr().err + reply.stderr


def test_nothing_in_the_folder_is_written_over(store: Store, tmp_path: Path) -> None:
    def names() -> list[str]:
        return sorted(path.name for path in tmp_path.glob("*.png"))

    (first,) = generate(store, tmp_path, prompt=("a red star",))[0]
    content = Path(first["path"]).read_bytes()
    generate(store, tmp_path, prompt=("a blue ring", "a small cross"))
    (tmp_path / "00007.png").write_bytes(b"mine")
    generate(store, tmp_path, prompt=("green",))
    assert names() == ["00000.png", "00001.png", "00002.png", "00007.png", "00008.png"]
    for _ in range(2):
        written(store, Options(again=Path(first["path"])), tmp_path)
    assert names()[:3] == ["00000.png", "00000_again.png", "00000_again_2.png"]
    assert Path(first["path"]).read_bytes() == content
    assert (tmp_path / "00007.png").read_bytes() == b"mine"


def test_an_image_that_cannot_be_written_whole_is_not_there(store: Store, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    made = generate_for_options(store, Options(run="tiny", prompt=("a", "b")), tmp_path, GenerationView(Terminal()))
    first = Path(next(made)["path"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (first.stat().st_size // 2, limits[1]))  # as a disk that is almost full
    try:
        with pytest.raises(UsageError, match=f"--out: {tmp_path} cannot be written"):
            next(made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["00000.png"]
    with pytest.raises(TypeError, match="not JSON serializable"):
        _write(tmp_path / "00001.png", np.zeros((4, 4, 3), np.uint8), {"prompt": {object}})
    assert [path.name for path in tmp_path.iterdir()] == ["00000.png"]


def test_prompts_come_from_the_named_column(store: Store, tmp_path: Path) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text("text,other\na red star,x\na blue ring,y\n")
    entries, _ = generate(store, tmp_path / "out", prompts=table, column="text")
    assert [entry["prompt"] for entry in entries] == ["a red star", "a blue ring"]
    with pytest.raises(UsageError, match="column"):
        generate(store, tmp_path / "out", prompts=table)
    with pytest.raises(UsageError, match=r"--prompts: path: found '~nobody-at-all/p.txt', which is no path here"):
        generate(store, tmp_path / "out", prompts=Path("~nobody-at-all/p.txt"))
    with pytest.raises(UsageError, match="--column without --prompts"):
        Options(run="tiny", prompt=("a",), column="text")


def test_a_trajectory_begins_and_ends_at_its_ends(store: Store, cat: Path, tmp_path: Path) -> None:
    _, trajectory = generate(store, tmp_path / "w", start="a red star", end=str(cat), steps=3, seed=4)
    _, (star,) = generate(store, tmp_path / "s", prompt=("a red star",), seed=4)
    _, (variation,) = generate(store, tmp_path / "v", image=cat, seed=4)
    assert np.abs(trajectory[0] - star).max() <= 1  # batches of other sizes round differently
    assert np.abs(trajectory[-1] - variation).max() <= 1
    assert np.abs(trajectory[1] - star).max() > 1 < np.abs(trajectory[1] - variation).max()


def test_the_best_candidates_are_kept_the_best_first(store: Store, tmp_path: Path) -> None:
    prompts = ("a red star", "a blue ring")
    entries, images = generate(store, tmp_path / "all", prompt=prompts, candidates=3, keep=3)
    encoder = load_system(store, store.find_run("tiny")).encoder
    for first, prompt in ((0, prompts[0]), (3, prompts[1])):
        seen = encoder.encode_images(np.stack(images[first : first + 3]).astype(np.uint8))
        cosines = torch.nn.functional.cosine_similarity(seen, encoder.encode_texts([prompt]))
        assert (cosines.diff() < 0).all()
        expected = [100 * max(float(cosine), 0.0) for cosine in cosines]
        assert [entry["clip_score"] for entry in entries[first : first + 3]] == pytest.approx(expected, abs=1e-3)
    assert sorted(entry["seed"] for entry in entries) == list(range(6))
    best, _ = generate(store, tmp_path / "best", prompt=prompts, candidates=3)
    assert [(e["prompt"], e["seed"]) for e in best] == [(entries[n]["prompt"], entries[n]["seed"]) for n in (0, 3)]


def test_an_edit_goes_from_the_image_to_a_fresh_image(store: Store, cat: Path, tmp_path: Path) -> None:
    _, (kept,) = generate(store, tmp_path / "0", image=cat, edit="a red star", strength=0.0)
    _, (fresh,) = generate(store, tmp_path / "1", image=cat, edit="a red star", strength=1.0)
    _, (star,) = generate(store, tmp_path / "s", prompt=("a red star",))
    with Image.open(cat) as image:
        middle = image.crop((10, 0, 50, 40)).resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    assert np.array_equal(kept, np.asarray(middle).astype(int))
    assert np.array_equal(fresh, star)


def test_arithmetic_of_nothing_is_a_variation(store: Store, cat: Path, tmp_path: Path) -> None:
    words = {"image": cat, "edit": "a red star", "instead_of": "a blue ring"}
    _, (still,) = generate(store, tmp_path / "0", strength=0.0, **words)
    _, (moved,) = generate(store, tmp_path / "1", **words)
    _, (variation,) = generate(store, tmp_path / "v", image=cat)
    assert np.array_equal(still, variation)
    assert not np.array_equal(moved, variation)


def bomb() -> bytes:
    """Return a PNG that says it has 20,000 x 20,000 pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b""), b"IEND")
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_images_of_any_sort_are_taken(store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    color = Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    color.save(tmp_path / "plain.png")
    color.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=turned)
    color.convert("CMYK").save(tmp_path / "cmyk.tif")
    color.convert("L").save(tmp_path / "grey.png")
    color.convert("RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(np.asarray(color.convert("L")).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    save_image(tmp_path / "dot.png", size=(1, 1))
    names = ("plain.png", "turned.png", "cmyk.tif", "grey.png", "rgba.png", "deep.png", "dot.png")
    generated = {name: generate(store, tmp_path / "out", image=tmp_path / name)[1][0] for name in names}
    for same, as_this in (("turned.png", "plain.png"), ("rgba.png", "plain.png"), ("deep.png", "grey.png")):
        assert np.array_equal(generated[same], generated[as_this])
    assert not np.array_equal(generated["grey.png"], generated["plain.png"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("bomb.png", bomb(), r"--image .*bomb\.png: the image is too large"),
        ("words.png", b"no image", r"--image .*words\.png: the image cannot be decoded"),
        ("missing.png", None, r"--image .*missing\.png: cannot be read \(No such file"),
    ],
    ids=["bomb", "words", "missing"],
)
def test_what_is_no_image_is_reported(
    store: Store, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=words):
        generate(store, tmp_path / "out", image=tmp_path / name)


def test_a_ribbon_and_a_wrong_path_are_reported(store: Store, tmp_path: Path) -> None:
    ribbon = save_image(tmp_path / "ribbon.png", size=(1, 2000))
    with pytest.raises(UsageError, match=r"has 1 x 2000 pixels; allowed are sides of at most 32 to 1"):
        generate(store, tmp_path, image=ribbon)
    with pytest.raises(UsageError, match=r"--from: there is no file nothing\.png"):
        generate(store, tmp_path, start="nothing.png", end="a star")
    entries, _ = generate(store, tmp_path, start="a " * 300, end="a star", steps=2)  # no file has so long a name
    assert len(entries) == 2


def test_a_decoder_that_cannot_denoise_names_the_alternatives(tmp_path: Path, cat: Path) -> None:
    store = make_store(tmp_path, stylegan=True)
    with pytest.raises(
        UsageError, match=r"of kind stylegan2, which generates no image by denoising; .*add --instead-of"
    ):
        generate(store, tmp_path / "out", image=cat, edit="a red star")
    entries, _ = generate(store, tmp_path / "out", image=cat, edit="a red star", instead_of="a blue ring")
    assert len(entries) == 1


def test_regenerating_needs_an_image_of_an_existing_run(store: Store, cat: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no text fields that say how it was made"):
        written(store, Options(again=cat), tmp_path)
    with pytest.raises(UsageError, match="cannot be read as a PNG"):
        written(store, Options(again=tmp_path / "missing.png"), tmp_path)
    entries, _ = generate(store, tmp_path, prompt=("a red star",))
    with Image.open(entries[0]["path"]) as image:
        text = PngInfo()
        for key, value in image.info.items():
            if key != "prompt":
                text.add_text(str(key), str(value))
        image.save(tmp_path / "no_prompt.png", pnginfo=text)
    with pytest.raises(UsageError, match=r"no_prompt\.png: cannot be generated again"):
        written(store, Options(again=tmp_path / "no_prompt.png"), tmp_path / "again")
    assert not list(tmp_path.glob("again/*"))
    other = make_store_without_runs(tmp_path / "other")
    with pytest.raises(
        UsageError, match=rf"generated by the run {RUN}, which is not in the store .*; runs there: none yet"
    ):
        written(other, Options(again=Path(entries[0]["path"])), tmp_path)


def test_a_record_without_a_plan_of_what_is_needed_is_one_sentence(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    record = store.find_run("tiny")
    store.write_run(record.model_copy(update={"plan": {"train_prior": record.plan["train_prior"]}}))
    with pytest.raises(UsageError, match=r"its record has no plan of train_decoder, generate"):
        generate(store, tmp_path / "out", prompt=("a red star",))


@pytest.mark.parametrize("page", ["README.md", "docs/generation.md"])
def test_the_example_in_the_documentation_runs(
    store: Store, cat: Path, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[4] / page).read_text()
    code = text.partition("```python\n")[2].partition("```")[0].replace('"quickstart"', '"tiny"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(STORE_VARIABLE, store.uri)
    shutil.copy(cat, "cat.png")
    found: dict[str, Any] = {}
    exec(code.replace('"workspace"', repr(store.uri)), found)
    assert found["model"].resolution == SIDE
    assert {image.size for image in found["trajectory"]} == {(SIDE, SIDE)}


def make_store_without_runs(folder: Path) -> Store:
    store = Store(str(folder))
    store.open_for_writing()
    return store
