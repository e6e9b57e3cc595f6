"""Which embeddings to make, and how to keep them."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from stages.contract.bounds import Count
from stages.contract.config import Address, ConfigModel, RuntimeOnly
from stages.contract.digests import content_digest, remote_checksums
from stages.contract.stage import StageConfig
from stages.encoders.config import ClipConfig, TextStatesConfig
from stages.formats.embeddings.foreign_names import end_alike
from stages.storage.filesystems import is_remote


class ExistingEmbeddings(ConfigModel):
    """Embeddings that are there already, in the layout of clip-retrieval and LAION."""

    path: Address = Field(
        description="a folder of image embeddings, metadata and, where there are captions, text embeddings, here or at "
        "any address that fsspec knows (s3://, gs://)"
    )
    key_column: str | None = Field(None, description="metadata's column of the keys; none: key, else image_path")
    caption_column: str = Field("caption", description="metadata's column of the captions")
    with_shards: bool = Field(
        True, description="join them by key to the images of download_shards; false: they stand alone, for a prior"
    )
    same_captions: bool = Field(
        True,
        description="refuse to join where nine in ten of the images have another caption in the metadata than in the "
        "shards, as where keys are those of other tars; false: the captions were changed since",
    )

    def identity(self) -> dict[str, Any]:
        """Return the content of a local folder, or names and checksums as a remote store tells them."""
        if is_remote(self.path):
            content: Any = remote_checksums(self.path, "*/*")
            names = [name for name, _ in content]
        else:
            content = content_digest(Path(self.path))
            names = [f"{file.parent.name}/{file.name}" for file in Path(self.path).glob("*/*")]
        joined = {"join_version": 2} if self.with_shards else {}  # 1 joined a key of several rows to the first of them
        parts = {"parts": "by whole names"} if end_alike(names) else {}  # of those that end alike all but one were lost
        return self.model_dump(exclude={"same_captions"}) | {"path": content} | joined | parts


class EmbedClipConfig(StageConfig):
    """Embed every image and every caption of the shards by CLIP."""

    stage: ClassVar[str] = "embed_clip"
    code_version: ClassVar[int] = 3
    grows: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True

    clip: ClipConfig
    storage: Literal["float16", "float32"] = Field("float16", description="type of the stored numbers")
    gpu_precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float16", description="of the arithmetic on a GPU; on a CPU it is float32"
    )
    texts: bool = Field(
        True, description="embed the captions too; false: look into none, for a domain that is to need none"
    )
    text_states: TextStatesConfig | None = Field(
        None, description="token states of the captions to make as well, which a prior may read: t5, clip; none: none"
    )
    existing: ExistingEmbeddings | None = Field(
        None, description="take these embeddings, which clip.models made, instead of computing any; none: compute"
    )
    batch_size: Annotated[Count, RuntimeOnly()] = Field(64, description="images at a time")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The shards, unless existing embeddings stand alone, and the CLIP model where that is trained."""
        alone = self.existing is not None and not self.existing.with_shards
        return self.clip.inputs if alone else ("download_shards", *self.clip.inputs)

    @property
    def streams_from(self) -> tuple[str, ...]:
        """A shard is embedded as soon as it is downloaded."""
        return ("download_shards",) if self.existing is None else ()

    @property
    def reads_pseudo_captions(self) -> bool:
        """Whether it embeds pseudo-captions, too."""
        return self.texts and self.existing is None

    @property
    def per_shard_inputs(self) -> tuple[str, ...]:
        """The shards and their pseudo-captions."""
        return ("download_shards", "caption_images")

    @model_validator(mode="after")
    def _existing_have_no_states(self) -> "EmbedClipConfig":
        if self.existing is not None and self.text_states is not None:
            raise ValueError(
                "text_states: existing embeddings come without token states: leave out text_states, or existing"
            )
        return self

    @model_validator(mode="after")
    def _existing_are_of_clip(self) -> "EmbedClipConfig":
        if self.existing is not None and self.clip.images is not None:
            raise ValueError(
                "existing is given with clip.images, and existing embeddings of images and texts are of CLIP models "
                "alone: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _no_texts_at_all(self) -> "EmbedClipConfig":
        if not self.texts and (self.text_states is not None or self.existing is not None):
            found = "text_states" if self.text_states is not None else "existing"
            raise ValueError(f"texts is false with {found}, which has texts: leave out one of them")
        return self

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; texts are said to be left out only where they are."""
        identity = super().identity()
        if self.texts:
            del identity["texts"]
        return identity
