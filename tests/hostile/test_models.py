"""Model folders of strangers: whatever they say, no code runs, nothing outside is read, and the key is named."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stages.contract.errors import ArtifactError, InputFault
from stages.encode_latents.check import check as check_latents
from stages.encode_latents.config import EncodeByStableDiffusion
from stages.encoders.check import check_clip, check_t5
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig, LanguageModelSource, T5Source
from stages.encoders.features.inception import load_inception
from stages.encoders.language_model import LanguageModelEncoder
from stages.encoders.open_clip_schema import check_open_clip_config
from stages.encoders.t5 import T5Encoder
from stages.filter_samples.config import HeadFilter
from stages.filter_samples.heads import load_head
from stages.formats.clip_folders import CLIP_CONFIG
from stages.formats.model_folders import count_numbers, load_model_state, save_model
from stages.formats.tensor_files import read_tensors
from stages.storage.artifact import Output
from stages.storage.npy_reader import NpyReader
from tests.factories import save_tiny_clip, save_tiny_language_model, save_tiny_t5
from tests.hostile.models import change_json, write_code, write_old_pickle, write_pickle
from tests.tiny_stable_diffusion import save_tiny_stable_diffusion


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_t5(tmp_path_factory.mktemp("models") / "t5")


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_language_model(tmp_path_factory.mktemp("models") / "lm", "gpt2")


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("models") / "sd")


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def clip_of(folder: Path) -> ClipConfig:
    return ClipConfig.model_validate({"models": [{"kind": "folder", "path": folder}]})


TEXT, VISION = "model_cfg__text_cfg__", "model_cfg__vision_cfg__"
CLIP_CONFIGS: dict[str, dict[str, Any]] = {
    "code of the tokenizer": {TEXT + "tokenizer_kwargs": {"trust_remote_code": True}},
    "a tokenizer's file elsewhere": {TEXT + "tokenizer_kwargs": {"vocab_file": "/etc/passwd"}},
    "a vocabulary elsewhere": {TEXT + "tokenizer_kwargs": {"bpe_path": "/etc/passwd"}, TEXT + "hf_tokenizer_name": ""},
    "another text tower": {TEXT + "hf_model_name": "some/one"},
    "timm's hub": {VISION + "timm_model_name": "hf-hub:some/one"},
    "timm's folder": {VISION + "timm_model_name": "local-dir:/tmp/x"},
    "an unknown key": {"model_cfg__cast_dtype": "x"},
    "an unknown section": {"other": {}},
    "huge": {VISION + "width": 10**9},
    "a type": {VISION + "layers": "12"},
    "no tower": {"model_cfg__vision_cfg": 3},
    "other channels": {"preprocess_cfg__mode": "L"},
    "an unknown interpolation": {"preprocess_cfg__interpolation": "__import__('os')"},
}


def test_a_model_larger_than_its_weights_is_not_built(clip: Path, t5: Path, tmp_path: Path) -> None:
    for name, original, file, changes in (
        ("clip", clip, CLIP_CONFIG, {TEXT + "layers": 900, VISION + "width": 4096}),
        ("t5", t5, "config.json", {"d_ff": 1_000_000, "num_layers": 1000}),
    ):
        folder = copied(original, tmp_path / name)
        change_json(folder / file, **changes)
        with pytest.raises(InputFault, match=rf"{file}: a model of .* numbers or more: .* bytes of weights beside it"):
            ClipEncoder(clip_of(folder)) if name == "clip" else T5Encoder(T5Source(path=folder), max_length=8)
    change_json(tmp_path / "t5/config.json", d_ff="many")
    with pytest.raises(InputFault, match="d_ff is many"):
        check_t5(T5Source(path=tmp_path / "t5"), where="t5")


def test_sizes_that_are_not_given_are_those_that_would_be_built(clip: Path, t5: Path, tmp_path: Path) -> None:
    for name, original, file, keys in (
        ("clip", clip, CLIP_CONFIG, ("width",)),  # of its vision tower: open_clip's own is 768
        ("t5", t5, "config.json", ("d_model", "d_ff", "num_layers")),
    ):
        folder = copied(original, tmp_path / name)
        document = json.loads((folder / file).read_text())
        section = document["model_cfg"]["vision_cfg"] if name == "clip" else document
        for key in keys:
            section.pop(key, None)
        (folder / file).write_text(json.dumps(document))
        begun = time.process_time()
        with pytest.raises(InputFault, match=r"a model of .* numbers or more"):
            ClipEncoder(clip_of(folder)) if name == "clip" else T5Encoder(T5Source(path=folder), max_length=8)
        assert time.process_time() - begun < 5


def test_tokens_without_an_embedding_are_refused(clip: Path, t5: Path, tmp_path: Path) -> None:
    for name, original in (("clip", clip), ("t5", t5)):
        folder = copied(original, tmp_path / name)
        document = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = document["model"]["vocab"]
        if isinstance(vocabulary, dict):
            vocabulary[max(vocabulary, key=lambda token: vocabulary[token])] = 1_000_000
        else:
            vocabulary += [[f"more{number}", -1.0] for number in range(10_000)]
        (folder / "tokenizer.json").write_text(json.dumps(document))
        with pytest.raises(InputFault, match=r"has embeddings of .* tokens, and its tokenizer numbers them up to"):
            ClipEncoder(clip_of(folder)) if name == "clip" else T5Encoder(T5Source(path=folder), max_length=8)


@pytest.mark.parametrize("kind", CLIP_CONFIGS)
def test_a_clip_config_is_refused_by_the_name_of_its_key(clip: Path, tmp_path: Path, kind: str) -> None:
    folder, marker = copied(clip, tmp_path / "clip"), tmp_path / "marker"
    write_code(folder, marker)
    change_json(folder / CLIP_CONFIG, **CLIP_CONFIGS[kind])
    change_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    name = "trust_remote_code" if kind == "code of the tokenizer" else next(iter(CLIP_CONFIGS[kind])).split("__")[-1]
    for use in (check_clip, ClipEncoder):
        with pytest.raises(InputFault, match=rf"clip\.models\[0\]\.path: .*open_clip_config\.json: .*{name}"):
            use(clip_of(folder))
    assert not marker.exists()


TOKENIZERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "auto_map": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}, "auto_map"),
    "an old auto_map": ("tokenizer_config.json", {"auto_map": ["evil.Evil", None]}, "auto_map"),
    "deep down": ("config.json", {"a": [{"b": {"trust_remote_code": True}}]}, "trust_remote_code"),
    "a class": ("tokenizer_config.json", {"tokenizer_class": "evil.Evil"}, "tokenizer_class"),
    "files of any place": ("tokenizer_config.json", {"init_inputs": ["/etc/passwd"]}, "init_inputs"),
    "an unknown key": ("tokenizer_config.json", {"load_from": "/etc"}, "load_from"),
    "options of a library": ("tokenizer_config.json", {"sp_model_kwargs": {"model_file": "/etc/passwd"}}, "sp_model"),
    "kernels of a hub": ("config.json", {"attn_implementation": "some/kernel"}, "attn_implementation"),
    "a package": ("config.json", {"quantization_config": {"quant_method": "x"}}, "quantization_config"),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_is_data_alone(clip: Path, t5: Path, tmp_path: Path, kind: str) -> None:
    file, changes, found = TOKENIZERS[kind]
    marker = tmp_path / "marker"
    for name, original in (("clip", clip), ("t5", t5)):
        folder = copied(original, tmp_path / name)
        write_code(folder, marker)
        if not (folder / file).exists():
            (folder / file).write_text("{}")
        change_json(folder / file, **changes)
        with pytest.raises(InputFault, match=rf"{file}: .*{found}"):
            ClipEncoder(clip_of(folder)) if name == "clip" else T5Encoder(T5Source(path=folder), max_length=8)
    assert not marker.exists()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_language_model_s_tokenizer_is_data_alone(language_model: Path, tmp_path: Path, kind: str) -> None:
    file, changes, found = TOKENIZERS[kind]
    folder, marker = copied(language_model, tmp_path / "lm"), tmp_path / "marker"
    write_code(folder, marker)
    change_json(folder / file, **changes)
    name = found if kind != "deep down" else "trust_remote_code"
    with pytest.raises(InputFault, match=rf"{file}: .*{name}"):
        LanguageModelEncoder(LanguageModelSource(path=folder), max_length=8)
    assert not marker.exists()


def test_a_language_model_reads_its_own_files_and_no_pickle(language_model: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    folder = copied(language_model, tmp_path / "pickled")
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    write_pickle(folder / "pytorch_model.bin", marker)
    with pytest.raises(InputFault, match=r"has no weights as \.safetensors"):
        LanguageModelEncoder(LanguageModelSource(path=folder), max_length=8)
    (folder / "model.safetensors").symlink_to(tmp_path / "model.safetensors")
    with pytest.raises(InputFault, match=r"model\.safetensors: a link that leads out of the folder"):
        LanguageModelEncoder(LanguageModelSource(path=folder), max_length=8)
    assert not marker.exists()


def test_a_chat_template_is_never_run(t5: Path, tmp_path: Path) -> None:
    folder = copied(t5, tmp_path / "t5")
    change_json(folder / "tokenizer_config.json", chat_template="{{ 1 // 0 }}{% for x in range(10**12) %}{% endfor %}")
    encoder = T5Encoder(T5Source(path=folder), max_length=8)
    assert len(encoder.encode(["a red circle"])) == 1


def test_weights_that_run_code_are_not_loaded(clip: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for number, write in enumerate((write_pickle, write_old_pickle)):
        folder = copied(clip, tmp_path / f"clip{number}")
        (folder / "open_clip_model.safetensors").unlink()
        write(folder / "open_clip_pytorch_model.bin", marker)
        with pytest.raises(InputFault, match="open_clip cannot load"):
            ClipEncoder(clip_of(folder))
        (folder / "open_clip_pytorch_model.bin").rename(folder / "weights.pkl")
        with pytest.raises(InputFault, match="has no weights"):
            check_clip(clip_of(folder))
        path = write(tmp_path / f"weights{number}.pth", marker)
        with pytest.raises(ValueError, match=r"more than named tensors|cannot read it"):
            read_tensors(path)
        with pytest.raises(InputFault, match=r"evaluate\.features\.path: .* cannot be used"):
            load_inception(path, "evaluate.features")
    assert not marker.exists()


def test_links_out_of_a_model_folder_are_refused(clip: Path, t5: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    for folder in (copied(clip, tmp_path / "clip"), copied(t5, tmp_path / "t5")):
        (folder / "notes.txt").symlink_to(tmp_path / "secret")
        with pytest.raises(InputFault, match=r"notes\.txt: a link that leads out of the folder"):
            check_clip(clip_of(folder)) if folder.name == "clip" else check_t5(T5Source(path=folder), where="t5")


def test_the_cache_of_the_hub_is_read_through_its_links(t5: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/0123"
    snapshot.mkdir(parents=True)
    copied(t5, blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    check_t5(T5Source(path=snapshot), where="t5")


@pytest.mark.parametrize("name", ["../out.safetensors", "/etc/passwd", "a/../../b.safetensors", "sub/c.safetensors"])
def test_an_index_names_files_of_the_folder(t5: Path, tmp_path: Path, name: str) -> None:
    folder = copied(t5, tmp_path / "t5")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"shared.weight": name}}))
    with pytest.raises(InputFault, match=r"index\.json: the weights .* names of files in the same folder"):
        check_t5(T5Source(path=folder), where="t5")


DIFFUSION: dict[str, tuple[str, dict[str, Any], str]] = {
    "a class of a module": ("model_index.json", {"unet": ["evil", "Evil"]}, "unet is"),
    "an unknown part": ("model_index.json", {"evil": ["diffusers", "UNet2DConditionModel"]}, "evil"),
    "another pipeline": ("model_index.json", {"_class_name": ["pipeline", "Evil"]}, "_class_name"),
    "a custom pipeline": ("model_index.json", {"custom_pipeline": "evil"}, "custom_pipeline"),
    "code of the text encoder": ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.Evil"}}, "auto_map"),
    "an unknown key": ("text_encoder/config.json", {"backbone": "some/one"}, "backbone"),
    "a package": ("vae/config.json", {"quantization_config": {"quant_method": "x"}}, "quantization_config"),
    "code of the tokenizer": ("tokenizer/tokenizer_config.json", {"auto_map": ["evil.Evil", None]}, "auto_map"),
}


@pytest.mark.parametrize("kind", DIFFUSION)
def test_a_checkpoint_of_stable_diffusion_is_data_alone(diffusion: Path, tmp_path: Path, kind: str) -> None:
    file, changes, found = DIFFUSION[kind]
    folder = copied(diffusion, tmp_path / "sd")
    config = EncodeByStableDiffusion.model_validate({"kind": "stable_diffusion", "path": folder, "resolution": 16})
    check_latents(config)
    change_json(folder / file, **changes)
    with pytest.raises(InputFault, match=rf"encode_latents\.path: .*{file}: .*{found}"):
        check_latents(config)


def test_heads_that_are_no_safetensors_are_named(tmp_path: Path) -> None:
    half = torch.zeros(1, 4, dtype=torch.bfloat16)
    save_file({"0.weight": half, "0.bias": half[0, :1].clone()}, tmp_path / "half")
    numbers = {"9" * 5000 + ".weight": torch.zeros(1, 4)}
    save_file(numbers, tmp_path / "numbers")
    with pytest.raises(InputFault, match="expected names such as"):
        load_head(HeadFilter.model_validate({"name": "a", "path": tmp_path / "numbers", "minimum": 0}), 4)
    lengths = [(1 << 60).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]"]
    for content in ((tmp_path / "half").read_bytes(), b"", b"\xff" * 100, *lengths):
        (tmp_path / "head").write_bytes(content)
        head = HeadFilter.model_validate({"name": "a", "path": tmp_path / "head", "minimum": 0})
        with pytest.raises(InputFault, match="expected a safetensors file"):
            load_head(head, 4)


def test_a_decoder_folder_reads_its_own_files(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "made"), "train_decoder", "f")
    save_model(output, "decoder", {"weight": torch.zeros(3)}, {"model": {}})
    save_file({"x": torch.zeros(1)}, tmp_path / "outside.safetensors")
    outside: list[Any] = [{"a.": "../../outside.safetensors"}, {"a.": str(tmp_path / "outside.safetensors")}]
    for parts in (*outside, [], {"a.": 3}):
        change_json(tmp_path / "made/decoder/config.json", parts=parts)
        with pytest.raises(ArtifactError, match=r"parts is .*: expected a mapping to files of the folder"):
            load_model_state(output, "decoder")
    change_json(tmp_path / "made/decoder/config.json", parts={})
    (tmp_path / "made/decoder/model.safetensors").write_bytes((1 << 62).to_bytes(8, "little"))
    with pytest.raises(ArtifactError, match=r"no safetensors file \(ValueError: a header of \d+ bytes\)"):
        count_numbers(output, "decoder")


def test_arrays_are_numbers(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "rows.npy"
    np.save(path, np.array([[1, "x"]], dtype=object), allow_pickle=True)
    contents = {"objects": path.read_bytes(), "pickle": write_old_pickle(path, marker).read_bytes()}
    np.savez(tmp_path / "rows.npz", a=np.zeros((2, 2)))
    contents["npz"] = (tmp_path / "rows.npz").read_bytes()
    header = b"\x93NUMPY\x01\x00\xf6\x00"
    for name, text in {
        "deep": "(" * 200, "huge": "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000, 4)}",
        "negative": "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}",
        "code": "{'descr': __import__('os'), 'fortran_order': False, 'shape': (1, 4)}",
    }.items():  # fmt: skip
        contents[name] = header + text.ljust(0xF5).encode() + b"\n"
    for content in contents.values():
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"rows\.npy: found .*: expected rows of numbers"):
            NpyReader.of(path)
    assert not marker.exists()


def test_what_open_clip_itself_describes_is_accepted(tmp_path: Path) -> None:
    import open_clip

    accepted = 0
    for file in sorted((Path(open_clip.__file__).parent / "model_configs").glob("*.json")):
        model = json.loads(file.read_text())
        (tmp_path / CLIP_CONFIG).write_text(json.dumps({"model_cfg": model}))
        with (tmp_path / "open_clip_model.safetensors").open("wb") as weights:
            weights.truncate(10**10)  # of which nothing is on the disk
        if "hf_model_name" in model["text_cfg"]:
            with pytest.raises(InputFault, match="hf_model_name"):
                check_open_clip_config(tmp_path / CLIP_CONFIG, "clip")
        else:
            check_open_clip_config(tmp_path / CLIP_CONFIG, "clip")
            accepted += 1
    assert accepted > 100


def test_published_t5_models_are_accepted(t5: Path, tmp_path: Path) -> None:
    folder = copied(t5, tmp_path / "t5")
    change_json(
        folder / "tokenizer_config.json", extra_ids=100, name_or_path="google/t5-v1_1-base", sp_model_kwargs={},
        special_tokens_map_file="/home/someone/.cache/special_tokens_map.json", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=["<extra_id_0>"], tokenizer_class="T5Tokenizer", model_max_length=512,
    )  # fmt: skip
    change_json(
        folder / "config.json", architectures=["T5ForConditionalGeneration"], n_positions=512, output_past=True,
        task_specific_params={"summarization": {"prefix": "summarize: "}}, torch_dtype="float32", is_gated_act=True,
        _name_or_path="google/t5-v1_1-base", transformers_version="4.23.1", tie_word_embeddings=False,
    )  # fmt: skip
    check_t5(T5Source(path=folder), where="t5")
