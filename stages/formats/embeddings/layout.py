"""The files of the embeddings of a shard, its record, and the identities of the text encoders.

img_emb, text_emb      [rows, embed], as embedding-reader and clip-retrieval have them; no caption: NaN
metadata               key, caption (the first), has_caption
extra_text_emb         [further captions, embed], where there are any
extra_captions         key, row, caption of each of them, in the order of the rows
pseudo_text_emb        [pseudo-captions, embed], where caption_images made any
pseudo_captions        key, row, caption of each of them, in the order of the rows; captioner.json says who made them
<encoder>_states       [tokens of all captions, width]
<encoder>_offsets      [rows + further captions + pseudo-captions + 1]: where the tokens of each caption begin
"""

from collections.abc import Mapping
from typing import ClassVar

from models.priors.spec import TEXT_ENCODERS
from stages.contract.documents import Document, UnitRecord
from stages.contract.errors import ArtifactError
from stages.contract.texts import show_value
from stages.storage.artifact import Artifact, Output

IMAGE, TEXT, METADATA = "img_emb", "text_emb", "metadata"
PSEUDO_TEXT, PSEUDO_CAPTIONS = "pseudo_text_emb", "pseudo_captions"
EXTRA_TEXT, EXTRA_CAPTIONS = "extra_text_emb", "extra_captions"
_TEXT_ENCODERS, _NORMS = "text_encoders.json", "normalisation.json"


def state_kinds(encoder: str) -> tuple[str, str]:
    """Return the names of an encoder's files of states and of offsets."""
    return f"{encoder}_states", f"{encoder}_offsets"


class EmbeddingNorms(Document):
    """Smallest and largest norm over rows and models; None where there is no row."""

    image: tuple[float, float] | None
    text: tuple[float, float] | None


class EmbeddingsRecord(UnitRecord):
    """The record of an embedded shard."""

    counted: ClassVar[Mapping[str, str]] = {
        "images": "rows",
        "captioned": "captioned",
        "extra_captions": "extra_captions",
        "pseudo_captioned": "pseudo_captioned",
        "pseudo_captions": "pseudo_captions",
    }

    rows: int
    captioned: int
    """Images with human captions."""
    failures: Mapping[str, int]
    extra_captions: int = 0
    """Human captions that are not their image's first."""
    pseudo_captioned: int = 0
    """Images with pseudo-captions."""
    pseudo_captions: int = 0
    norms: EmbeddingNorms | None = None
    """Of existing embeddings."""


class NormRange(Document):
    """Smallest and largest norm of one kind of existing embeddings in all shards."""

    smallest_norm: float
    largest_norm: float
    normalised: bool
    """Whether both are 1, within the tolerance."""


def write_norm_ranges(output: Output, ranges: Mapping[str, NormRange], tolerance: float) -> None:
    """Write the norms of existing embeddings, by kind: image, text."""
    found = {kind: norms.to_json() for kind, norms in ranges.items()}
    output.write_json(_NORMS, {"tolerance": tolerance, **found})


class TextEncoderIdentity(Document):
    """What tells the text states of one encoder from another's."""

    reference: str
    digest: str
    """SHA-256 of all that the states depend on."""
    width: int
    max_length: int
    source: Mapping[str, str]
    """The fields of a TextModel that find the model again; none for CLIP, which is configured wherever it is used."""

    def __str__(self) -> str:
        """Return the reference, the beginning of the digest and the width."""
        return f"{self.reference} ({self.digest[:8]}, width {self.width})"


TextEncoders = Mapping[str, TextEncoderIdentity]


def read_text_encoders(embeddings: Artifact) -> TextEncoders:
    """Return which encoders the text states are of, in the order of TEXT_ENCODERS; empty where there are none."""
    if not embeddings.exists(_TEXT_ENCODERS):
        return {}
    content = embeddings.read_json(_TEXT_ENCODERS)
    return parse_text_encoders(content, embeddings, _TEXT_ENCODERS)


def parse_text_encoders(content: object, artifact: Artifact, file: str) -> TextEncoders:
    """Return the encoders described in the artifact's file."""
    if not isinstance(content, Mapping):
        raise ArtifactError(
            f"{artifact.stage}: {artifact.path(file)}: found {show_value(content)} for the text encoders: expected a "
            f"mapping of their names: delete {artifact.uri} and run again"
        )
    names = [name for name in TEXT_ENCODERS if name in content]
    return {name: TextEncoderIdentity.parse(content[name], artifact, file) for name in names}


def record_text_encoders(output: Output, encoders: TextEncoders) -> None:
    """Write the encoders before the first states, or compare them with those of the states that are there."""
    recorded = read_text_encoders(output)
    if not recorded and encoders:
        output.write_json(_TEXT_ENCODERS, {name: encoder.to_json() for name, encoder in encoders.items()})
    for name, encoder in encoders.items():
        if recorded and recorded[name].digest != encoder.digest:
            raise ArtifactError(
                f"{output.stage}: {output.uri} holds text states of {recorded[name]}, but the configured encoder is "
                f"{encoder}: the weights behind the name have changed: delete the folder and run again"
            )
