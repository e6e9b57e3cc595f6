"""The finished model as MLflow serves it: the object that predicts with a bundle (:mod:`pipeline.export.bundle`).

``mlflow.pyfunc.load_model`` finds :func:`_load_pyfunc` here by the name of this module; nothing is pickled. What serves
the model over HTTP, ``corgi serve``, is :mod:`pipeline.serve`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import pandas as pd

from pipeline.export.bundle import load_bundle
from stages.formats.generated_images import encode_png
from stages.inference.sampling import SamplingSettings, flat_types
from stages.inference.text_to_image import TextToImageSystem

_MLFLOW_TYPES: Final = {int: "long", float: "double", str: "string"}


def serving_settings(settings: SamplingSettings) -> dict[str, tuple[str, Any]]:
    """Return MLflow's type and the default of everything that ``predict`` takes: a seed and all sampling settings."""
    types, defaults = {"seed": int} | flat_types(), {"seed": 0} | settings.flat()
    return {name: (_mlflow_type(kind), defaults.get(name)) for name, kind in types.items()}


def _mlflow_type(annotation: Any) -> str:
    """Return MLflow's name for a setting's type; of a choice or an optional setting, that of its values."""
    if annotation in _MLFLOW_TYPES:
        return _MLFLOW_TYPES[annotation]
    inner = get_args(annotation)[0]
    return _mlflow_type(type(inner) if isinstance(inner, int | float | str) else inner)


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
