"""Which models encode images and texts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from stages.contract.bounds import Count
from stages.contract.config import AnyAddress, ConfigModel, ExternalPath, RuntimeOnly
from stages.formats.clip_folders import local_clip
from stages.formats.stored_models import local_model, model_in
from stages.storage.artifact import Artifact

TRAIN_CLIP = "train_clip"
#: Files of weights that are never loaded of a folder in the format of transformers.
UNUSED_WEIGHTS = ("*.bin", "*.h5", "*.msgpack", "*.ot")


class FolderModel(ConfigModel):
    """A model that may be a folder on this machine, under its key ``path``; a store keeps it by its content.

    A new one is a subclass, and one of that and of :class:`Stored`, which it names ``in_store``.
    """

    unused_files: ClassVar[tuple[str, ...]] = ()
    """Patterns of the files that nothing loads, and no store keeps."""

    @property
    def folder(self) -> Path | None:
        """Return the folder; None: the model is found by a name."""
        found: Path | None = getattr(self, "path")  # noqa: B009  # the field of the subclass
        return found

    @classmethod
    def in_store(cls) -> type["Stored"]:
        """Return the class of such a model in a store."""
        raise NotImplementedError

    def stored(self, store: str, digest: str) -> "Stored":
        """Return the model as the store has it."""
        assert self.folder is not None
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return self.in_store()(**fields | {"store": store, "digest": digest, "label": self.folder.name})


class Stored(FolderModel):
    """A model from a folder that is in the store by its content; ``path`` is where it lies, or lay, on a machine."""

    store: Annotated[AnyAddress, RuntimeOnly()]
    digest: Annotated[str, RuntimeOnly()] = Field(pattern=r"^[0-9a-f]{64}$", description="a part of paths")
    label: Annotated[str, RuntimeOnly()]

    def known_identity(self) -> dict[str, Any]:
        """Return the content of the folder, so that its identity is that of the model outside of a store."""
        return {"path": self.digest}

    @property
    def reference(self) -> str:
        """The name of its folder: where that was holds for one machine only, or for one job."""
        return self.label

    def local(self) -> Self:
        """Return it on this machine, to be opened at once."""
        return self.model_copy(update={"path": local_model(model_in(self.store, self.digest))})

    def found_by(self) -> dict[str, str]:
        """Return name and digest."""
        return {"label": self.label, "digest": self.digest}


class FolderClip(FolderModel):
    """A CLIP model in a folder of open_clip's own format: open_clip_config.json, weights, tokenizer."""

    kind: Literal["folder"]
    path: ExternalPath

    @classmethod
    def in_store(cls) -> type[Stored]:
        """Return its class there."""
        return StoredClip

    @property
    def reference(self) -> str:
        """The model as configured, for people."""
        return str(self.path)


class PretrainedClip(ConfigModel):
    """A CLIP model that open_clip knows by name, whose weights it downloads once and keeps."""

    kind: Literal["pretrained"]
    name: str = Field(description="open_clip's name of the architecture, such as ViT-B-16")
    tag: str = Field(description="open_clip's name of the weights, such as openai")

    @property
    def reference(self) -> str:
        """The model as configured, for people."""
        return f"{self.name}/{self.tag}"


class TrainedClip(ConfigModel):
    """The CLIP model of the stage train_clip, in this experiment or in that of reuse.train_clip."""

    kind: Literal["trained"]

    @property
    def reference(self) -> str:
        """The model as configured, for people."""
        return TRAIN_CLIP


class StoredClip(Stored, FolderClip):
    """A CLIP model in the store."""


class TrainedClipFolder(FolderClip):
    """What :func:`local_clips` makes of a :class:`TrainedClip`; it is named by content, not by path."""

    fingerprint: str

    @property
    def reference(self) -> str:
        """The model as people and later runs know it, wherever the store is."""
        return f"{TRAIN_CLIP}/{self.fingerprint}"


OneClip = Annotated[FolderClip | PretrainedClip | TrainedClip, Field(discriminator="kind")]


class ImageEncoderSource(FolderModel):
    """An encoder of images other than CLIP, such as DINOv2, in a folder."""

    unused_files: ClassVar[tuple[str, ...]] = UNUSED_WEIGHTS

    kind: str
    path: ExternalPath

    @property
    def reference(self) -> str:
        """The model as configured, for people."""
        return str(self.path)

    def local(self) -> Self:
        """Return it as it is to be opened at once on this machine."""
        return self


class VisionTransformerImages(ImageEncoderSource):
    """The class token of a vision transformer, such as DINOv2, in a folder in the format of transformers."""

    kind: Literal["vision_transformer"]
    path: ExternalPath = Field(
        description="folder with config.json (model_type dinov2, dinov2_with_registers, dinov3_vit or vit) and weights "
        "as safetensors"
    )

    @classmethod
    def in_store(cls) -> type[Stored]:
        """Return its class there."""
        return StoredVisionTransformer


class TimmImages(ImageEncoderSource):
    """The pooled features of a model of timm, such as a ConvNeXt, in a folder as timm saves it for the hub."""

    kind: Literal["timm"]
    path: ExternalPath = Field(
        description="folder with config.json (architecture, pretrained_cfg) and model.safetensors"
    )

    @classmethod
    def in_store(cls) -> type[Stored]:
        """Return its class there."""
        return StoredTimm


