"""Captions' embeddings stand beside the images that are used, whether or not some were filtered out."""

from pathlib import Path

import numpy as np

from stages.formats.captions import CaptionsConfig
from stages.formats.filtered import FilteredEmbeddings
from stages.storage.artifact import Output
from stages.train_decoder.captions import CaptionRows
from tests.unit.stages.encoded import SIZES, color_of, make_embeddings


def test_rows_are_counted_among_those_that_were_kept(tmp_path: Path) -> None:
    embedded, kept = make_embeddings(tmp_path / "e"), Output(str(tmp_path / "k"), "filter_samples", "k")
    rows = np.array([1, 4, 5, 8])  # of shard 0, which holds images 13 to 0; the even ones have captions
    with kept.writing("kept/kept_00000.npy") as path, path.open("wb") as file:
        np.save(file, rows)
    seen = FilteredEmbeddings(embedded.uri, embedded.stage, embedded.fingerprint, kept)
    captions = CaptionRows(seen, ["00000"], CaptionsConfig(), where="text")
    images = SIZES[0] - 1 - rows
    found = captions.read(np.array([[0, number] for number in range(len(rows))]))
    expected = np.array([-np.array(color_of(int(image))) / 255 for image in images])
    assert np.isnan(found).all(1).tolist() == [image % 2 == 1 for image in images]
    np.testing.assert_allclose(found[images % 2 == 0, :3], expected[images % 2 == 0], atol=1e-3)
    assert captions.sizes() == [int((images % 2 == 0).sum())]
    assert captions.rows_at(np.array([[0, 0], [0, 1]])).tolist() == [[0, 0], [0, 2]]
