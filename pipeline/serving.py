"""The finished model as MLflow serves it: a folder with everything inside, and the object that predicts with it.

The folder (bundle) holds bundle.json, prior/, decoder/, upsamplers/<number>/ for each model that enlarges its images,
clip/<number>/ for each CLIP model that came from a folder, and t5/ where the prior reads the states of a T5 that did.
``mlflow.pyfunc.load_model`` finds :func:`_load_pyfunc` here by the name of this module; nothing is pickled.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import pandas as pd

from stages.contract.errors import ArtifactError
from stages.encoders.check import check_t5
from stages.encoders.config import UNUSED_BY_T5, ClipConfig, FolderClip, T5Source
from stages.formats.generated_images import encode_png
from stages.formats.model_folders import files_of
from stages.inference.loading import DECODER, PRIOR, T5, UPSAMPLER, find_t5, load_text_to_image
from stages.inference.sampling import SamplingSettings, flat_types
from stages.inference.text_to_image import TextToImageSystem
from stages.storage.artifact import Artifact

BUNDLE: Final = "bundle.json"
LEVELS: Final = "upsamplers"
FORMAT: Final = 3

_MLFLOW_TYPES: Final = {int: "long", float: "double", str: "string"}


def write_bundle(
    folder: Path,
    clip: ClipConfig,
    prior: Artifact,
    decoder: Artifact,
    settings: SamplingSettings,
    *,
    run: str,
    upsamplers: Sequence[Artifact] = (),
    t5: T5Source | None = None,
) -> None:
    """Gather a run's models in a folder that can be moved anywhere.

    A CLIP or T5 model from a folder is copied; one that open_clip or transformers knows by name stays a name. ``t5``
    says where the prior's T5 lies now, if not where it was in training.
    """
    _gather_model(prior, PRIOR, folder)
    _gather_model(decoder, DECODER, folder)
    for number, upsampler in enumerate(upsamplers):
        _gather_model(upsampler, UPSAMPLER, folder / LEVELS / str(number))
    models = [_gather_clip(folder, number, model) for number, model in enumerate(clip.models)]
    document = {
        "format": FORMAT,
        "run": run,
        "clip": {"models": models},
        "upsamplers": len(upsamplers),
        "t5": _gather_t5(folder, prior, t5),
        "settings": settings.flat(),
    }
    (folder / BUNDLE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


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


def _gather_t5(folder: Path, prior: Artifact, moved: T5Source | None) -> dict[str, Any] | None:
    """Copy the T5 that the prior reads, but for weights in formats that are never loaded; none if it reads none."""
    source = find_t5(prior, moved)
    if source is None:
        return None
    source = source.local()
    if source.path is None:
        return source.model_dump(mode="json")
    check_t5(source, where="generate.t5")
    shutil.copytree(source.path, folder / T5, ignore=shutil.ignore_patterns(*UNUSED_BY_T5))
    return {"path": T5}


def serving_settings(settings: SamplingSettings) -> dict[str, tuple[str, Any]]:
    """Return MLflow's type and the default of everything that ``predict`` takes: a seed and all sampling settings."""
    types, defaults = {"seed": int} | flat_types(), {"seed": 0} | settings.flat()
    return {name: (_mlflow_type(kind), defaults[name]) for name, kind in types.items()}


def _mlflow_type(annotation: Any) -> str:
    """Return MLflow's name for a setting's type; of a choice or an optional setting, that of its values."""
    if annotation in _MLFLOW_TYPES:
        return _MLFLOW_TYPES[annotation]
    inner = get_args(annotation)[0]
    return _mlflow_type(type(inner) if isinstance(inner, int | float | str) else inner)


def load_bundle(folder: Path, *, device: str = "cpu") -> tuple[TextToImageSystem, str]:
    """Load the system of a bundle and the name of the run that made it."""
    document = _read_bundle(folder)
    models = [_below(folder, model) for model in document["clip"]["models"]]
    t5 = document["t5"] and T5Source.model_validate(_below(folder, document["t5"]))
    source, levels = Artifact(str(folder), "bundle", document["run"]), range(document["upsamplers"])
    system = load_text_to_image(
        ClipConfig.model_validate({"models": models}),
        source,
        source,
        SamplingSettings.from_flat(document["settings"]),
        upsamplers=[Artifact(str(folder / LEVELS / str(n)), "bundle", document["run"]) for n in levels],
        t5=t5,
        device=device,
    )
    return system, document["run"]


def _read_bundle(folder: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((folder / BUNDLE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{folder}: cannot read {BUNDLE} ({error}): give the folder of a registered model"
        ) from None
    if document.get("format") != FORMAT:
        raise ArtifactError(
            f"{folder}: has bundle format {document.get('format')!r}, and this version reads {FORMAT}: "
            "use the version of corgi-pipeline that made it"
        )
    return document


def _below(folder: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a model with its path, if it has one, in the bundle's folder."""
    return {**model, "path": str(folder / model["path"])} if model.get("path") else dict(model)


class TextToImagePredictor:
    """What ``mlflow.pyfunc.load_model`` returns the inside of."""

    def __init__(self, system: TextToImageSystem, run: str) -> None:
        self._system = system
        self._run = run

    def predict(
        self, prompts: pd.DataFrame | Sequence[str] | str, params: Mapping[str, float | int | str] | None = None
    ) -> pd.DataFrame:
        """Return one image for each prompt.

        ``prompts`` is a table with a column "prompt" (or with one column), a list of texts, or one text. ``params``
        may hold "seed" (the first prompt's, the second's is one higher, ...) and any of the sampling settings.
        Returns a table with the columns prompt, seed and image; an image is PNG bytes that carry prompt, seed, run
        and settings.
        """
        texts = _texts(prompts)
        changes = dict(params or {})
        first = int(changes.pop("seed", 0))
        system = self._system.with_settings(changes) if changes else self._system
        seeds = [first + number for number in range(len(texts))]
        about = {"run": self._run, "settings": system.settings.flat()}
        generated = system.generate(texts, seeds)
        images = [
            encode_png(generated_image, {"prompt": text, "seed": seed, **about})
            for generated_image, text, seed in zip(generated, texts, seeds, strict=True)
        ]
        return pd.DataFrame({"prompt": texts, "seed": seeds, "image": images})


def _texts(prompts: pd.DataFrame | Sequence[str] | str) -> list[str]:
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, pd.DataFrame):
        if "prompt" not in prompts.columns and len(prompts.columns) != 1:
            raise ValueError(
                f"predict: the table has no column 'prompt' (it has {', '.join(map(str, prompts.columns)) or 'none'}): "
                "give the prompts under that name"
            )
        column = "prompt" if "prompt" in prompts.columns else prompts.columns[0]
        return [str(text) for text in prompts[column]]
    return [str(text) for text in prompts]


def _load_pyfunc(data_path: str) -> TextToImagePredictor:
    """Load the model for MLflow; on a GPU where there is one."""
    import torch

    return TextToImagePredictor(*load_bundle(Path(data_path), device="cuda" if torch.cuda.is_available() else "cpu"))
