"""The samples of a run's shards: pages of them, single images, and what searching in their embeddings finds."""

import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast

from pydantic import ValidationError

from pipeline.config.schema import RunConfig
from pipeline.dashboard.neighbours import Compared, EmbeddingIndex, Found, split_of_plan
from pipeline.dashboard.projection import Projection
from pipeline.dashboard.reader import NotThere, Reader, version_of
from pipeline.errors import UsageError
from pipeline.record import RunRecord
from pipeline.stored_models import find_stored_models
from stages.contract.parsing import shown
from stages.embed_clip.config import EmbedClipConfig
from stages.encoders.config import local_clips
from stages.formats.clips import read_clips
from stages.formats.image_grids import to_png
from stages.formats.images import decode_image
from stages.formats.shards import EntryStatus, ShardRecord, index_images, read_member, read_table, shard_tar
from stages.formats.worst_samples import WorstSamples
from stages.storage.artifact import Artifact, unit_record

PAGE: Final = 48
SHARDS: Final = 100
"""Shards whose records are read at a time: there may be very many."""
SHOWN_SIDE: Final = 384
"""Pixels of the longer side of an image that is shown."""
FOUND: Final = 24
_SHARD: Final = re.compile(r"[0-9]{1,20}")
"""What may be the name of a shard, so that no other file is asked for."""
_NOT_COMPARED: Final = "its images are embedded by another encoder than texts, so that the two cannot be compared"
_encoders: dict[tuple[str, ...], Any] = {}
_loading = threading.Lock()


