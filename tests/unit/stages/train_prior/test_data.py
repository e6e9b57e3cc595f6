"""The pairs of a prior: every caption with its own embedding and states, and only those."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from stages.contract.errors import InputFault
from stages.formats.embeddings.reader import open_text_states
from stages.storage.artifact import Artifact, Output
from stages.train_prior.data import Divided, Pairs, load_pairs
from tests.unit.stages.train_prior.pieces import DIM, ROWS, SHARDS, STATE_WIDTH, make_embeddings, prior_config

BOTH = ("t5", "clip")


def pairs_of(embeddings: Artifact, states: tuple[str, ...] = (), **changes: Any) -> tuple[Pairs, Pairs]:
    divided = load_pairs(prior_config("gaussian", **changes), embeddings, states)
    return divided.train, divided.held_out


def test_one_caption_an_image_gives_the_rows_of_the_files(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path)
    train, held_out = pairs_of(embeddings)
    assert len(train) + len(held_out) == ROWS * SHARDS // 2
    image, text = train.take(torch.tensor([3, 0, 3]), torch.tensor([0.0, 0.99, 0.5]))
    assert torch.equal(image, train.image[[3, 0, 3]])
    assert torch.equal(text.embedding, train.text[[3, 0, 3]])
    torch.testing.assert_close(text.embedding, image.flip(1) + 0.1, atol=0.01, rtol=0.01)  # as the pairs were made
    assert text.states == {}


def test_an_image_gives_each_of_its_captions_by_choice(tmp_path: Path) -> None:
    train, _ = pairs_of(make_embeddings(tmp_path, num_captions=3, states=BOTH), BOTH)
    assert train.starts.diff().unique().tolist() == [3]
    rows = torch.tensor([5, 5, 5, 5])
    image, text = train.take(rows, torch.tensor([0.0, 0.4, 0.999, 1.0 - 2**-53], dtype=torch.float64))
    assert torch.equal(image, train.image[rows])
    assert torch.equal(text.embedding, train.text[[15, 16, 17, 17]])
    torch.testing.assert_close(text.embedding[0], image[0].flip(0) + 0.1, atol=0.01, rtol=0.01)  # the first caption
    random_inputs = torch.from_numpy(np.random.default_rng(0).random(3000))
    generated = train.take(torch.full((3000,), 5), random_inputs)[1].embedding
    fractions = [float((generated == train.text[row]).all(1).double().mean()) for row in (15, 16, 17)]
    assert all(abs(fraction - 1 / 3) < 0.05 for fraction in fractions)  # 5 standard deviations of a fair choice


def test_states_are_those_of_the_caption_that_is_taken(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path, num_captions=2, states=BOTH)
    train, _ = pairs_of(embeddings, BOTH)
    _, text = train.take(torch.tensor([0, 7]), torch.tensor([0.0, 0.9]))
    assert list(text.states) == list(BOTH)
    for name in BOTH:
        states = text.states[name]
        for number, caption in enumerate((0, 15)):
            shard, row = int(train.states.shard[caption]), int(train.states.row[caption])
            expected = open_text_states(embeddings, f"{shard:05d}", name, width=STATE_WIDTH).of(row)
            length = int(states.lengths[number])
            assert np.array_equal(states.values[number, :length].numpy(), expected)
            assert (states.values[number, length:] == 0).all()
        assert states.values.shape[1] == int(states.lengths.max())
    keys = pq.read_table(embeddings.local("extra_captions/extra_captions_00000.parquet")).to_pydict()
    further = int(train.states.row[15]) - ROWS  # in the shard's files, further captions stand behind the rows
    assert keys["row"][further] == int(train.states.row[14])  # of the same image as its first caption


def test_states_stay_on_disk(tmp_path: Path) -> None:
    train, _ = pairs_of(make_embeddings(tmp_path, states=("t5",)), ("t5",))
    assert all(isinstance(shard.values, np.memmap) for shard in train.states.files["t5"])


def test_states_and_further_captions_change_no_image_and_no_first_caption(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path / "states", states=BOTH)
    for without, beside in zip(pairs_of(embeddings), pairs_of(embeddings, BOTH), strict=True):
        assert torch.equal(without.image, beside.image)
        assert torch.equal(without.text, beside.text)
    one, three = (pairs_of(make_embeddings(tmp_path / str(count), num_captions=count)) for count in (1, 3))
    for single, several in zip(one, three, strict=True):
        assert torch.equal(single.image, several.image)
        assert torch.equal(single.text, several.text[::3])


def test_the_first_pairs_keep_their_captions(tmp_path: Path) -> None:
    train, _ = pairs_of(make_embeddings(tmp_path, num_captions=2, states=("clip",)), ("clip",))
    first, choice = train.select(torch.arange(len(train)) < 4), torch.tensor([0.0, 0.9])
    (image, text), (image_of_all, text_of_all) = (p.take(torch.tensor([1, 3]), choice) for p in (first, train))
    assert (len(first), len(first.text)) == (4, 8)
    assert torch.equal(image, image_of_all)
    assert torch.equal(text.embedding, text_of_all.embedding)
    assert torch.equal(text.states["clip"].values, text_of_all.states["clip"].values)


def test_a_fraction_selects_images_with_all_their_captions(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path, num_captions=3)
    parts = pairs_of(embeddings, captions={"fraction": 0.5})
    assert 0.3 < sum(map(len, parts)) / (ROWS * SHARDS / 2) < 0.7
    assert sum(len(part.text) for part in parts) == 3 * sum(map(len, parts))


def test_states_that_are_not_there_are_asked_for_in_a_sentence(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path, states=("clip",))
    with pytest.raises(InputFault, match=r"asks for t5, but the embeddings .*hold text states of clip: set embed_clip"):
        pairs_of(embeddings, BOTH)


def replace(output: Output, kind: str, content: np.ndarray) -> None:
    with output.writing(f"{kind}/{kind}_00001.npy") as path, path.open("wb") as file:
        np.save(file, content)


def test_files_that_do_not_fit_are_reported_apart(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path, states=("t5",))
    states = open_text_states(embeddings, "00001", "t5", width=STATE_WIDTH)
    replace(embeddings, "t5_states", np.zeros((len(states.values), STATE_WIDTH + 1), dtype=np.float16))
    with pytest.raises(InputFault, match=r"text states \(t5\) of shard 00001 are \[\d+, 4\]: expected \[\d+, 3\]"):
        pairs_of(embeddings, ("t5",))
    replace(embeddings, "text_emb", np.zeros((ROWS, DIM + 1), dtype=np.float16))
    with pytest.raises(InputFault, match=rf"text embeddings of shard 00001 are \[{ROWS}, 7\]: expected \[{ROWS}, 6\]"):
        pairs_of(embeddings)
    for kind in ("img_emb", "text_emb"):
        replace(embeddings, kind, np.zeros((ROWS, DIM + 1), dtype=np.float16))
    with pytest.raises(InputFault, match=r"shard 00000 have 6 dimensions, but those of shard 00001 7: expected one"):
        pairs_of(embeddings)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path, states=("t5",))
    states = np.array(open_text_states(embeddings, "00001", "t5", width=STATE_WIDTH).values)
    states[:] = np.inf
    replace(embeddings, "t5_states", states)
    train, _ = pairs_of(embeddings, ("t5",))
    with pytest.raises(InputFault, match="text states of t5 hold numbers that are not finite"):
        train.take(torch.arange(len(train)), torch.zeros(len(train)))
    image = np.load(embeddings.local("img_emb/img_emb_00001.npy"))
    image[0, 0] = np.nan
    replace(embeddings, "img_emb", image)
    with pytest.raises(InputFault, match=r"1 of \d+ image embeddings hold numbers that are not finite"):
        pairs_of(embeddings)


def test_an_image_without_a_first_caption_has_none(tmp_path: Path) -> None:
    """The table of captions says which rows count, whatever text embedding stands there."""
    embeddings = make_embeddings(tmp_path)
    table = pq.read_table(embeddings.local("metadata/metadata_00001.parquet")).to_pydict()
    table["has_caption"] = [False] * ROWS
    with embeddings.writing("metadata/metadata_00001.parquet") as path:
        pq.write_table(pa.table(table), path)
    assert sum(map(len, pairs_of(embeddings))) == ROWS * (SHARDS - 1) // 2


def test_fractions_of_the_captions_are_validated_on_the_same_pairs_if_asked_for(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path)

    def divided(fraction: float, **validation: Any) -> Divided:
        config = prior_config("gaussian", captions={"fraction": fraction}, validation=validation)
        return load_pairs(config, embeddings)

    whole = divided(1.0)
    few, few_on_all = divided(0.5), divided(0.5, all_captions=True)
    assert few_on_all.held_out_samples == whole.held_out_samples != few.held_out_samples
    assert torch.equal(few_on_all.held_out.image, whole.held_out.image)
    assert torch.equal(few_on_all.train.image, few.train.image)
    assert len(few.train) < len(whole.train)
    assert few_on_all.record.train_images == few.record.train_images
    assert few_on_all.human_images == few.human_images < whole.human_images


def test_all_captions_of_a_validation_are_human_ones_and_by_default_no_fingerprint_knows_them() -> None:
    with pytest.raises(ValueError, match=r"validation\.all_captions is true with pseudo-captions"):
        prior_config("gaussian", captions={"mix": {"pseudo": 0.3}}, validation={"all_captions": True})
    assert "all_captions" not in prior_config("gaussian").identity()["validation"]
    assert prior_config("gaussian", validation={"all_captions": True}).identity()["validation"]["all_captions"]
