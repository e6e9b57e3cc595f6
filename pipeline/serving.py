"""The finished model as MLflow serves it: the object that predicts with a bundle (:mod:`pipeline.export.bundle`).

``mlflow.pyfunc.load_model`` finds :func:`_load_pyfunc` here by the name of this module; nothing is pickled. What serves
the model over HTTP, ``corgi serve``, is :mod:`pipeline.serve`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import pandas as pd

from pipeline.export.bundle import load_bundle
from stages.contract.parsing import is_text, shown
from stages.contract.texts import show_value
from stages.formats.generated_images import encode_png
from stages.inference.sampling import SamplingSettings, flat_types
from stages.inference.text_to_image import TextToImageSystem

Prompts = pd.DataFrame | Mapping[str, Any] | Sequence[str] | str
_COLUMN: Final = "prompt"
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

    def predict(self, prompts: Prompts, params: Mapping[str, float | int | str] | None = None) -> pd.DataFrame:
        """Return one image for each prompt.

        ``prompts`` is a table with a column "prompt" (or with one column), a list of texts, or one text; a dict of
        columns and a list of rows are tables. ``params`` may hold "seed" (the first prompt's, the second's is one
        higher, ...) and any of the sampling settings. Returns a table with the columns prompt, seed and image; an image
        is PNG bytes that carry prompt, seed, run and settings.

        Raises:
            ValueError: there is no such column, or a prompt is missing, blank or no text; nothing was generated.
        """
        texts = _texts(prompts)
        changes = dict(params or {})
        first = int(changes.pop("seed", 0))
        system = self._system.with_settings(changes) if changes else self._system
        seeds = [first + number for number in range(len(texts))]
        about = {"run": self._run, "settings": system.settings.flat()}
        generated = system.generate(texts, seeds) if texts else ()
        images = [
            encode_png(generated_image, {"prompt": text, "seed": seed, **about})
            for generated_image, text, seed in zip(generated, texts, seeds, strict=True)
        ]
        return pd.DataFrame({"prompt": texts, "seed": pd.Series(seeds, dtype="int64"), "image": images})


def _texts(prompts: Prompts) -> list[str]:
    """Return the prompts, all of which are texts."""
    table = _table(prompts)
    named = [number for number, name in enumerate(table.columns) if name == _COLUMN]
    if len(named) != 1 and (named or len(table.columns) > 1):
        raise ValueError(
            f"predict: the table has {len(named) or 'no'} column{'s' * bool(named)} '{_COLUMN}' (it has "
            f"{shown(', '.join(map(str, table.columns)))}): give the prompts under that name, once"
        )
    texts = table.iloc[:, (named or [0])[0]].tolist() if len(table.columns) else []
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str) or not text.strip() or not is_text(text):
            raise ValueError(
                f"predict: row {number} of {len(texts)}: found {show_value(text)}: expected a text that is not blank: "
                "give its prompt, or leave the row out"
            )
    return texts


def _table(prompts: Prompts) -> pd.DataFrame:
    """Return prompts of any form as a table; those without a name as its one column."""
    if isinstance(prompts, Mapping):
        return pd.DataFrame({name: pd.Series(_listed(values), dtype=object) for name, values in prompts.items()})
    return prompts if isinstance(prompts, pd.DataFrame) else pd.DataFrame(_listed(prompts), dtype=object)


def _listed(values: Any) -> list[Any]:
    """Return a column as a list, also of one value; MLflow's server makes arrays of both, some without a dimension."""
    values = values.tolist() if isinstance(values, np.ndarray | pd.Series) else values
    return list(values) if isinstance(values, list | tuple) else [values]


def _load_pyfunc(data_path: str) -> TextToImagePredictor:
    """Load the model for MLflow; on a GPU where there is one."""
    import torch

    return TextToImagePredictor(*load_bundle(Path(data_path), device="cuda" if torch.cuda.is_available() else "cpu"))
