"""The index of embeddings that a decoder has learned from, in a folder beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from models.retrieval.model import EmbeddingIndex
from models.retrieval.spec import IndexSpec
from stages.contract.errors import ArtifactError
from stages.contract.parsing import parsing
from stages.formats.clips import Clips
from stages.formats.model_folders import save_model
from stages.inference.autoencoder import load_model
from stages.storage.artifact import Artifact, Output

INDEX: Final = "index"


@dataclass(frozen=True)
class LoadedIndex:
    """An index, and of which CLIP models its embeddings are."""

    index: EmbeddingIndex
    clips: Clips


def save_index(output: Output, loaded: LoadedIndex) -> None:
    """Write an index into its folder."""
    save_model(output, INDEX, loaded.index, {"model": loaded.index.spec.to_dict(), "clip": loaded.clips.to_json()})


def load_index(artifact: Artifact) -> LoadedIndex:
    """Read an index.

    Raises:
        ArtifactError: it is damaged, or holds numbers that are not finite.
    """
    index, config = load_model(artifact, INDEX, _read_spec)
    with parsing(lambda reason: _unreadable(artifact, reason)):
        clips = Clips.parse(config["clip"], artifact, INDEX, owner=f"the index in {artifact.uri}")
        if clips.embed_dim != index.spec.embed_dim:
            raise ValueError(f"embeddings of {index.spec.embed_dim} numbers, of CLIP models with {clips.embed_dim}")
        if not index.is_finite():
            raise ValueError("numbers that are not finite, or standard deviations that are not above 0")
        return LoadedIndex(index, clips)


def _read_spec(values: Mapping[str, Any]) -> IndexSpec:
    return IndexSpec.from_dict(values)


def _unreadable(artifact: Artifact, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{artifact.path(INDEX)}: the index of embeddings cannot be used ({reason}): expected one that `corgi export` "
        "wrote: export the run anew"
    )
