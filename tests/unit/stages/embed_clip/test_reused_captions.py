"""Pseudo-captions that were made of another download: taken where the images are the same, refused where not."""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from stages.contract.errors import InputFault
from stages.contract.stage import InputState, StageContext
from stages.embed_clip.config import EmbedClipConfig
from stages.embed_clip.stage import run
from stages.formats.embeddings.layout import EmbeddingsRecord
from stages.formats.embeddings.reader import load_keys, load_pseudo_captions
from stages.formats.pseudo_captions import (
    CaptionedImage,
    Captioner,
    CaptionStatus,
    count_images,
    write_pseudo_captions,
)
from stages.storage.artifact import Output
from tests.factories import make_context, save_tiny_clip

Division = Sequence[Sequence[str]]
KEYS = [f"key{number:02d}" for number in range(12)]


def divided(keys: Sequence[str], rows: int) -> Division:
    return [keys[at : at + rows] for at in range(0, len(keys), rows)]


def write_tar(shards: Output, number: int, keys: Sequence[str]) -> None:
    """Write a shard whose images have no human captions."""
    path = Path(shards.path(f"shards/{number:05d}.tar"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key in keys:
            buffer = io.BytesIO()
            Image.new("RGB", (32, 32), (20 * KEYS.index(key), 90, 60)).save(buffer, "PNG")
            for suffix, content in (("png", buffer.getvalue()), ("json", json.dumps({"key": key}).encode())):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    shards.finish_unit(f"{number:05d}", {})


def write_captions(folder: Path, division: Division, *, unreadable: Sequence[str] = ()) -> Output:
    output = Output(str(folder / "captions"), "caption_images", "p")
    Captioner(
        reference="m", model_type="git", digest="d", num_captions=1, max_new_tokens=9, num_beams=1, temperature=1.0,
        images="all",
    ).write(output)  # fmt: skip
    for number, keys in enumerate(division):
        lost = set(keys) & set(unreadable)
        images = [CaptionedImage(key, CaptionStatus.CAPTIONED, [f"of {key}"]) for key in keys if key not in lost]
        write_pseudo_captions(output, f"{number:05d}", images)
        count_images(images, {"corrupt_image": len(lost)} if lost else {}).finish(output, f"{number:05d}")
    return output


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EmbedClipConfig:
    models = [{"kind": "folder", "path": save_tiny_clip(tmp_path_factory.mktemp("clip") / "clip")}]
    return EmbedClipConfig.model_validate({"clip": {"models": models}})


def embed(
    config: EmbedClipConfig, shards: Output, captions: Output, folder: Path, context: StageContext | None = None
) -> dict[str, list[str]]:
    """Return the first pseudo-caption of each image by shard."""
    output = Output(str(folder / "embedded"), "embed_clip", "e")
    run(config, {"download_shards": shards, "caption_images": captions}, output, context or make_context())
    return {
        name: [next(iter(captions), "") for captions in load_pseudo_captions(output, name)]
        for name in sorted(EmbeddingsRecord.done(output))
        if load_keys(output, name)
    }


def downloaded(folder: Path, division: Division) -> Output:
    shards = Output(str(folder / "shards"), "download_shards", "s")
    for number, keys in enumerate(division):
        write_tar(shards, number, keys)
    return shards


@pytest.mark.parametrize(
    ("now", "before", "found"),
    [
        (divided(KEYS, 3), divided(KEYS[:9], 3), r"1 of 4 shards \(00003\)"),  # the download has grown by a shard
        (
            divided(KEYS, 3),
            divided(KEYS[:10], 3),
            r"2 of the 3 images of shard 00003 .*'key10'",
        ),  # and by a part of one
        (divided(KEYS, 2), divided(KEYS, 4), r"3 of 6 shards \(00003, 00004, 00005\)"),
        (divided(KEYS, 4), divided(KEYS, 2), r"2 of the 4 images of shard 00000 .*'key02'"),
        (divided(KEYS[:6], 2), divided(KEYS, 4), r"2 of the 2 images of shard 00001 .*'key02'"),  # names of all shards
    ],
)
def test_captions_of_other_images_are_refused(
    config: EmbedClipConfig, tmp_path: Path, now: Division, before: Division, found: str
) -> None:
    shards, captions = downloaded(tmp_path, now), write_captions(tmp_path, before)
    with pytest.raises(InputFault, match=f"caption_images: found nothing of {found}.*reuse.caption_images"):
        embed(config, shards, captions, tmp_path)


def test_captions_of_more_images_are_taken_by_key_and_unreadable_ones_have_none(
    config: EmbedClipConfig, tmp_path: Path
) -> None:
    """Of the present download the last shard is missing, and an image of the first; key04 could not be captioned."""
    shards = downloaded(tmp_path, [KEYS[1:3], KEYS[3:6], KEYS[6:9]])
    captions = write_captions(tmp_path, divided(KEYS, 3), unreadable=[KEYS[4]])
    texts = {key: "" if key == KEYS[4] else f"of {key}" for key in KEYS}
    assert embed(config, shards, captions, tmp_path) == {
        "00000": [texts[key] for key in KEYS[1:3]],
        "00001": [texts[key] for key in KEYS[3:6]],
        "00002": [texts[key] for key in KEYS[6:9]],
    }


def test_finished_captions_wait_for_shards_that_are_still_downloaded(config: EmbedClipConfig, tmp_path: Path) -> None:
    """A shard is finished at every second poll of the download, which begins without any."""
    division = divided(KEYS, 4)
    shards, captions = downloaded(tmp_path, ()), write_captions(tmp_path, division)
    polls = 0

    def state_of(name: str) -> InputState:
        nonlocal polls
        if name != "download_shards":
            return "done"
        polls += 1
        if polls % 2 == 0 and polls // 2 <= len(division):
            write_tar(shards, polls // 2 - 1, division[polls // 2 - 1])
        return "running" if polls // 2 < len(division) else "done"

    context = replace(make_context(), input_state=state_of)
    embedded = embed(config, shards, captions, tmp_path, context)
    assert embedded == {f"{number:05d}": [f"of {key}" for key in keys] for number, keys in enumerate(division)}


def test_an_image_that_only_this_download_has_goes_without(
    config: EmbedClipConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As one whose address did not answer before."""
    shards = Output(str(tmp_path / "shards"), "download_shards", "s")
    write_tar(shards, 0, KEYS)
    captions = write_captions(tmp_path, [KEYS[1:]])
    assert embed(config, shards, captions, tmp_path)["00000"] == ["", *(f"of {key}" for key in KEYS[1:])]
    assert "found nothing of 1 of the 12 images of shard 00000" in caplog.text
