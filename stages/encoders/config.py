"""Which models encode images and texts."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from stages.contract.config import ConfigModel, ExternalPath
from stages.contract.errors import InputFault, nearest

if TYPE_CHECKING:
    from stages.storage.artifact import Artifact

CONFIG_FILE = "open_clip_config.json"
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
    """A CLIP model that open_clip knows by name, with weights that it downloads once and keeps."""

    kind: Literal["pretrained"]
    name: str = Field(description="open_clip's name of the architecture, such as ViT-B-16")
    tag: str = Field(description="open_clip's name of the weights, such as openai")

    @property
    def reference(self) -> str:
        """The model as configured, for people."""
        return f"{self.name}/{self.tag}"


class TrainedClip(ConfigModel):
    """The CLIP model that the stage train_clip makes, in this experiment or in the one of reuse.train_clip."""

    kind: Literal["trained"]

    @property
    def reference(self) -> str:
        """The model as configured, for people."""
        return TRAIN_CLIP


class TrainedClipFolder(FolderClip):
    """What :func:`with_trained` puts in the place of a :class:`TrainedClip`; it is named by content, not by place."""

    fingerprint: str

    @property
    def reference(self) -> str:
        """The model as people and later runs know it, wherever the store lies."""
        return f"{TRAIN_CLIP}/{self.fingerprint}"


OneClip = Annotated[FolderClip | PretrainedClip | TrainedClip, Field(discriminator="kind")]


class ClipConfig(ConfigModel):
    """CLIP models whose embeddings are concatenated in this order."""

    models: tuple[OneClip, ...] = Field(min_length=1)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The stages whose artifacts the models are: train_clip or none."""
        return (TRAIN_CLIP,) if any(isinstance(model, TrainedClip) for model in self.models) else ()


def with_trained(config: ClipConfig, inputs: Mapping[str, "Artifact"]) -> ClipConfig:
    """Return the models with the trained one at its place on this machine; ``inputs`` holds train_clip's artifact."""
    if TRAIN_CLIP not in config.inputs:
        return config
    artifact = inputs[TRAIN_CLIP]
    files = [artifact.local(name) for name in artifact.glob("clip/*")]
    folder = TrainedClipFolder(kind="folder", path=files[0].parent, fingerprint=artifact.fingerprint)
    models = tuple(folder if isinstance(model, TrainedClip) else model for model in config.models)
    return config.model_copy(update={"models": models})


class T5Source(ConfigModel):
    """A T5 model: a folder in the format of transformers, or a name that it knows, downloaded once and kept."""

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

    max_length: PositiveInt = Field(80, description="most tokens of a caption, its end token included; the paper: 80")


class ClipStatesConfig(ConfigModel):
    """Token states of the text towers of the CLIP models."""

    max_length: PositiveInt = Field(77, description="most tokens of a caption, start and end tokens included")


def _true_is_all_defaults(value: Any) -> Any:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class TextStatesConfig(ConfigModel):
    """Which token states of the captions are made beside their CLIP embeddings."""

    t5: T5StatesConfig | None = Field(None, description="of a T5 encoder; none: not made")
    clip: Annotated[ClipStatesConfig | None, BeforeValidator(_true_is_all_defaults)] = Field(
        None, description="of the text towers of clip.models (true: up to 77 tokens), side by side; none: not made"
    )


def check_clip(config: ClipConfig) -> None:
    """Look whether the models are there, as far as that can be told without importing open_clip.

    Raises:
        InputFault: a folder is missing or holds no open_clip model, or open_clip has no model of that name.
    """
    for index, model in enumerate(config.models):
        if isinstance(model, FolderClip):
            _check_folder(model.path, where=f"clip.models[{index}].path")
        elif isinstance(model, PretrainedClip):
            _check_name(model.name, where=f"clip.models[{index}].name")


def check_t5(source: T5Source, *, where: str) -> None:
    """Look whether a T5 folder is whole, as far as that can be told without importing transformers.

    Raises:
        InputFault: the folder is missing or holds no T5 model with safetensors and a tokenizer.
    """
    if (folder := source.path) is None:
        return
    if not folder.is_dir():
        raise InputFault(
            f"{where}.path: there is no folder {folder}: give a folder in the format of transformers "
            "(config.json, weights as safetensors, tokenizer), or a name"
        )
    held = sorted(entry.name for entry in folder.iterdir())
    has = {
        "config.json": "config.json" in held,
        "weights as .safetensors": any(name.endswith(".safetensors") for name in held),
        "tokenizer.json or spiece.model": bool({"tokenizer.json", "spiece.model"} & set(held)),
    }
    missing = [what for what, there in has.items() if not there]
    if missing:
        raise InputFault(
            f"{where}.path: {folder} has no {' and no '.join(missing)} (it holds {', '.join(held[:8]) or 'nothing'}): "
            "save model and tokenizer there by save_pretrained of transformers"
        )


def architecture_file(name: str) -> Path:
    """Return where open_clip describes the architecture of this name."""
    return _architectures() / f"{name.replace('/', '-')}.json"


def _check_folder(path: Path, *, where: str) -> None:
    if not path.is_dir():
        raise InputFault(
            f"{where}: there is no folder {path}: give a folder in open_clip's own format "
            f"({CONFIG_FILE}, weights, tokenizer), or kind: pretrained"
        )
    if not (path / CONFIG_FILE).is_file():
        held = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise InputFault(
            f"{where}: {path} has no {CONFIG_FILE} (it holds {held}): give a folder in open_clip's own format, "
            "as save_for_hf of open_clip writes it"
        )
    if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in path.iterdir()):
        raise InputFault(f"{where}: {path} has no weights: expected open_clip_model.safetensors beside {CONFIG_FILE}")


def _check_name(name: str, *, where: str) -> None:
    if architecture_file(name).is_file():
        return
    known = [file.stem for file in _architectures().glob("*.json")]
    raise InputFault(
        f"{where}: open_clip has no architecture {name!r}{nearest(name, known)}"
        ": allowed are the names that open_clip.list_models() gives"
    )


def _architectures() -> Path:
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("embedding needs open_clip: pip install open_clip_torch")
    return Path(spec.origin).parent / "model_configs"
