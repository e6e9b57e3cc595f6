"""The pseudo-captions that caption_images makes: writer, and readers by shard and key.

captioner.json               which model made them, and how
pseudo_captions/<shard>      of each readable image its key, what became of it, and its pseudo-captions (often one)
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import pyarrow as pa

from stages.contract.documents import Document, UnitRecord
from stages.contract.errors import ArtifactError
from stages.formats.per_shard import load_table, save_table, table_name
from stages.formats.shards import index_images, made_of_other_shards, shard_tar
from stages.storage.artifact import Artifact, Output, unit_record
from stages.storage.takeover import content_of

KIND = "pseudo_captions"
_OF_OTHERS = 0.1  # of a shard's images, of which nothing is known where the captions are of other images
_log = logging.getLogger(__name__)
_SCHEMA = pa.schema(
    [
        *(("key", pa.string()), ("status", pa.string()), ("pseudo_captions", pa.list_(pa.string()))),
        ("empty", pa.int32()),
    ]
)


class CaptionStatus(StrEnum):
    """What became of an image."""

    CAPTIONED = "captioned"
    EMPTY = "empty"
    """The model generated no word."""
    HAS_HUMAN = "has_human_caption"
    """Left to its human caption (caption_images.images: uncaptioned)."""


class PseudoCaptionsRecord(UnitRecord):
    """The record of a shard whose images were captioned."""

    counted: ClassVar[Mapping[str, str]] = {
        "images": "images",
        "pseudo_captioned": "captioned",
        "pseudo_captions": "captions",
        "empty_pseudo_captions": "empty",
        "left_to_human_captions": "has_human",
    }

    images: int
    """Those that could be read, and those left to their human captions."""
    captioned: int
    captions: int
    failures: Mapping[str, int]
    empty: int = 0
    """Generated captions without a word."""
    has_human: int = 0


class Captioner(Document):
    """Which model made the pseudo-captions, and how."""

    file: ClassVar[str] = "captioner.json"

    reference: str
    """The model's folder, for people."""
    model_type: str
    """As transformers names it."""
    digest: str
    """SHA-256 of weights, vocabulary and the preprocessing of images."""
    revision: str = ""
    """The commit that the folder says it is of."""
    prompt: str = ""
    num_captions: int
    max_new_tokens: int
    num_beams: int
    temperature: float
    seed: int | None = None
    """None: nothing is sampled."""
    images: str

    def __str__(self) -> str:
        """Return type, reference and the beginning of the digest."""
        return f"{self.model_type} {self.reference} ({self.digest[:8]})"


def record_captioner(output: Output, captioner: Captioner) -> None:
    """Write the captioner before the first captions, or compare it with that of the captions that are there."""
    if not output.exists(Captioner.file):
        captioner.write(output)
        return
    recorded = Captioner.of(output)
    if recorded.digest != captioner.digest:
        raise ArtifactError(
            f"caption_images: {output.uri} holds pseudo-captions of {recorded}, but the configured model now is "
            f"{captioner}: the files have changed meanwhile: delete the folder and run again"
        )


@dataclass(frozen=True)
class CaptionedImage:
    """What became of an image."""

    key: str
    status: CaptionStatus
    captions: Sequence[str] = ()
    empty: int = 0
    """Generated captions without a word."""


def write_pseudo_captions(output: Output, shard: str, images: Sequence[CaptionedImage]) -> None:
    """Write the images of a shard in their order."""
    columns = {
        "key": [image.key for image in images],
        "status": [image.status.value for image in images],
        "pseudo_captions": [list(image.captions) for image in images],
        "empty": [image.empty for image in images],
    }
    save_table(output, KIND, shard, pa.table(columns, schema=_SCHEMA))


def read_pseudo_captions(artifact: Artifact, shard: str) -> dict[str, list[str]]:
    """Return the pseudo-captions of each image of a shard that has any, by key."""
    return {key: captions for key, captions in _captions_by_key(artifact, shard).items() if captions}


def read_pseudo_captions_of(shards: Artifact, shard: str, artifact: Artifact) -> dict[str, list[str]]:
    """Return the pseudo-captions of each image in the tar of a shard that has any, by key.

    They may have been made of another download of the same entries, such as one of another image size, to which a few
    more or fewer images came: those of which nothing is known are named in a warning.

    Raises:
        InputFault: they are of other images: a tenth is unknown, and more than could not be read when they were made.
    """
    record = PseudoCaptionsRecord.parse(artifact.read_json(unit_record(shard)), artifact, unit_record(shard))
    known, keys = _captions_by_key(artifact, shard), index_images(shard_tar(shards, shard))
    unknown = [key for key in keys if key not in known]
    if len(unknown) > sum(record.failures.values()):
        what = f"{len(unknown)} of the {len(keys)} images of shard {shard} (the first has key {unknown[0]!r})"
        if len(unknown) >= _OF_OTHERS * len(keys):
            raise made_of_other_shards(artifact.stage, f"found nothing of {what}")
        _log.warning("%s: found nothing of %s: they have no pseudo-captions", artifact.stage, what)
    return {key: known[key] for key in keys if known.get(key)}


def _captions_by_key(artifact: Artifact, shard: str) -> dict[str, list[str]]:
    table = load_table(artifact, KIND, shard, ["key", "pseudo_captions"])
    return {row["key"]: row["pseudo_captions"] for row in table.to_pylist()}


def pseudo_captions_content(artifact: Artifact, shard: str) -> str | None:
    """Return what identifies a shard's pseudo-captions; None: its record has no checksum of them."""
    return content_of(artifact, shard, table_name(KIND, shard))


def take_part(source: Artifact, unit: str, shards: Artifact, output: Output, name: str) -> PseudoCaptionsRecord | None:
    """Write the pseudo-captions of a shard whose images are some of those of an earlier artifact's unit.

    None: not all of its images are there, and it is not known by key what became of them.
    """
    record = PseudoCaptionsRecord.parse(source.read_json(unit_record(unit)), source, unit_record(unit))
    known = {row["key"]: row for row in load_table(source, KIND, unit).to_pylist()}
    keys = list(index_images(shard_tar(shards, name)))
    if record.failures or not known.keys() >= set(keys):
        return None
    rows = [known[key] for key in keys]
    images = [
        CaptionedImage(row["key"], CaptionStatus(row["status"]), row["pseudo_captions"], row["empty"]) for row in rows
    ]
    write_pseudo_captions(output, name, images)
    return count_images(images, {})


def count_images(images: Sequence[CaptionedImage], failures: Mapping[str, int]) -> PseudoCaptionsRecord:
    """Return the record of a shard."""
    return PseudoCaptionsRecord(
        images=len(images),
        captioned=sum(bool(image.captions) for image in images),
        captions=sum(len(image.captions) for image in images),
        failures=failures,
        empty=sum(image.empty for image in images),
        has_human=sum(image.status is CaptionStatus.HAS_HUMAN for image in images),
    )
