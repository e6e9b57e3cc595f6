"""Tars and dataset folders."""

import json
import os
from pathlib import Path
from random import Random

from tests.fuzz import seeds
from tests.fuzz.formats import mutate_columns, mutate_tar
from tests.fuzz.mutations import Mutation
from tests.fuzz.structures import mutate_files, mutate_json, pack_files, unpack_files
from tests.fuzz.target import Run, Target
from tests.fuzz.targets.lists import read_source, write_tree


def _tars() -> list[bytes]:
    members = seeds.shard()
    laion = {name: content for name, content in members.items() if not name.endswith(".json")}
    dotted = {f"sub/{name.replace('.', '.seg.', 1)}": content for name, content in members.items()}
    return [seeds.tar(members), seeds.tar(members, format=2), seeds.tar(laion, format=1), seeds.tar(dotted)]


def _prepare_webdataset() -> Run:
    from stages.download_shards.config import DownloadShardsConfig

    def run(data: bytes, folder: Path) -> object:
        (folder / "0.tar").write_bytes(data)
        return read_source(DownloadShardsConfig(source={"kind": "webdataset", "path": str(folder)}))

    return run


def _prepare_shard() -> Run:
    from stages.formats.shards import index_images, read_captions, read_shard

    def run(data: bytes, folder: Path) -> object:
        file = folder / "00000.tar"
        file.write_bytes(data)
        samples = list(read_shard(file))
        return samples, index_images(file), read_captions(file)

    return run


def _datasets() -> list[bytes]:
    table = seeds.dataset()
    state = json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}).encode()
    saved = {
        "data-00000-of-00001.arrow": seeds.to_arrow(table, stream=True),
        "state.json": state,
        "dataset_info.json": b"{}",
    }
    split = {f"train/{name}": content for name, content in saved.items()}
    return [
        pack_files(saved),
        pack_files({"train-00000-of-00001.parquet": seeds.to_parquet(table)}),
        pack_files({"data.arrow": seeds.to_arrow(table, stream=False)}),
        pack_files(split | {"dataset_dict.json": b'{"splits": ["train"]}'}),
    ]


def _prepare_dataset() -> Run:
    from stages.download_shards.config import DownloadShardsConfig

    def run(data: bytes, folder: Path) -> object:
        write_tree(folder, unpack_files(data))
        source = {"kind": "huggingface", "path": folder, "caption_column": "caption"}
        return read_source(DownloadShardsConfig(source=source))

    return run


def _dataset_mutation(name: str) -> Mutation:
    return mutate_json if os.path.splitext(name)[1] == ".json" else mutate_columns


def _mutate_dataset(rng: Random, data: bytes) -> bytes:
    return mutate_files(_dataset_mutation)(rng, data)


TARGETS = (
    Target("webdataset", _tars, _prepare_webdataset, (mutate_tar,), weight=2),
    Target("shard", _tars, _prepare_shard, (mutate_tar,)),
    Target("huggingface", _datasets, _prepare_dataset, (_mutate_dataset,), weight=2),
)
