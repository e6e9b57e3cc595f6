"""The model as MLflow stores and loads it: what prompts of any form become through its own reading of the input."""

import json
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import infer_and_parse_data

from models.decoders.sampling import DecoderSampling
from models.priors.spec import PriorSampling
from pipeline.serving import serving_settings
from pipeline.summary import REQUIREMENTS
from pipeline.tracking import RunTracker
from pipeline.tracking_address import default_tracking_uri
from stages.inference.sampling import SamplingSettings
from tests.factories import save_tiny_bundle

SETTINGS = SamplingSettings(PriorSampling(num_steps=1), DecoderSampling(num_steps=1))
TWO = ["a red star", "a blue ring"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PyFuncModel:
    folder = tmp_path_factory.mktemp("registered")
    uri = default_tracking_uri(folder)
    tracker = RunTracker.open(uri, "shapes", "run", None)
    bundle = save_tiny_bundle(folder, SETTINGS)
    registered = tracker.register_model("shapes", bundle, REQUIREMENTS, serving_settings(SETTINGS))
    mlflow.set_tracking_uri(uri)
    return mlflow.pyfunc.load_model(registered)


@pytest.mark.parametrize(
    "prompts",
    [
        pd.DataFrame({"id": ["row-1", "row-2"], "prompt": TWO}),
        pd.DataFrame({"number": [1, 2], "prompt": TWO, "note": [None, None]}, index=[7, 9]),
        pd.DataFrame({"prompt": TWO}),
        pd.DataFrame({"caption": TWO}),
        pd.Series(TWO),
        TWO,
        {"prompt": TWO},
        {"id": [1, 2], "prompt": TWO},
        [{"id": 1, "prompt": TWO[0]}, {"id": 2, "prompt": TWO[1]}],
    ],
)
def test_the_column_of_the_prompts_is_generated_wherever_it_stands(model: PyFuncModel, prompts: Any) -> None:
    table = model.predict(prompts, params={"seed": 3})
    assert table["prompt"].tolist() == TWO
    assert table["seed"].tolist() == [3, 4]


@pytest.mark.parametrize("one", ["a red star", {"prompt": "a red star"}, {"id": 1, "prompt": "a red star"}])
def test_one_text_is_one_prompt(model: PyFuncModel, one: Any) -> None:
    assert model.predict(one)["prompt"].tolist() == ["a red star"]


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": TWO},
        {"instances": TWO},
        {"inputs": {"prompt": TWO, "id": [1, 2]}},
        {"instances": [{"id": 1, "prompt": TWO[0]}, {"id": 2, "prompt": TWO[1]}]},
        {"dataframe_split": {"columns": ["id", "prompt"], "data": [[1, TWO[0]], [2, TWO[1]]]}},
        {"dataframe_records": [{"id": 1, "prompt": TWO[0]}, {"id": 2, "prompt": TWO[1]}]},
    ],
    ids=json.dumps,
)
def test_prompts_are_found_in_whatever_mlflow_reads_of_a_request(model: PyFuncModel, body: dict[str, Any]) -> None:
    received = infer_and_parse_data(body, model.metadata.get_input_schema())
    assert model.predict(received)["prompt"].tolist() == TWO


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (pd.DataFrame({"id": [1, 2, 3], "prompt": ["a", None, "b"]}), "row 2 of 3: found None"),
        (pd.DataFrame({"prompt": ["a", "b", float("nan")]}), "row 3 of 3: found nan"),
        (pd.DataFrame({"prompt": pd.array(["a", None], dtype="string")}), "row 2 of 2: found <NA>"),
        (["a", None], "row 2 of 2: found None"),
        (["a", " \n"], r"row 2 of 2: found ' \\n': expected a text that is not blank: give its prompt, or leave"),
        (["a", "\ud800"], "row 2 of 2: found .*: expected a text"),
        ([1, 2], "row 1 of 2: found 1"),
        ({"prompt": ["a"], "id": [1, 2]}, "row 2 of 2: found nan"),
        (pd.DataFrame({"id": [1], "text": ["a"]}), r"no column 'prompt' \(it has id, text\)"),
        (pd.DataFrame([["a", "b"]], columns=["prompt", "prompt"]), r"has 2 columns 'prompt' \(it has prompt, prompt\)"),
    ],
)
def test_what_is_no_prompt_is_refused_with_its_row(model: PyFuncModel, prompts: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model.predict(prompts)


@pytest.mark.parametrize("nothing", [[], pd.DataFrame({"prompt": []}), pd.DataFrame(), {"prompt": []}])
def test_no_prompts_give_no_images(model: PyFuncModel, nothing: Any) -> None:
    table = model.predict(nothing)
    assert list(table.columns) == ["prompt", "seed", "image"]
    assert table.empty
