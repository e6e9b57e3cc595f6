"""Arrays, tensors, and the documents of model folders."""

import json
import shutil
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzz import seeds
from tests.fuzz.formats import mutate_columns, mutate_npy, mutate_safetensors
from tests.fuzz.mutations import mutate_bytes
from tests.fuzz.structures import mutate_files, mutate_json, pack_files, unpack_files
from tests.fuzz.target import Broken, Run, Target
from tests.fuzz.targets.lists import write_tree

ASSETS = Path(__file__).resolve().parents[3] / "configs" / "assets"
WEIGHTS = "open_clip_model.safetensors"
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def _arrays() -> list[bytes]:
    return [
        seeds.npy(ROWS),
        seeds.npy(ROWS.astype(np.float16)),
        seeds.npy(ROWS[:0]),
        seeds.npy(np.asfortranarray(ROWS)),
    ]


def _prepare_array() -> Run:
    from stages.storage.npy_reader import NpyReader

    def run(data: bytes, folder: Path) -> object:
        (folder / "a.npy").write_bytes(data)
        reader = NpyReader.of(folder / "a.npy")
        first = reader.read(0, 100)
        picked = reader.pick(range(min(3, len(reader))))
        if len(first) != min(100, len(reader)) or not np.array_equal(first[:3], picked, equal_nan=True):
            raise Broken(f"{first.shape} and {picked.shape} of {reader.shape}")
        return first.astype(np.float32)

    return run


def _existing() -> list[bytes]:
    import pyarrow as pa

    metadata = pa.table({"key": ["a", "b", "c"], "caption": ["x", None, " "]})
    both = {"img_emb/img_emb_0000.npy": seeds.npy(ROWS), "metadata/metadata_0000.parquet": seeds.to_parquet(metadata)}
    return [pack_files(both), pack_files(both | {"text_emb/text_emb_0000.npy": seeds.npy(ROWS)})]


def _prepare_existing() -> Run:
    from stages.embed_clip.config import ExistingEmbeddings
    from stages.embed_clip.existing_files import list_parts, read_metadata, read_part

    def run(data: bytes, folder: Path) -> object:
        write_tree(folder / "laion", unpack_files(data))
        existing = ExistingEmbeddings(path=str(folder / "laion"))
        return [(read_metadata(existing, part), read_part(existing, part)) for part in list_parts(existing)]

    return run


def _mutate_existing(rng: Random, data: bytes) -> bytes:
    return mutate_files(lambda name: mutate_npy if name.endswith("npy") else mutate_columns)(rng, data)


def _heads() -> list[bytes]:
    layers = {"0.weight": np.ones((2, 4), np.float32), "0.bias": np.zeros(2, np.float32),
              "2.weight": np.ones((1, 2), np.float32), "2.bias": np.zeros(1, np.float32)}  # fmt: skip
    return [seeds.tensors(**layers)]


def _prepare_head() -> Run:
    from stages.filter_samples.config import HeadFilter
    from stages.filter_samples.heads import head_outputs, load_head

    def run(data: bytes, folder: Path) -> object:
        (folder / "h.safetensors").write_bytes(data)
        head = HeadFilter(name="head", path=folder / "h.safetensors", minimum=0.0)
        return head_outputs(head, load_head(head, 4), ROWS)

    return run


def _gaussians() -> list[bytes]:
    return [seeds.tensors(means=ROWS, stds=ROWS + 1, counts=np.ones(3, np.int64))]


def _prepare_gaussians() -> Run:
    from stages.formats.gaussians import gaussians_shape, read_gaussians
    from stages.storage.artifact import Artifact

    def run(data: bytes, folder: Path) -> object:
        (folder / "gaussians.safetensors").write_bytes(data)
        artifact = Artifact(str(folder), "fit_gaussians", "fuzz")
        return gaussians_shape(artifact), read_gaussians(artifact)

    return run


# ---- model folders


def _clips() -> list[bytes]:
    names = ("open_clip_config.json", "tokenizer_config.json", "tokenizer.json")
    return [pack_files({name: (ASSETS / "tiny_clip" / name).read_bytes() for name in names})]


def _prepare_clip() -> Run:
    from stages.encoders.clip import ClipEncoder
    from stages.encoders.config import ClipConfig, FolderClip

    def run(data: bytes, folder: Path) -> object:
        clip = folder / "clip"
        clip.mkdir()
        shutil.copyfile(ASSETS / "tiny_clip" / WEIGHTS, clip / WEIGHTS)
        write_tree(clip, unpack_files(data))
        return ClipEncoder(ClipConfig(models=(FolderClip(kind="folder", path=clip),)), device="cpu").identities

    return run


def _t5s() -> list[bytes]:
    import tempfile

    from tests.factories import save_tiny_t5

    with tempfile.TemporaryDirectory() as name:
        folder = save_tiny_t5(Path(name) / "t5")
        return [pack_files({file.name: file.read_bytes() for file in sorted(folder.iterdir())})]


def _prepare_t5() -> Run:
    from stages.encoders.config import T5Source
    from stages.encoders.t5 import T5Encoder

    def run(data: bytes, folder: Path) -> object:
        write_tree(folder / "t5", unpack_files(data))
        return T5Encoder(T5Source(path=folder / "t5"), max_length=8).encode(["a star"])

    return run


def _language_models() -> list[bytes]:
    import tempfile

    from tests.factories import save_tiny_language_model

    with tempfile.TemporaryDirectory() as name:
        folders = [save_tiny_language_model(Path(name) / kind, kind) for kind in ("bert", "gpt2", "qwen3")]
        return [pack_files({file.name: file.read_bytes() for file in sorted(one.iterdir())}) for one in folders]


