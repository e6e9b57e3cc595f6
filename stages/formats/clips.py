"""Which CLIP models an artifact is of, and which encoder of images beside them: the one document of it, and the one
comparison.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stages.contract.documents import Document
from stages.contract.errors import ArtifactError, InputFault
from stages.contract.parsing import parsing
from stages.contract.texts import show_value
from stages.storage.artifact import Artifact, Output

_FILE = "clips.json"


class ClipIdentity(Document):
    """What tells one CLIP model from another, or one encoder of images."""

    reference: str
    digest: str
    """SHA-256 of weights and image preprocessing."""
    embed_dim: int
    image_size: int
    normalised: bool = False
    """Whether the embeddings have length 1, as existing ones often have; those of embed_clip have not."""
    encodes: Literal["both", "images", "texts"] = "both"
    """Of what its embeddings are: with an encoder of images beside them, CLIP models encode texts alone."""

    def __str__(self) -> str:
        """Return the reference and the beginning of the digest."""
        return f"{self.reference} ({self.digest[:8]})"


@dataclass(frozen=True)
class Clips:
    """CLIP models, in the order in which their embeddings are concatenated; an encoder of images comes last."""

    models: tuple[ClipIdentity, ...]
    owner: str
    """What belongs to them, for messages."""

    @classmethod
    def parse(cls, content: Any, artifact: Artifact, name: str, *, owner: str) -> "Clips":
        """Return the models listed in the artifact's file ``name``."""
        if not isinstance(content, list):
            raise ArtifactError(
                f"{artifact.stage}: {artifact.path(name)}: found {show_value(content)} for the CLIP models: expected a "
                f"list of them: delete {artifact.uri} and run again"
            )
        return cls(tuple(ClipIdentity.parse(one, artifact, name) for one in content), owner)

    def __iter__(self) -> Iterator[ClipIdentity]:
        return iter(self.models)

    def __str__(self) -> str:
        """Return the models' names, joined as their embeddings are."""
        return " + ".join(map(str, self.models)) or "(none)"

    @property
    def digests(self) -> list[str]:
        """What is compared."""
        return [model.digest for model in self.models]

    @property
    def of_images(self) -> list[ClipIdentity]:
        """Those that embed images."""
        return [model for model in self.models if model.encodes != "texts"]

    @property
    def is_one_space(self) -> bool:
        """Whether the embeddings of images and of texts can be compared."""
        return all(model.encodes == "both" for model in self.models)

    @property
    def block_dims(self) -> list[int]:
        """Sizes of the concatenated blocks of an image embedding."""
        return [model.embed_dim for model in self.of_images]

    @property
    def embed_dim(self) -> int:
        """Size of the whole embedding of an image."""
        return sum(self.block_dims)

    @property
    def text_dim(self) -> int:
        """Size of the whole embedding of a text."""
        return sum(model.embed_dim for model in self.models if model.encodes != "images")

    @property
    def normalised(self) -> bool:
        """Whether the embeddings have length 1."""
        return any(model.normalised for model in self.models)

    def with_normalised(self) -> "Clips":
        """Return the same models as those of embeddings that have length 1."""
        return Clips(tuple(model.model_copy(update={"normalised": True}) for model in self.models), self.owner)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the content of the file."""
        return [model.to_json() for model in self.models]


def clips_of_model(config: Mapping[str, Any], artifact: Artifact, folder: str) -> Clips:
    """Return the CLIP models that the configuration of a model, saved in a folder of the artifact, names."""
    with parsing(lambda reason: _nameless(artifact, folder, reason)):
        return Clips.parse(config["clip"], artifact, folder, owner=f"the {folder} in {artifact.uri}")


def _nameless(artifact: Artifact, folder: str, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{artifact.path(folder)}: the {folder}'s configuration names no CLIP models ({reason}): expected those of its "
        f"training: delete the artifact {artifact.uri} and train anew"
    )


def write_clips(output: Output, clips: Clips) -> None:
    """Write which CLIP models the embeddings are of."""
    output.write_json(_FILE, clips.to_json())


def read_clips(embeddings: Artifact) -> Clips:
    """Return which CLIP models the embeddings are of."""
    return Clips.parse(embeddings.read_json(_FILE), embeddings, _FILE, owner=f"the embeddings in {embeddings.uri}")


def has_clips(artifact: Artifact) -> bool:
    """Whether an artifact says of which CLIP models its embeddings are."""
    return artifact.exists(_FILE)


def require_one_space(where: str, clips: Clips, remedy: str) -> None:
    """Refuse to compare texts with images whose embeddings are of different encoders."""
    if not clips.is_one_space:
        raise InputFault(
            f"{where}: compares texts with images, and {clips.owner} are of {clips}, of which one embeds images alone: "
            f"expected CLIP models for both: {remedy}"
        )


def record_clips(output: Output, clips: Clips) -> None:
    """Write the CLIP models before the first embedding, or compare them with those of the embeddings that are there."""
    if output.exists(_FILE):
        remedy = "the weights behind the name have changed: delete the folder and run again"
        require_same_clips(output.stage, read_clips(output), clips, remedy)
    else:
        write_clips(output, clips)


def require_same_clips(where: str, first: Clips, second: Clips, remedy: str) -> None:
    """Refuse two lists of CLIP models of different weights; ``where`` and ``remedy`` begin and end the message."""
    if first.digests != second.digests:
        raise ArtifactError(
            f"{where}: the CLIP models differ: {first.owner}: {first}; {second.owner}: {second}: "
            f"expected the same weights: {remedy}"
        )
