"""Language models as encoders of token states: random ones of every known type, in the real format."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.contract.errors import InputFault
from stages.encoders.check import check_text_model
from stages.encoders.config import LanguageModelSource, LanguageModelStatesConfig, StoredLanguageModel, TextStatesConfig
from stages.encoders.language_model import LanguageModelEncoder
from stages.encoders.language_model_files import TYPES, read_width
from tests.factories import save_tiny_language_model

TEXTS = ["a small red circle at the top left of the image", "blue star", "a ring on white"]


def make_encoder(folder: Path, max_length: int = 40) -> LanguageModelEncoder:
    return LanguageModelEncoder(LanguageModelSource(path=folder), max_length=max_length, batch_size=2)


def encode_directly(folder: Path, text: str) -> Tensor:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        states: Tensor = model(input_ids=ids).last_hidden_state[0]
        return states


@pytest.mark.parametrize("kind", TYPES)
def test_states_are_those_of_transformers_whatever_stands_beside(tmp_path: Path, kind: str) -> None:
    folder = save_tiny_language_model(tmp_path / kind, kind)
    encoder = make_encoder(folder)
    assert encoder.identity.width == read_width(folder, "here") == 12
    assert encoder.encode([]) == []
    for text, states in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        torch.testing.assert_close(states, encode_directly(folder, text), rtol=1e-4, atol=1e-5)
    assert len(make_encoder(folder, 4).encode(TEXTS[:1])[0]) == 4
    assert encoder.encode([""])[0].isfinite().all()


def test_the_identity_is_of_weights_and_vocabulary(tmp_path: Path) -> None:
    one, same = (save_tiny_language_model(tmp_path / name, "gpt2") for name in ("one", "same"))
    other = save_tiny_language_model(tmp_path / "other", "gpt2", seed=1)
    digests = [make_encoder(folder).identity.digest for folder in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]


def test_a_text_without_a_token_has_one(tmp_path: Path) -> None:
    folder = save_tiny_language_model(tmp_path / "gpt2", "gpt2")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    assert [len(states) for states in make_encoder(folder).encode(["", "blue star"])] == [1, 2]


def test_it_is_kept_by_its_content_as_any_stored_model(tmp_path: Path) -> None:
    folder = save_tiny_language_model(tmp_path / "bert", "bert")
    config = LanguageModelStatesConfig(path=folder, max_length=9)
    stored = config.stored("/store", "0" * 64)
    assert isinstance(stored, StoredLanguageModel)
    assert (stored.label, stored.max_length, stored.reference) == ("bert", 9, "bert")
    assert stored.found_by() == {"label": "bert", "digest": "0" * 64}


def test_sections_without_one_are_what_they_were() -> None:
    assert "language_model" not in TextStatesConfig.model_validate({"t5": {"name": "google/flan-t5-xl"}}).identity()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "t5"}, "model_type is 't5': allowed is one of bert, .*text_states.t5"),
        ({"model_type": ["bert"]}, "model_type is"),
        ({"auto_map": {"AutoModel": "evil.Evil"}}, "auto_map names Python code"),
        ({"load_from": "/etc"}, "unknown keys load_from"),
        ({"quantization_config": {"quant_method": "x"}}, "quantization_config names a package"),
        ({"_attn_implementation": "some/kernel"}, "names code to fetch"),
        ({"hidden_size": None}, "hidden_size is None: allowed is a number"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        (
            {"num_hidden_layers": 5000, "intermediate_size": 100_000},
            r"a model of .* numbers or more: .* bytes of weights",
        ),
        ({"max_position_embeddings": 9_000_000}, r"a model of .* numbers or more"),
        ({"type_vocab_size": 10**9}, "type_vocab_size is 1000000000: allowed is a number from 0 to 1024"),
        ({"type_vocab_size": float("nan")}, "type_vocab_size is nan: allowed is a number from 0 to 1024"),
        ({"type_vocab_size": "x"}, "type_vocab_size is x: allowed is a number"),
        ({"type_vocab_size": [2]}, r"type_vocab_size is \[2\]: allowed is a number"),
        ({"type_vocab_size": True}, "type_vocab_size is True: allowed is a number"),
        ({"type_vocab_size": -1}, "type_vocab_size is -1: allowed is a number"),
        ({"vocab_size": 5}, "has embeddings of 5 tokens|cannot load"),
        ({"hidden_act": "__import__('os')"}, "cannot load"),
    ],
)
def test_a_folder_is_refused_by_the_name_of_its_key(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    folder = save_tiny_language_model(tmp_path / "bert", "bert")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | changes))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\nclass Evil: pass\n")
    with pytest.raises(InputFault, match=words):
        make_encoder(folder)
    assert not (tmp_path / "marker").exists()


def test_what_is_missing_or_no_safetensors_is_named(tmp_path: Path) -> None:
    folder = save_tiny_language_model(tmp_path / "bert", "bert")
    with pytest.raises(InputFault, match=r"language_model.max_length: found 80: expected at most 64"):
        check_text_model(LanguageModelStatesConfig(path=folder), where="embed_clip.text_states.language_model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputFault, match=r"has no weights as \.safetensors"):
        make_encoder(folder)
    with pytest.raises(InputFault, match=r"there is no folder .*nowhere"):
        make_encoder(tmp_path / "nowhere")
