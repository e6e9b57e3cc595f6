"""Files of a model folder that say something of another type than they should are refused in a sentence."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.contract.errors import InputFault
from stages.encoders.image_to_text.files import check_image_to_text_folder
from stages.encoders.model_files import check_diffusers_folder, check_links, check_tokenizer, require_weights

OTHER_TYPES: tuple[Any, ...] = (None, True, 5, 1.5, "x", [], [[]], ["a"], [["a"], "b"], [{}], {}, {"a": [1]})


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def words_of(check: Callable[[], object]) -> str:
    """Return what is refused, or nothing; any other error is the test's."""
    try:
        check()
    except InputFault as error:
        return str(error)
    return ""


@pytest.mark.parametrize("value", [True, 5, [{}], "x", [["alpha"]], {"a": 1}, {"model_file": "/etc"}])
def test_options_of_a_tokenizer_are_a_mapping(tmp_path: Path, value: Any) -> None:
    write(tmp_path / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "sp_model_kwargs": value})
    assert "sp_model_kwargs holds more than numbers" in words_of(lambda: check_tokenizer(tmp_path, "clip"))


@pytest.mark.parametrize("value", [None, {}, {"alpha": 0.1, "nbest_size": -1}])
def test_options_of_a_tokenizer_may_be_numbers(tmp_path: Path, value: Any) -> None:
    write(tmp_path / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "sp_model_kwargs": value})
    check_tokenizer(tmp_path, "clip")


@pytest.mark.parametrize("value", [[["a"], "b"], [{}, "b"], ["diffusers", ["b"]], [None, "b"], ["diffusers"], [[]]])
def test_a_part_of_stable_diffusion_is_a_class_of_a_known_library(tmp_path: Path, value: Any) -> None:
    write(tmp_path / "model_index.json", {"vae": value})
    assert "vae is [" in words_of(lambda: check_diffusers_folder(tmp_path, "w"))


@pytest.mark.parametrize("key", ["image_processor_type", "feature_extractor_type"])
@pytest.mark.parametrize("value", [["x"], [], {}, {"a": 1}, 5, True, "x"])
def test_the_preparation_of_images_names_a_class(tmp_path: Path, key: str, value: Any) -> None:
    write(tmp_path / "config.json", {"model_type": "git", "vision_config": {}})
    write(tmp_path / "preprocessor_config.json", {"size": 8, key: value})
    for name in ("tokenizer.json", "model.safetensors"):
        write(tmp_path / name, {})
    found = words_of(lambda: check_image_to_text_folder(tmp_path, where="w", max_new_tokens=5, setting="s"))
    assert f"{key} is " in found


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("value", OTHER_TYPES)
def test_no_type_of_any_value_is_a_traceback(tmp_path: Path, name: str, value: Any) -> None:
    keys = ("tokenizer_class", "sp_model_kwargs", "model_type", "vision_config", "text_config", "size", "crop_size",
            "image_processor", "image_processor_type", "added_tokens_decoder", "vocab_size", "n_positions")  # fmt: skip
    sound = {
        "config.json": {"model_type": "git", "vision_config": {}, "max_position_embeddings": 99},
        "preprocessor_config.json": {"size": 8},
        "tokenizer_config.json": {},
    }
    for other in ("tokenizer.json", "model.safetensors"):
        write(tmp_path / other, {})
    for file, content in sound.items():
        write(tmp_path / file, content)
    for key in keys:
        write(tmp_path / name, sound[name] | {key: value})
        words_of(lambda: check_image_to_text_folder(tmp_path, where="w", max_new_tokens=5, setting="s"))


@pytest.mark.parametrize("target", ["nothing", "model.safetensors"])
def test_links_to_nothing_and_in_a_circle_hold_no_weights(tmp_path: Path, target: str) -> None:
    (tmp_path / "model.safetensors").symlink_to(target)
    os.mkfifo(tmp_path / "other.safetensors")
    check_links(tmp_path, "w")
    found = words_of(lambda: require_weights(tmp_path, 9.0, tmp_path / "config.json", "w"))
    assert "allowed is what 0 bytes of weights beside it can hold" in found
