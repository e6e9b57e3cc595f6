import pytest
import torch

from stages.contract.errors import InputFault
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, TextStatesConfig
from stages.encoders.open_clip_import import import_open_clip
from stages.encoders.text import TextEncoder, make_text_encoder
from tests.factories import save_tiny_clip, save_tiny_t5

TEXTS = ["a small red circle at the top left", "blue star", ""]
SIGLIP = {
    "pool_type": "last",
    "no_causal_mask": True,
    "proj_bias": True,
    "norm_kwargs": {"eps": 1e-6},
    "act_kwargs": {"approximate": "tanh"},
}
LENGTHS = [10, 4, 2]  # words, start and end


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return [save_tiny_clip(root / "a", seed=0, embed_dim=16), save_tiny_clip(root / "b", seed=1, embed_dim=24)]


def make_clip(*folders):
    return ClipEncoder(ClipConfig(models=[{"kind": "folder", "path": folder} for folder in folders]), device="cpu")


def states_directly(folder, texts):
    """All token states of open_clip's text transformer, padding included: [batch, context, width]."""
    open_clip = import_open_clip()
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    with torch.no_grad():
        embedded = model.token_embedding(tokens) + model.positional_embedding
        return model.ln_final(model.transformer(embedded, attn_mask=model.attn_mask))


def test_clip_states_are_those_of_open_clip_side_by_side_up_to_the_end_token(folders):
    clip = make_clip(*folders)
    encoded = TextEncoder(clip, clip_max_length=77).encode(TEXTS)
    direct = torch.cat([states_directly(folder, TEXTS) for folder in folders], dim=-1)
    assert [len(states) for states in encoded.states["clip"]] == LENGTHS
    for row, states in enumerate(encoded.states["clip"]):
        torch.testing.assert_close(states, direct[row, : LENGTHS[row]], rtol=1e-5, atol=1e-5)
    assert torch.equal(encoded.embedding, clip.encode_texts(TEXTS))


def test_the_end_token_carries_the_embedding(folders):
    """Reading one token further or less far would not give the text embedding by the projection."""
    clip = make_clip(folders[0])
    encoded = TextEncoder(clip, clip_max_length=77).encode(TEXTS)
    projection = import_open_clip().create_model_from_pretrained(f"local-dir:{folders[0]}")[0].text_projection
    ends = torch.stack([states[-1] for states in encoded.states["clip"]]) @ projection
    torch.testing.assert_close(ends, encoded.embedding, rtol=1e-5, atol=1e-5)


def test_states_are_made_on_request_only_and_in_one_order(folders, tmp_path):
    clip, t5 = make_clip(folders[0]), {"path": save_tiny_t5(tmp_path / "t5"), "max_length": 5}
    assert make_text_encoder(clip, None, device="cpu").encode(TEXTS).states == {}
    both = make_text_encoder(clip, TextStatesConfig.model_validate({"clip": True, "t5": t5}), device="cpu")
    assert list(both.identities) == ["t5", "clip"]
    assert [(one.width, one.max_length) for one in both.identities.values()] == [(12, 5), (32, 77)]
    features = both.encode(TEXTS).features()
    assert list(features.states) == ["t5", "clip"]
    assert features.states["t5"].lengths.tolist() == [5, 3, 1]
    assert features.states["t5"].values.shape == (3, 5, 12)
    assert features.states["clip"].lengths.tolist() == LENGTHS
    assert (features.states["clip"].values[1, 4:] == 0).all()
    cut = make_text_encoder(clip, TextStatesConfig.model_validate({"clip": {"max_length": 3}}), device="cpu")
    assert [len(states) for states in cut.encode(TEXTS).states["clip"]] == [3, 3, 2]
    assert not make_text_encoder(clip, TextStatesConfig.model_validate({"clip": False}), device="cpu").identities


def test_the_identity_of_clip_states_is_of_the_weights(folders):
    one, other, both = (
        TextEncoder(make_clip(*some), clip_max_length=77) for some in (folders[:1], folders[1:], folders)
    )
    assert len({encoder.identities["clip"].digest for encoder in (one, other, both)}) == 3
    assert both.identities["clip"].width == 64


def test_models_with_other_tokens_cannot_stand_side_by_side(folders, tmp_path):
    other = save_tiny_clip(tmp_path / "short", context_length=16)
    with pytest.raises(
        InputFault, match=r"clip\.models\[0\].* and clip\.models\[1\].*\(context lengths 24 and 16\): allowed are"
    ):
        TextEncoder(make_clip(folders[0], other), clip_max_length=77)
    TextEncoder(make_clip(folders[0], other))  # without states they can


def test_a_tower_of_unknown_pooling_is_refused(tmp_path):
    folder = save_tiny_clip(tmp_path / "none", text={"pool_type": "none"})
    with pytest.raises(InputFault, match=r"has a text tower CLIP with pooling 'none': allowed are"):
        TextEncoder(make_clip(folder), clip_max_length=77)


@pytest.mark.parametrize("pooling", ["last", "first"])
def test_texts_end_at_the_padding_where_the_pooling_is_of_a_position(tmp_path, pooling):
    folder = save_tiny_clip(tmp_path / pooling, text=SIGLIP | {"pool_type": pooling})
    encoder = TextEncoder(make_clip(folder), clip_max_length=77)
    encoded = encoder.encode(TEXTS)
    assert [len(states) for states in encoded.states["clip"]] == LENGTHS
    alone = encoder.encode(TEXTS[1:2])
    torch.testing.assert_close(encoded.states["clip"][1], alone.states["clip"][0])


@pytest.mark.parametrize("clean", ["canonicalize", "whitespace"])
@pytest.mark.parametrize("context_length", [24, 8])
def test_texts_of_a_siglip2_are_read_as_open_clip_reads_them(tmp_path, clean, context_length):
    """Pooling, mask, biases, context length and lower-casing are the folder's own."""
    import open_clip

    text = SIGLIP | {"tokenizer_kwargs": {"clean": clean}}
    folder = save_tiny_clip(tmp_path / "siglip2", text=text, context_length=context_length, keeps_case=True)
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    texts = ["a SMALL red, circle", "a small red circle", "blue star " * 20]
    with torch.no_grad():
        expected = model.eval().encode_text(tokenizer(texts))
    found = make_clip(folder).encode_texts(texts)
    torch.testing.assert_close(found, expected)
    assert torch.allclose(found[0], found[1]) == (clean == "canonicalize")


def test_nothing_gives_an_empty_batch(folders):
    encoder = TextEncoder(make_clip(folders[0]), clip_max_length=77)
    encoded = encoder.encode([])
    assert encoded.embedding.shape == (0, 16)
    assert encoded.states == {"clip": []}
