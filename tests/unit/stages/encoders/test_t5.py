import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from stages.contract.errors import InputFault
from stages.encoders.config import T5Source, TextStatesConfig
from stages.encoders.t5 import T5Encoder
from tests.factories import save_tiny_t5

TEXTS = ["a small red circle at the top left of the image", "blue star", "", "a ring on white"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_t5(tmp_path_factory.mktemp("t5") / "a")


def make_encoder(folder, *, max_length=80, batch_size=64):
    return T5Encoder(T5Source(path=folder), max_length=max_length, batch_size=batch_size)


def encode_directly(folder, text):
    from transformers import AutoTokenizer, T5EncoderModel

    tokenizer, model = AutoTokenizer.from_pretrained(folder), T5EncoderModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]


def test_states_are_those_of_transformers_at_their_true_length(folder):
    states = make_encoder(folder).encode(TEXTS)
    assert [len(one) for one in states] == [12, 3, 1, 5]  # words and the end token
    for text, one in zip(TEXTS, states, strict=True):
        torch.testing.assert_close(one, encode_directly(folder, text), rtol=1e-5, atol=1e-5)


def test_a_text_does_not_depend_on_its_neighbours(folder):
    encoder = make_encoder(folder)
    together, by_two = encoder.encode(TEXTS), make_encoder(folder, batch_size=2).encode(TEXTS)
    for text, one, two in zip(TEXTS, together, by_two, strict=True):
        alone = encoder.encode([text])[0]
        torch.testing.assert_close(one, alone, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(two, alone, rtol=1e-5, atol=1e-6)
    assert encoder.encode([]) == []


def test_a_long_text_is_cut_and_ends_by_its_end_token(folder):
    cut = make_encoder(folder, max_length=4).encode(TEXTS[:1])[0]
    torch.testing.assert_close(cut, encode_directly(folder, "a small red"), rtol=1e-5, atol=1e-5)


def test_the_identity_is_of_weights_and_vocabulary_not_of_the_path(folder, tmp_path):
    same, other = save_tiny_t5(tmp_path / "same"), save_tiny_t5(tmp_path / "other", seed=1)
    first, copy, unlike = (make_encoder(one).identity for one in (folder, same, other))
    assert first.digest == copy.digest != unlike.digest
    assert (first.width, first.max_length, first.source) == (12, 80, {"path": str(folder)})
    words = json.loads((same / "tokenizer.json").read_text())
    words["model"]["vocab"][6], words["model"]["vocab"][7] = words["model"]["vocab"][7], words["model"]["vocab"][6]
    (same / "tokenizer.json").write_text(json.dumps(words))
    assert make_encoder(same).identity.digest != first.digest


def test_a_model_is_named_by_path_or_by_name():
    with pytest.raises(ValidationError, match="found neither of path and name: give one of them"):
        TextStatesConfig.model_validate({"t5": {"max_length": 4}})
    with pytest.raises(ValidationError, match="found both of path and name"):
        T5Source.model_validate({"path": "x", "name": "y"})
    assert TextStatesConfig.model_validate({"t5": {"name": "google/flan-t5-xl"}}).t5.max_length == 80


def test_folders_that_cannot_be_used_are_named(folder, tmp_path):
    with pytest.raises(InputFault, match=r"text_states\.t5\.path: there is no folder .*nowhere"):
        make_encoder(tmp_path / "nowhere")
    pickled = save_tiny_t5(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(InputFault, match=r"has no weights as \.safetensors \(it holds config\.json"):
        make_encoder(pickled)
    damaged = save_tiny_t5(tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(InputFault, match=r"transformers cannot load .*damaged"):
        make_encoder(damaged)
    other = save_tiny_t5(tmp_path / "bert")
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputFault, match=r"bert is a model of type 'bert': allowed is t5"):
        make_encoder(other)


def test_lacking_weights_are_not_made_up(folder, tmp_path):
    lacking = save_tiny_t5(tmp_path / "lacking")
    weights = load_file(lacking / "model.safetensors")
    gone = "encoder.block.1.layer.0.SelfAttention.q.weight"
    save_file(
        {name: one for name, one in weights.items() if name != gone}, lacking / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(InputFault, match=rf"lacks 1 of its weights \({gone}\)"):
        make_encoder(lacking)