def _prepare_language_model() -> Run:
    from stages.encoders.config import LanguageModelSource
    from stages.encoders.language_model import LanguageModelEncoder

    def run(data: bytes, folder: Path) -> object:
        write_tree(folder / "lm", unpack_files(data))
        return LanguageModelEncoder(LanguageModelSource(path=folder / "lm"), max_length=8).encode(["a star"])

    return run


def _captioners() -> list[bytes]:
    import tempfile

    from tests.tiny_captioners import save_tiny_captioner

    with tempfile.TemporaryDirectory() as name:
        folders = [save_tiny_captioner(Path(name) / kind, kind) for kind in ("blip", "git", "vision-encoder-decoder")]
        return [pack_files({file.name: file.read_bytes() for file in sorted(one.iterdir())}) for one in folders]


def _prepare_captioner() -> Run:
    from PIL import Image

    from stages.caption_images.captioner import ImageCaptioner
    from stages.caption_images.config import CaptionImagesConfig

    def run(data: bytes, folder: Path) -> object:
        write_tree(folder / "captioner", unpack_files(data))
        config = CaptionImagesConfig.model_validate({"model": {"path": folder / "captioner"}, "max_new_tokens": 4})
        return ImageCaptioner(config, device="cpu").caption([Image.new("RGB", (20, 30))], ["a"])

    return run


def _vision_transformers() -> list[bytes]:
    import tempfile

    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    with tempfile.TemporaryDirectory() as name:
        Dinov2Model(config).save_pretrained(name)
        (Path(name) / "preprocessor_config.json").write_text('{"crop_size": {"height": 28}, "image_mean": [0, 0, 0]}')
        return [pack_files({file.name: file.read_bytes() for file in sorted(Path(name).iterdir())})]


def _prepare_vision_transformer() -> Run:
    import numpy as np

    from stages.encoders.features.config import TransformerFeatures
    from stages.encoders.features.networks import load_network

    images = np.zeros((1, 28, 28, 3), dtype=np.uint8)

    def run(data: bytes, folder: Path) -> object:
        write_tree(folder / "vit", unpack_files(data))
        features = TransformerFeatures(kind="vision_transformer", path=folder / "vit")
        return load_network(features, "cpu", "evaluate.features")(images, 1)

    return run


def _mutate_model_folder(rng: Random, data: bytes) -> bytes:
    small = {"tokenizer.json", "spiece.model"}

    def by_name(name: str) -> Any:
        if name.endswith(".safetensors"):
            return mutate_safetensors
        return mutate_json if name.endswith(".json") and name not in small else mutate_bytes

    return mutate_files(by_name)(rng, data)


def _our_models(kind: str) -> list[bytes]:
    import tempfile

    from tests.factories import save_tiny_decoder, save_tiny_prior

    save = save_tiny_prior if kind == "prior" else save_tiny_decoder
    with tempfile.TemporaryDirectory() as name:
        save(Path(name), ASSETS / "tiny_clip")
        files = {file.name: file.read_bytes() for file in (Path(name) / kind).iterdir()}
    return [pack_files(files)]


def _prepare_our_model(kind: str) -> Run:
    from stages.inference.loading import load_decoder, load_prior
    from stages.storage.artifact import Artifact

    load = load_prior if kind == "prior" else load_decoder

    def run(data: bytes, folder: Path) -> object:
        write_tree(folder / kind, unpack_files(data))
        load(Artifact(str(folder), f"train_{kind}", "fuzz"))
        return json

    return run


def _indices() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save_index(folder)
        return [pack_files({file.name: file.read_bytes() for file in (folder / "index").iterdir()})]


def _save_index(folder: Path) -> None:
    import torch

    from models.retrieval.model import EmbeddingIndex
    from stages.formats.clips import ClipIdentity, Clips
    from stages.inference.index import LoadedIndex, save_index
    from stages.storage.artifact import Output

    rows = torch.from_numpy(ROWS)
    clip = ClipIdentity(reference="r", digest="d", embed_dim=rows.shape[1], image_size=8)
    save_index(Output(str(folder), "bundle", "fuzz"), LoadedIndex(EmbeddingIndex.of(rows), Clips((clip,), "x")))


def _prepare_index() -> Run:
    import torch

    from stages.inference.index import load_index
    from stages.storage.artifact import Artifact

    def run(data: bytes, folder: Path) -> object:
        write_tree(folder / "index", unpack_files(data))
        loaded = load_index(Artifact(str(folder), "bundle", "fuzz"))
        moved = loaded.index(torch.ones(2, loaded.clips.embed_dim), 1.0)
        if not bool(torch.isfinite(moved).all()):
            raise Broken(f"{moved}")
        return moved.numpy()

    return run


TARGETS = (
    Target("npy", _arrays, _prepare_array, (mutate_npy,)),
    Target("existing_embeddings", _existing, _prepare_existing, (_mutate_existing,)),
    Target("head", _heads, _prepare_head, (mutate_safetensors,)),
    Target("gaussians", _gaussians, _prepare_gaussians, (mutate_safetensors,)),
    Target("index", _indices, _prepare_index, (_mutate_model_folder,)),
    Target("clip_folder", _clips, _prepare_clip, (_mutate_model_folder,), weight=2),
    Target("t5_folder", _t5s, _prepare_t5, (_mutate_model_folder,), weight=2),
    Target("language_model_folder", _language_models, _prepare_language_model, (_mutate_model_folder,), weight=2),
    Target("captioner_folder", _captioners, _prepare_captioner, (_mutate_model_folder,), weight=2),
    Target("vision_folder", _vision_transformers, _prepare_vision_transformer, (_mutate_model_folder,)),
    *(
        Target(kind, partial(_our_models, kind), partial(_prepare_our_model, kind), (_mutate_model_folder,))
        for kind in ("prior", "decoder")
    ),
)
