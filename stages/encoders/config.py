"""Which CLIP models give the embeddings."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from stages.contract import ConfigModel, ExternalPath
from stages.errors import InputFault, nearest

CONFIG_FILE = "open_clip_config.json"


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


OneClip = Annotated[FolderClip | PretrainedClip, Field(discriminator="kind")]


class ClipConfig(ConfigModel):
    """CLIP models whose embeddings are concatenated in this order."""

    models: tuple[OneClip, ...] = Field(min_length=1)


def check_clip(config: ClipConfig) -> None:
    """Look whether the models are there, as far as that can be told without importing open_clip.

    Raises:
        InputFault: a folder is missing or holds no open_clip model, or open_clip has no model of that name.
    """
    for index, model in enumerate(config.models):
        if isinstance(model, FolderClip):
            _check_folder(model.path, where=f"clip.models[{index}].path")
        else:
            _check_name(model.name, where=f"clip.models[{index}].name")


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