class Samples:
    """What the data browser reads of the runs of a store; the last two embeddings that were searched stay in memory."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._index = lru_cache(maxsize=2)(_read_index)
        self._projection = lru_cache(maxsize=2)(_read_projection)

    def shards(self, run: str, first: int) -> dict[str, Any]:
        """Return some of the shards that a run has by now, with the number of their images, and how many there are."""
        artifact = self._shards(run)
        names = sorted(artifact.unit_names())
        records = ShardRecord.some(artifact, names[first : first + SHARDS])
        return {"shards": {name: one.images for name, one in records.items()}, "first": first, "total": len(names)}

    def page(self, run: str, shard: str, first: int) -> list[dict[str, Any]]:
        """Return some samples of a shard: key, captions and size."""
        self._require_shard(run, shard)
        columns = ("key", "status", "caption", "captions", "width", "height")
        table = read_table(self._shards(run), shard, columns).to_pylist()
        rows = [row for row in table if row["status"] == EntryStatus.SUCCESS]
        return [
            {
                "shard": shard,
                "key": row["key"],
                "captions": _captions(row),
                "width": row.get("width"),
                "height": row.get("height"),
            }
            for row in rows[first : first + PAGE]
        ]

    def image(self, run: str, shard: str, key: str) -> bytes:
        """Return an image of a shard as PNG, at most SHOWN_SIDE pixels; NotThere: it has none of this key."""
        self._require_shard(run, shard)
        tar = shard_tar(self._shards(run), shard)
        span = _spans(tar, tar.stat().st_mtime_ns).get(key)  # a shard that was damaged is made again in its place
        if span is None:
            raise NotThere(f"shard {shown(shard)}: has no image {shown(key)}")
        image = decode_image(read_member(tar, *span), where=f"shard {shard}, key {key}", smallest_side=SHOWN_SIDE)
        image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        return to_png(image)

    def search_text(self, run: str, text: str) -> dict[str, Any]:
        """Return the images nearest to a text, by the run's own CLIP; UsageError: that does not embed images."""
        index, encoders = self.index(run), self._encoders(run)
        if not encoders.is_one_space:
            raise UsageError(f"run {shown(run)}: {_NOT_COMPARED}; search by one of its images")
        query = encoders.clip.encode_texts([text])[0].numpy()
        return self._found(index, index.nearest(query, FOUND))

    def search_image(self, run: str, encoded: bytes) -> dict[str, Any]:
        """Return the images nearest to an image from outside, by the run's own encoder; ImageFault: it is none."""
        index, image = self.index(run), decode_image(encoded, where="the image that was sent")
        query = self._encoders(run).images.encode_images([image])[0].numpy()
        return self._found(index, index.nearest(query, FOUND))

    def search_sample(self, run: str, shard: str, key: str) -> dict[str, Any]:
        """Return the images nearest to one of the run's own, by the stored embeddings."""
        index = self.index(run)
        row = index.row(shard, key)
        if row is None:
            raise NotThere(f"shard {shown(shard)}: the embedding of {shown(key)} is not among those that are searched")
        found = [one for one in index.nearest(index.units[row], FOUND + 1) if one.row != row]
        return self._found(index, found[:FOUND])

    def near_duplicates(self, run: str, least: float) -> dict[str, Any]:
        """Return the pairs of images that are at least so near."""
        index = self.index(run)
        found = index.near_duplicates(least, FOUND)
        return self._pairs(index, found) | {"compared": found.first}

    def lowest(self, run: str) -> dict[str, Any]:
        """Return the images whose captions are least like them; UsageError: nothing says how like they are."""
        index = self.index(run)
        if not read_clips(index.embeddings).is_one_space:
            raise UsageError(f"run {shown(run)}: {_NOT_COMPARED}")
        return self._found(index, index.lowest(FOUND))

    def worst(self, run: str) -> list[dict[str, Any]]:
        """Return the held-out samples of the largest loss, by stage; NotThere: no stage has recorded any."""
        record = self._reader.record(run)
        artifacts = {name: self._reader.artifact(record, name) for name in record.plan}
        found = {name: WorstSamples.of(one) for name, one in artifacts.items() if one.exists(WorstSamples.file)}
        if not found:
            raise NotThere(
                f"run {record.run}: no stage of it has recorded the losses of single samples: priors, decoders "
                "and upsamplers do at the end of their training, since this version"
            )
        return [{"stage": name, **self._with_captions(run, one)} for name, one in found.items()]

    def leaks(self, run: str, least: float) -> dict[str, Any]:
        """Return held-out images that are at least so near to one of training; NotThere: the run has no split."""
        index, record = self.index(run), self._reader.record(run)
        split = split_of_plan({name: one.identity for name, one in record.plan.items()})
        if split is None:
            raise NotThere(f"run {record.run}: no stage of it recorded a split, so no image is known to be held out")
        held_out = index.held_out(split)
        found = index.leaks(held_out, least, FOUND)
        return self._pairs(index, found) | {
            "held_out": int(held_out.sum()),
            "trained": int((~held_out).sum()),
            "compared_held_out": found.first,
            "compared_trained": found.second,
        }

    def index(self, run: str) -> EmbeddingIndex:
        """Return the embeddings of a run that are there by now, to be searched."""
        with self._lock:
            embeddings = self._reader.embeddings(self._reader.record(run))
            return self._index(embeddings, version_of(embeddings))

    def projection(self, run: str) -> Projection:
        """Return the Gaussians of a run in two dimensions, with the embeddings that are there by now."""
        with self._lock:
            record = self._reader.record(run)
            gaussians, embeddings = self._reader.artifact(record, "fit_gaussians"), self._reader.embeddings(record)
            return self._projection(gaussians, embeddings, version_of(gaussians), version_of(embeddings))

    def _shards(self, run: str) -> Artifact:
        return self._reader.artifact(self._reader.record(run), "download_shards")

    def _with_captions(self, run: str, worst: WorstSamples) -> dict[str, Any]:
        shards = self._shards(run)
        captions: dict[tuple[str, str], list[str]] = {}
        for shard in {one.shard for one in worst.samples}:
            rows = read_table(shards, shard, ("key", "caption", "captions")).to_pylist()
            captions |= {(shard, row["key"]): _captions(row) for row in rows}
        rows = [one.model_dump() | {"captions": captions.get((one.shard, one.key), [])} for one in worst.samples]
        return worst.model_dump(exclude={"samples"}) | {"rows": rows}

    def _require_shard(self, run: str, shard: str) -> None:
        if not (_SHARD.fullmatch(shard) and self._shards(run).exists(unit_record(shard))):
            raise NotThere(f"run {shown(run)}: has no shard {shown(shard)}")

    def _encoders(self, run: str) -> Any:
        """Return the run's own encoders; they are loaded the first time that they are needed."""
        record = self._reader.record(run)
        trained = [self._reader.artifact(record, name) for name in record.plan if name == "train_clip"]
        key = (self._reader.artifact(record, "embed_clip").fingerprint, *map(version_of, trained))
        with _loading:
            if key not in _encoders:
                _encoders.clear()
                _encoders[key] = self._load_encoders(record)
            return _encoders[key]

    def _load_encoders(self, record: RunRecord) -> Any:
        from stages.encoders.space import make_encoders

        try:
            config = RunConfig.model_validate(record.config).embed_clip
        except ValidationError:
            config = None
        if config is None:
            raise UsageError(f"run {record.run}: its CLIP is not known to this version; search by one of its images")
        section = cast(
            EmbedClipConfig, find_stored_models(config, record.plan["embed_clip"].identity, self._reader.store)
        )
        inputs = {name: self._reader.artifact(record, name) for name in section.clip.inputs}
        return make_encoders(local_clips(section.clip, inputs))

    def _found(self, index: EmbeddingIndex, found: Sequence[Found]) -> dict[str, Any]:
        captions = index.captions([one.row for one in found])
        rows = [_position(index, one.row, captions) | {"score": one.score} for one in found]
        return {"rows": rows, "searched": len(index.units), "total": index.total}

    def _pairs(self, index: EmbeddingIndex, found: Compared) -> dict[str, Any]:
        captions = index.captions([row for one in found.pairs for row in (one.first, one.second)])
        pairs = [
            {"score": one.score, "pair": [_position(index, row, captions) for row in (one.first, one.second)]}
            for one in found.pairs
        ]
        return {"pairs": pairs, "searched": len(index.units), "total": index.total}


def _read_index(embeddings: Artifact, _version: str) -> EmbeddingIndex:
    return EmbeddingIndex.read(embeddings)


def _read_projection(gaussians: Artifact, embeddings: Artifact, *_versions: str) -> Projection:
    return Projection.of(gaussians, embeddings)


def _position(index: EmbeddingIndex, row: int, captions: dict[int, list[str]]) -> dict[str, Any]:
    shard, key = index.position(row)
    return {"shard": shard, "key": key, "captions": captions[row]}


def _captions(row: dict[str, Any]) -> list[str]:
    listed = row.get("captions")
    if isinstance(listed, list) and listed:
        return [str(one) for one in listed]
    return [str(row["caption"])] if row.get("caption") else []


@lru_cache(maxsize=32)
def _spans(tar: Path, _changed: int) -> dict[str, Any]:
    return dict(index_images(tar))
