"""The CLIP models of an artifact: written, read and compared in one place."""

from pathlib import Path

import pytest

from stages.contract.errors import ArtifactError
from stages.formats.clip_folders import local_clip
from stages.formats.clips import ClipIdentity, Clips, read_clips, record_clips, require_same_clips, write_clips
from stages.storage.artifact import Output


def clips(*digests: str, owner: str = "the embeddings") -> Clips:
    models = [
        ClipIdentity(reference=f"clip{number}", digest=digest, embed_dim=number + 3, image_size=8)
        for number, digest in enumerate(digests)
    ]
    return Clips(tuple(models), owner)


def output_in(folder: Path) -> Output:
    return Output(str(folder), "embed_clip", "e")


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    output = output_in(tmp_path)
    write_clips(output, clips("a", "b"))
    assert output.read_json("clips.json")[0] == {
        "reference": "clip0", "digest": "a", "embed_dim": 3, "image_size": 8,
    }  # fmt: skip
    found = read_clips(output)
    assert found.models == clips("a", "b").models
    assert (found.block_dims, found.embed_dim, found.normalised) == ([3, 4], 7, False)
    write_clips(output, found.with_normalised())
    assert read_clips(output).normalised
    assert all(model["normalised"] is True for model in output.read_json("clips.json"))


def test_other_weights_are_refused_with_both_sides_and_what_to_do() -> None:
    require_same_clips("generate", clips("a", "b"), clips("a", "b"), "nothing")
    words = (
        r"^generate: the CLIP models differ: the prior: clip0 \(aaaaaaaa\); the decoder: clip0 \(bbbbbbbb\): "
        r"expected the same weights: train both alike$"
    )
    with pytest.raises(ArtifactError, match=words):
        require_same_clips("generate", clips("a" * 64, owner="the prior"), clips("b" * 64, owner="the decoder"),
                           "train both alike")  # fmt: skip
    with pytest.raises(ArtifactError, match="the CLIP models differ"):
        require_same_clips("generate", clips("a", "b"), clips("b", "a"), "train both alike")


def test_an_output_holds_embeddings_of_one_kind_of_weights(tmp_path: Path) -> None:
    output = output_in(tmp_path)
    record_clips(output, clips("a"))
    record_clips(output, clips("a"))
    with pytest.raises(ArtifactError, match=r"embed_clip: the CLIP models differ: .* weights behind the name have"):
        record_clips(output, clips("b"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"color": "red"},
            r"clips\.json: color: Extra inputs .* expected the fields reference, digest",
        ),
        ({"embed_dim": "wide"}, r"clips\.json: embed_dim: Input should be a valid integer.* delete .* and run again"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    output = output_in(tmp_path)
    output.write_json("clips.json", [clips("a").to_json()[0] | change])
    with pytest.raises(ArtifactError, match=words):
        read_clips(output)


@pytest.mark.parametrize("content", [None, 5, "clip", {"clip": 1}])
def test_what_is_no_list_is_refused(tmp_path: Path, content: object) -> None:
    output = output_in(tmp_path)
    output.write_json("clips.json", content)
    with pytest.raises(
        ArtifactError, match=r"clips\.json: found .* for the CLIP models: expected a list of them: delete"
    ):
        read_clips(output)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    with pytest.raises(ArtifactError, match=r"has no file 'clip/open_clip_config\.json'"):
        local_clip(output_in(tmp_path))
