"""Captioning models of strangers: no code of a folder runs, nothing outside it is read, and the key is named."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from stages.caption_images.captioner import ImageCaptioner
from stages.caption_images.check import check as check_captioner
from stages.caption_images.config import CaptionImagesConfig
from stages.contract.errors import InputFault
from tests.hostile.models import change_json, write_code, write_pickle
from tests.hostile.test_models import TOKENIZERS, copied
from tests.tiny_captioners import save_tiny_captioner


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_captioner(tmp_path_factory.mktemp("models") / "blip", "blip")


def captioner_of(folder: Path, **fields: Any) -> ImageCaptioner:
    config = CaptionImagesConfig.model_validate({"model": {"path": folder}, "max_new_tokens": 4} | fields)
    return ImageCaptioner(config, device="cpu")


CAPTIONERS: dict[str, tuple[str, dict[str, Any], str]] = {
    **TOKENIZERS,
    "another type": ("config.json", {"model_type": "evil"}, "model_type is 'evil'"),
    "another part": ("config.json", {"vision_config__model_type": "timm_wrapper"}, "vision_config.model_type"),
    "a part more": ("config.json", {"encoder": {"model_type": "vit"}}, "the part encoder"),
    "a key of a part": ("config.json", {"text_config__backbone": "x"}, "unknown keys backbone"),
    "code of a part": ("config.json", {"text_config__auto_map": {"AutoModel": "evil.Evil"}}, "auto_map"),
    "many layers": ("config.json", {"text_config__num_hidden_layers": 10**6}, "num_hidden_layers is 1000000"),
    "a wide layer": ("config.json", {"text_config__hidden_size": 10**6}, "a model of"),
    "a long table": ("config.json", {"text_config__max_position_embeddings": 9_000_000}, "a model of"),
    "code of the images": ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "evil.Evil"}}, "auto_map"),
    "a class of images": ("preprocessor_config.json", {"image_processor_type": "Evil"}, "image_processor_type is"),
    "large images": ("preprocessor_config.json", {"size": {"height": 10**5, "width": 32}}, "size is"),
    "code of generation": ("generation_config.json", {"custom_generate": "evil"}, "unknown keys custom_generate"),
    "negative sizes": ("preprocessor_config.json", {"size": {"shortest_edge": -1}}, "size is"),
}


@pytest.mark.parametrize("kind", CAPTIONERS)
def test_a_captioner_s_folder_is_data_alone(captioner: Path, tmp_path: Path, kind: str) -> None:
    file, changes, found = CAPTIONERS[kind]
    folder, marker = copied(captioner, tmp_path / "blip"), tmp_path / "marker"
    write_code(folder, marker)
    change_json(folder / file, **changes)
    name = found if kind != "deep down" else "trust_remote_code"
    with pytest.raises(InputFault, match=rf"caption_images\.model\.path: .*{file}: .*{name}"):
        captioner_of(folder)
    assert not marker.exists()


BLIP_2: dict[str, tuple[dict[str, Any], str]] = {
    "no token of the image": ({"image_token_index": None}, "config.json: .*image_token_index is None"),
    "no queries": ({"num_query_tokens": 0}, "config.json: .*num_query_tokens is 0"),
    "many queries": ({"num_query_tokens": 10**9}, "config.json: .*num_query_tokens is 1000000000"),
    "another writer": ({"text_config__model_type": "llama"}, "config.json: .*text_config.model_type is 'llama'"),
    "deep queries": ({"qformer_config__num_hidden_layers": 10**6}, "config.json: .*num_hidden_layers is 1000000"),
    "a key of the queries": ({"qformer_config__backbone": "x"}, "config.json: .*unknown keys backbone"),
}


@pytest.mark.parametrize(
    ("kind", "found"),
    [("blip-2", "64 positions, and 900001 are taken before"), ("blip-2-t5", "config.json: a model of")],
)
def test_a_blip_2_has_no_more_queries_than_room(tmp_path: Path, kind: str, found: str) -> None:
    folder = save_tiny_captioner(tmp_path / kind, kind)
    change_json(folder / "config.json", num_query_tokens=900_000)
    with pytest.raises(InputFault, match=rf"^caption_images\..*{found}"):
        captioner_of(folder)


LLAVA: dict[str, tuple[dict[str, Any], str]] = {
    "another writer": ({"text_config__model_type": "gpt2"}, "config.json: .*text_config.model_type is 'gpt2'"),
    "another tower": ({"vision_config__model_type": "timm_wrapper"}, "config.json: .*vision_config.model_type is"),
    "a wide writer": ({"text_config__intermediate_size": 10**7}, "config.json: a model of"),
    "wide heads": ({"text_config__head_dim": 10**6}, "config.json: a model of"),
    "many patches": ({"vision_config__image_size": 16_000}, "64 positions, and 1000001 are taken before"),
    "no such layer": ({"vision_feature_layer": 1000}, "cannot caption an image"),
    "no such token": ({"image_token_index": 10_000}, "cannot caption an image|times"),
    "a negative token": ({"image_token_index": -7}, "cannot caption an image|cannot load|times"),
    "a token of words": ({"image_token_index": "<image>"}, "cannot caption an image|cannot load"),
    "another selection": ({"vision_feature_select_strategy": "evil"}, "cannot load|cannot caption an image"),
    "another activation": ({"projector_hidden_act": "evil"}, "cannot load"),
}


MODELS = [("blip-2", name) for name in BLIP_2] + [("llava", name) for name in LLAVA]


@pytest.mark.parametrize(("model", "kind"), MODELS)
def test_a_model_is_no_other_than_its_weights(tmp_path: Path, model: str, kind: str) -> None:
    changes, found = (BLIP_2 if model == "blip-2" else LLAVA)[kind]
    folder = save_tiny_captioner(tmp_path / model, model)
    change_json(folder / "config.json", **changes)
    with pytest.raises(InputFault, match=rf"caption_images\..*{found}") as caught:
        captioner_of(folder, prompt="a <image> photo" if model == "llava" else None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["x", [1], {"a": 1}, 10**12])
def test_queries_of_a_model_that_has_none_are_not_read(captioner: Path, tmp_path: Path, value: Any) -> None:
    folder = copied(captioner, tmp_path / "blip")
    change_json(folder / "config.json", num_query_tokens=value)
    with contextlib.suppress(InputFault):
        captioner_of(folder)


def test_a_blip_2_without_its_tokens_in_the_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_captioner(tmp_path / "blip-2", "blip-2")
    change_json(folder / "config.json", image_token_index=10_000)
    with pytest.raises(InputFault, match=r"blip-2 cannot caption an image|image_token_index is 10000"):
        captioner_of(folder)


def test_a_captioner_reads_its_own_files_no_pickle_and_no_template(captioner: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    folder = copied(captioner, tmp_path / "pickled")
    change_json(folder / "tokenizer_config.json", chat_template="{% for x in range(10**12) %}{% endfor %}")
    (folder / "chat_template.jinja").write_text("{{ 1 // 0 }}")
    captioner_of(folder)
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    write_pickle(folder / "pytorch_model.bin", marker)
    with pytest.raises(InputFault, match=r"has no weights as \.safetensors"):
        captioner_of(folder)
    (folder / "model.safetensors").symlink_to(tmp_path / "model.safetensors")
    with pytest.raises(InputFault, match=r"model\.safetensors: a link that leads out of the folder"):
        captioner_of(folder)
    assert not marker.exists()


def test_parts_of_a_captioner_that_do_not_belong_together_are_found_at_once(captioner: Path, tmp_path: Path) -> None:
    folder = copied(captioner, tmp_path / "sizes")
    change_json(folder / "preprocessor_config.json", size={"height": 48, "width": 48})
    with pytest.raises(InputFault, match="cannot caption an image"):
        captioner_of(folder)
    few = CaptionImagesConfig.model_validate({"model": {"path": captioner}, "max_new_tokens": 64})
    with pytest.raises(InputFault, match=r"caption_images\.max_new_tokens: found 64: expected at most 63"):
        check_captioner(few)
