"""Which models encode images and texts."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from stages.contract.config import ConfigModel, ExternalPath
from stages.formats.clip_folders import local_clip
from stages.storage.artifact import Artifact

TRAIN_CLIP = "train_clip"


class FolderClip(ConfigModel):
    """A CLIP model in a folder of open_clip's own format: open_clip_config.json, weights, tokenizer."""

    kind: Literal["folder"]
    path: ExternalPath

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


class TrainedClipFolder(FolderClip):
    """What :func:`with_trained` makes of a :class:`TrainedClip`; it is named by content, not by path."""

    fingerprint: str

    @property
    def reference(self) -> str:
        """The model as people and later runs know it, wherever the store is."""
        return f"{TRAIN_CLIP}/{self.fingerprint}"


OneClip = Annotated[FolderClip | PretrainedClip | TrainedClip, Field(discriminator="kind")]


class ClipConfig(ConfigModel):
    """CLIP models whose embeddings are concatenated in this order."""

    models: tuple[OneClip, ...] = Field(min_length=1)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The stages whose artifacts the models are: train_clip or none."""
        return (TRAIN_CLIP,) if any(isinstance(model, TrainedClip) for model in self.models) else ()


def with_trained(config: ClipConfig, inputs: Mapping[str, Artifact]) -> ClipConfig:
    """Return the models with the trained one as a folder on this machine; ``inputs`` holds train_clip's artifact."""
    if TRAIN_CLIP not in config.inputs:
        return config
    artifact = inputs[TRAIN_CLIP]
    folder = TrainedClipFolder(kind="folder", path=local_clip(artifact), fingerprint=artifact.fingerprint)
    models = tuple(folder if isinstance(model, TrainedClip) else model for model in config.models)
    return config.model_copy(update={"models": models})


class T5Source(ConfigModel):
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

    @property
    def reference(self) -> str:
        """The model as configured, for people."""
        return str(self.path or self.name)


class T5StatesConfig(T5Source):
    """Token states of a T5 encoder."""

    max_length: PositiveInt = Field(80, description="most tokens of a caption, including its end token; the paper: 80")


class ClipStatesConfig(ConfigModel):
    """Token states of the text towers of the CLIP models."""

    max_length: PositiveInt = Field(77, description="most tokens of a caption, including start and end tokens")


def _true_is_all_defaults(value: Any) -> Any:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class TextStatesConfig(ConfigModel):
    """Which token states of the captions are stored beside their CLIP embeddings."""

    t5: T5StatesConfig | None = Field(None, description="of a T5 encoder; none: not made")
    clip: Annotated[ClipStatesConfig | None, BeforeValidator(_true_is_all_defaults)] = Field(
        None, description="of the text towers of clip.models (true: up to 77 tokens), side by side; none: not made"
    )