class StoredVisionTransformer(Stored, VisionTransformerImages):
    """A vision transformer in the store."""


class StoredTimm(Stored, TimmImages):
    """A model of timm in the store."""


OneImageEncoder = Annotated[VisionTransformerImages | TimmImages, Field(discriminator="kind")]


class ClipConfig(ConfigModel):
    """CLIP models whose embeddings are concatenated in this order, and what embeds images in their place."""

    models: tuple[OneClip, ...] = Field(min_length=1)
    images: OneImageEncoder | None = Field(
        None, description="another encoder, such as DINOv2, whose image embeddings prior and decoder are of, while "
        "models embed the texts (docs/prior.md says what is then left out); none: models embed images, too",
    )  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; an encoder of images counts where there is one."""
        identity = super().identity()
        if self.images is None:
            del identity["images"]
        return identity

    @property
    def inputs(self) -> tuple[str, ...]:
        """The stages whose artifacts the models are: train_clip or none."""
        return (TRAIN_CLIP,) if any(isinstance(model, TrainedClip) for model in self.models) else ()


def local_clips(config: ClipConfig, inputs: Mapping[str, Artifact]) -> ClipConfig:
    """Return the models of the store as folders on this machine; ``inputs`` holds train_clip's artifact."""

    def local(model: OneClip) -> OneClip:
        if isinstance(model, StoredClip):
            return model.local()
        if not isinstance(model, TrainedClip):
            return model
        artifact = inputs[TRAIN_CLIP]
        return TrainedClipFolder(kind="folder", path=local_clip(artifact), fingerprint=artifact.fingerprint)

    images = None if config.images is None else config.images.local()
    return config.model_copy(update={"models": tuple(map(local, config.models)), "images": images})


class TextModel(FolderModel):
    """A text encoder whose token states a prior reads; found again by what it is known by."""

    unused_files: ClassVar[tuple[str, ...]] = UNUSED_WEIGHTS

    @property
    def location(self) -> str:
        """Where transformers finds the model."""
        return str(self.folder)

    @property
    def reference(self) -> str:
        """The model, for people."""
        return self.location

    def local(self) -> Self:
        """Return it as it is to be opened at once on this machine."""
        return self

    def found_by(self) -> dict[str, str]:
        """Return what is recorded of it, to find it again."""
        return {"path": self.location}


class T5Source(TextModel):
    """A T5 model: a folder in the format of transformers, or a name on the hub, downloaded once and kept."""

    path: ExternalPath | None = Field(
        None, description="folder with config.json, weights (safetensors) and tokenizer; or give name"
    )
    name: str | None = Field(None, description="name on the Hugging Face hub, such as google/flan-t5-xl; or give path")

    @model_validator(mode="after")
    def _path_or_name(self) -> "T5Source":
        if (self.path is None) == (not self.name):
            found = "neither" if self.path is None else "both"
            raise ValueError(f"found {found} of path and name: give one of them")
        return self

    @classmethod
    def in_store(cls) -> type[Stored]:
        """Return its class there."""
        return StoredT5

    @property
    def location(self) -> str:
        """Where transformers finds the model."""
        return str(self.path or self.name)

    def found_by(self) -> dict[str, str]:
        """Return what is recorded of it, to find it again."""
        return {"path": str(self.path)} if self.path else {"name": str(self.name)}


class T5StatesConfig(T5Source):
    """Token states of a T5 encoder."""

    max_length: Count = Field(80, description="most tokens of a caption, including its end token; the paper: 80")


class StoredT5(Stored, T5StatesConfig):
    """A T5 model in the store."""


class LanguageModelSource(TextModel):
    """A language model, an encoder or a decoder: a folder in the format of transformers."""

    path: ExternalPath = Field(description="folder with config.json, weights (safetensors) and tokenizer.json")

    @classmethod
    def in_store(cls) -> type[Stored]:
        """Return its class there."""
        return StoredLanguageModel


class LanguageModelStatesConfig(LanguageModelSource):
    """Token states of the last layer of a language model."""

    max_length: Count = Field(80, description="most tokens of a caption, with those that its tokenizer adds")


class StoredLanguageModel(Stored, LanguageModelStatesConfig):
    """A language model in the store."""


class ClipStatesConfig(ConfigModel):
    """Token states of the text towers of the CLIP models."""

    max_length: Count = Field(77, description="most tokens of a caption, including start and end tokens")


def _true_is_all_defaults(value: Any) -> Any:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class TextStatesConfig(ConfigModel):
    """Which token states of the captions are stored beside their CLIP embeddings."""

    t5: T5StatesConfig | None = Field(None, description="of a T5 encoder; none: not made")
    language_model: LanguageModelStatesConfig | None = Field(
        None, description="of the last layer of another language model (docs/prior.md lists the types); none: not made"
    )
    clip: Annotated[ClipStatesConfig | None, BeforeValidator(_true_is_all_defaults)] = Field(
        None, description="of the text towers of clip.models (true: up to 77 tokens), side by side; none: not made"
    )

    @property
    def text_models(self) -> dict[str, T5StatesConfig | LanguageModelStatesConfig]:
        """The encoders beside CLIP, by name."""
        found = {"t5": self.t5, "language_model": self.language_model}
        return {name: model for name, model in found.items() if model is not None}

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on; a language model is named where there is one."""
        identity = super().identity()
        if self.language_model is None:
            del identity["language_model"]
        return identity
