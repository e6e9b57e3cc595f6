"""Embeddings are read as they were written; filtered ones without the rows that were removed."""

from pathlib import Path

import numpy as np

from stages.formats.captions import CaptionsConfig
from stages.formats.embeddings.layout import EmbeddingsRecord
from stages.formats.embeddings.reader import (
    count_captioned,
    load_captions,
    load_has_caption,
    load_image_rows,
    load_keys,
    load_text_rows,
    shard_rows,
    usable_caption_rows,
)
from stages.formats.embeddings.writer import EncodedCaptions, ShardEmbeddings
from stages.formats.filtered import FilteredEmbeddings, FilterRecord, read_removed, write_filtered
from stages.storage.artifact import Output

IMAGE = np.arange(12, dtype=np.float32).reshape(4, 3)
CAPTIONS = ["a", None, "b", "c"]


def written(folder: Path) -> Output:
    output = Output(str(folder), "embed_clip", "e")
    first, further = EncodedCaptions(), EncodedCaptions()
    first.add(-IMAGE[[0, 2, 3]], {}, rows=[0, 2, 3], count=4, dtype=np.dtype(np.float16))
    further.add(IMAGE[[2]] + 1, {}, rows=[0], count=1, dtype=np.dtype(np.float16))
    shard = ShardEmbeddings(["k0", "k1", "k2", "k3"], list(CAPTIONS), [IMAGE], first, [(2, "b2")], further)
    shard.write("00000", output, storage=np.dtype(np.float16), embed_dim=3, widths={})
    EmbeddingsRecord(rows=4, captioned=3, failures={}, extra_captions=1).finish(output, "00000")
    return output


def test_rows_come_back(tmp_path: Path) -> None:
    output = written(tmp_path)
    assert output.done_units() == {"00000": {"rows": 4, "captioned": 3, "failures": {}, "extra_captions": 1}}
    assert load_captions(output, "00000") == [["a"], [], ["b", "b2"], ["c"]]
    assert load_has_caption(output, "00000").tolist() == [True, False, True, True]
    assert np.array_equal(load_image_rows(output, "00000"), IMAGE)
    text = load_text_rows(output, "00000")
    assert np.isnan(text[1]).all()
    assert np.array_equal(text[[0, 2, 3]], -IMAGE[[0, 2, 3]])


def test_filtered_embeddings_lack_the_removed_rows(tmp_path: Path) -> None:
    source, kept = written(tmp_path / "e"), Output(str(tmp_path / "f"), "filter_samples", "f")
    removed = [{"key": "k0", "cause": "low_clip_score", "value": 0.5, "duplicate_of": None}]
    write_filtered(kept, "00000", np.array([1, 2, 3]), removed)
    FilterRecord(rows=3, captioned=2, removed={"low_clip_score": 1}).finish(kept, "00000")
    filtered = FilteredEmbeddings(source.uri, source.stage, source.fingerprint, kept)
    assert (shard_rows(filtered), count_captioned(filtered)) == ({"00000": 3}, 2)
    assert load_keys(filtered, "00000") == ["k1", "k2", "k3"]
    assert load_captions(filtered, "00000") == [[], ["b", "b2"], ["c"]]
    assert usable_caption_rows(filtered, "00000", CaptionsConfig()).tolist() == [1, 2]
    assert np.array_equal(load_image_rows(filtered, "00000"), IMAGE[1:])
    assert np.isnan(load_text_rows(filtered, "00000")[0]).all()
    assert read_removed(kept, "00000") == removed
