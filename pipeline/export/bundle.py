"""A run's models in one folder that can be moved anywhere: what is exported, and what MLflow registers.

The folder (bundle) holds bundle.json, prior/, decoder/, upsamplers/<number>/ for each model that enlarges its images,
clip/<number>/ for each CLIP model that came from a folder, images/ where another encoder embeds images, and t5/ or
language_model/ where the prior reads the states of one that did. index/ holds the embeddings that are retrieved.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from pipeline.export.names import BUNDLE
from stages.contract.config import ConfigModel
from stages.contract.errors import ArtifactError
from stages.contract.parsing import load_json, parsing, shown
from stages.encoders.check import check_text_model
from stages.encoders.config import ClipConfig, FolderClip, TextModel
from stages.formats.model_folders import DECODER, files_of
from stages.generate.config import GenerateConfig
from stages.generate.worker import trained_models
from stages.inference.index import load_index, save_index
from stages.inference.loading import (
    PRIOR,
    TEXT_MODELS,
    UPSAMPLER,
    TrainedModels,
    find_text_models,
    load_text_to_image,
)
from stages.inference.requests import LARGEST_BATCH
from stages.inference.sampling import SamplingSettings
from stages.inference.text_to_image import TextToImageSystem
from stages.storage.artifact import Artifact, Output
from stages.storage.names import is_file_name

LEVELS: Final = "upsamplers"
IMAGES: Final = "images"
FORMAT: Final = 3
DEFAULT_BATCH: Final = 64
MOST_LEVELS: Final = 2
MOST_NAME: Final = 200  # characters


def write_bundle(
    folder: Path, models: TrainedModels, settings: SamplingSettings, *, run: str, batch_size: int = DEFAULT_BATCH
) -> None:
    """Gather a run's models in a folder that can be moved anywhere.

    A CLIP or text model from a folder is copied; one that open_clip or transformers knows by name stays a name.
    """
    _gather_model(models.prior, PRIOR, folder)
    _gather_model(models.decoder, DECODER, folder)
    for number, upsampler in enumerate(models.upsamplers):
        _gather_model(upsampler, UPSAMPLER, folder / LEVELS / str(number))
    if models.index is not None:
        save_index(Output(str(folder), "bundle", run), models.index)
    clips = [_gather_clip(folder, number, model) for number, model in enumerate(models.clip.models)]
    document = {
        "format": FORMAT,
        "run": run,
        "clip": {"models": clips, **_gather_images(folder, models.clip)},
        "upsamplers": len(models.upsamplers),
        **{name: None for name in TEXT_MODELS},
        **_gather_text_models(folder, models.prior, models.text_models),
        **({} if models.index is None else {"index": True}),
        "settings": settings.flat(),
        "batch_size": batch_size,
    }
    (folder / BUNDLE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def write_run(folder: Path, config: GenerateConfig, inputs: Mapping[str, Artifact], *, run: str) -> None:
    """Gather the models of a run, whose generate section says which and how they are sampled."""
    models = trained_models(config, inputs)
    write_bundle(folder, models, config.sampling, run=run, batch_size=config.batch_size)


def _gather_model(artifact: Artifact, name: str, folder: Path) -> None:
    for file in files_of(artifact, name):
        (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.local(f"{name}/{file}"), folder / name / file)


def _gather_clip(folder: Path, number: int, model: Any) -> dict[str, Any]:
    if not isinstance(model, FolderClip):
        description: dict[str, Any] = model.model_dump(mode="json")
        return description
    name = f"clip/{number}"
    shutil.copytree(model.path, folder / name)
    return {"kind": "folder", "path": name}


def _gather_images(folder: Path, clip: ClipConfig) -> dict[str, dict[str, Any]]:
    """Copy the encoder of images, where there is one, but for weights in formats that are never loaded."""
    if clip.images is None:
        return {}
    unused = shutil.ignore_patterns(*clip.images.unused_files)
    shutil.copytree(clip.images.path, folder / IMAGES, ignore=unused)
    return {"images": {"kind": clip.images.kind, "path": IMAGES}}


def _gather_text_models(folder: Path, prior: Artifact, moved: Mapping[str, TextModel]) -> dict[str, dict[str, Any]]:
    """Copy the models of the token states that the prior reads, but for weights in formats that are never loaded."""
    gathered = {}
    for name, found in find_text_models(prior, moved).items():
        source = found.local()
        if source.folder is None:
            gathered[name] = source.model_dump(mode="json")
            continue
        check_text_model(source, where=f"generate.{name}")
        shutil.copytree(source.folder, folder / name, ignore=shutil.ignore_patterns(*source.unused_files))
        gathered[name] = {"path": name}
    return gathered


class BundledClip(ConfigModel):
    """The sections of a ClipConfig, with paths below the folder."""

    models: list[dict[str, Any]]
    images: dict[str, Any] | None = None


class Bundle(ConfigModel):
    """bundle.json, which a stranger may have written."""

    format: Literal[3]
    run: str = Field(max_length=MOST_NAME)
    clip: BundledClip
    upsamplers: int = Field(ge=0, le=MOST_LEVELS)
    t5: dict[str, Any] | None
    language_model: dict[str, Any] | None = None
    index: bool = False
    settings: dict[str, Any]
    batch_size: int = Field(DEFAULT_BATCH, ge=1, le=LARGEST_BATCH)


def load_bundle(folder: Path, *, device: str = "cpu", batch_size: int | None = None) -> tuple[TextToImageSystem, str]:
    """Load the system of a bundle and the name of the run that made it.

    Raises:
        ArtifactError: it is damaged, of another version, or names files outside the folder.
    """
    document = read_bundle(folder)
    with parsing(lambda reason: _damaged(folder, reason)):
        models = [_below(folder, model) for model in document.clip.models]
        images = None if document.clip.images is None else _below(folder, document.clip.images)
        clip = ClipConfig.model_validate({"models": models, "images": images})
        given = {name: getattr(document, name) for name in TEXT_MODELS}
        text_models = {
            name: TEXT_MODELS[name][0].model_validate(_below(folder, model))
            for name, model in given.items()
            if model is not None
        }
        settings = SamplingSettings.from_flat(document.settings)
    source = Artifact(str(folder), "bundle", document.run)
    levels = [Artifact(str(folder / LEVELS / str(n)), "bundle", document.run) for n in range(document.upsamplers)]
    index = load_index(source) if document.index else None
    found = TrainedModels(clip, source, source, levels, text_models, index)
    system = load_text_to_image(found, settings, batch_size=batch_size or document.batch_size, device=device)
    return system, document.run


def read_bundle(folder: Path) -> Bundle:
    """Return what bundle.json says; ArtifactError: it is damaged, or of another version."""
    try:
        content = (folder / BUNDLE).read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{folder}: cannot read {BUNDLE} ({error.strerror}): give a folder that `corgi export` wrote, or that of a "
            "registered model"
        ) from None
    with parsing(lambda reason: _damaged(folder, reason)):
        document = load_json(content)
        found = document.get("format") if isinstance(document, dict) else None
        if found != FORMAT:
            raise ArtifactError(
                f"{folder}: has bundle format {shown(found)}, and this version reads {FORMAT}: "
                "use the version of corgi-pipeline that made it"
            )
        return Bundle.model_validate(document)


def _damaged(folder: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{folder}/{BUNDLE}: {reason}: expected the bundle as `corgi export` writes it: export the run anew"
    )


def _below(folder: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a model with its path, if it has one, in the bundle's folder."""
    name = model.get("path")
    if name is None:
        return dict(model)
    if not isinstance(name, str) or not is_file_name(name):
        raise ValueError(f"the path {shown(name)} leaves the folder")
    return {**model, "path": str(folder / name)}
