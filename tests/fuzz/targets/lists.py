"""Lists of addresses, folders of images with captions, metadata files."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

from tests.fuzz import seeds
from tests.fuzz.formats import mutate_columns
from tests.fuzz.mutations import Mutation, mutate_bytes
from tests.fuzz.structures import (
    mutate_csv,
    mutate_files,
    mutate_json,
    mutate_json_lines,
    mutate_tsv,
    pack_files,
    unpack_files,
)
from tests.fuzz.target import Broken, Run, Target

MOST_ROWS = 20_000


def configure(**source: Any) -> Any:
    """Return the section of a source."""
    from stages.download_shards.config import DownloadShardsConfig

    return DownloadShardsConfig(source=source, rows_per_shard=1000, image_size=8, encode_format="png")


def check_row(row: dict[str, Any]) -> None:
    """Raise Broken where a row holds what a shard cannot."""
    captions = [row.get("caption"), *(row.get("captions") or ())]
    for text in (row.get("url"), *captions):
        if text is not None and not isinstance(text, str):
            raise Broken(f"{text!r:.100} is no text")
        if text is not None:
            text.encode()  # what cannot be written ends the stage later
    if any(caption is not None and not caption.strip() for caption in captions):
        raise Broken("a blank caption")
    if any(text is not None and text.startswith("\ufeff") for text in (row.get("url"), *captions)):
        raise Broken("a byte order mark")


def read_source(config: Any) -> int:
    """Read a source whole, as the stage and its workers do; return the number of entries."""
    from stages.contract.errors import ItemFault
    from stages.download_shards.sources.base import Entry
    from stages.download_shards.sources.registry import make_source

    source, number = make_source(config), 0
    source.check()
    with source.parts() as found:
        for part in found.parts:
            entries = source.read(part)
            held = list(entries.each)
            if len(held) != entries.count():
                raise Broken(f"{len(held)} entries, and {entries.count()} were counted")
            for entry in held:
                if isinstance(entry, Entry):
                    check_row(entry.row)
                    if not isinstance(entry.content, bytes | ItemFault):
                        raise Broken(f"the content is {entry.content!r:.100}")
            number += len(held)
    return number


def _prepare_list(suffix: str, caption_column: str | None = "caption") -> Run:
    from stages.download_shards.sources.registry import make_source

    def run(data: bytes, folder: Path) -> object:
        file = folder / f"list.{suffix}"
        file.write_bytes(data)
        source = make_source(configure(kind="url_list", path=str(file), caption_column=caption_column))
        source.check()
        with source.parts() as found:
            tables = [part.rows() for part in found.parts[: MOST_ROWS // 1000]]
        rows = pa.concat_tables(tables).to_pylist()
        for row in rows:
            check_row(row)
        return len(rows)

    return run


def _list_seeds(suffix: str) -> list[bytes]:
    table = seeds.rows()
    flat = [{name: value for name, value in row.items() if name != "tags"} for row in table]
    several = [{**row, "caption": [row["caption"] or "x", "two"]} for row in table]
    match suffix:
        case "parquet":
            categories = pa.table({"url": ["a", "b"], "caption": pa.array(["x", "x"]).dictionary_encode()})
            return [seeds.to_parquet(table), seeds.to_parquet(several), seeds.to_parquet(flat, compression="zstd"),
                    seeds.to_parquet(categories), seeds.to_parquet(flat, row_group_size=2)]  # fmt: skip
        case "csv":
            return [seeds.to_csv(flat), b"\xef\xbb\xbf" + seeds.to_csv(flat)]
        case "tsv":
            return [seeds.to_csv(flat, "\t")]
        case "json":
            import json

            columns = {name: [row[name] for row in flat] for name in flat[0]}
            return [json.dumps(rows, ensure_ascii=False).encode() for rows in (table, several, columns)]
        case "jsonl":
            return [seeds.to_json_lines(table), seeds.to_json_lines(several), seeds.to_json_lines(flat[:1] + table)]
        case _:
            return ["\n".join(row["url"] for row in table).encode(), b"\xef\xbb\xbfhttp://127.0.0.1/a\r\n\r\n"]


_LIST_MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    "parquet": (mutate_columns,), "csv": (mutate_csv,), "tsv": (mutate_tsv,), "json": (mutate_json,),
    "jsonl": (mutate_json_lines,), "txt": (mutate_bytes,),
}  # fmt: skip


def _list_target(suffix: str) -> Target:
    column = None if suffix == "txt" else "caption"

    def valid() -> list[bytes]:
        return _list_seeds(suffix)

    def prepare() -> Run:
        return _prepare_list(suffix, column)

    return Target(f"list_{suffix}", valid, prepare, _LIST_MUTATIONS[suffix])


# ---- folders


def write_tree(folder: Path, files: dict[str, bytes]) -> None:
    """Write files by names that may be anything; what the system refuses as a name is left out."""
    for name, content in files.items():
        path = os.path.normpath(os.path.join(folder, name.lstrip("/").replace("..", "__").replace("\0", "0")))
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
        except (OSError, ValueError):
            continue


def _prepare_folder() -> Run:
    from stages.download_shards.sources import registry  # noqa: F401  imported before memory is limited

    def run(data: bytes, folder: Path) -> object:
        write_tree(folder / "images", unpack_files(data))
        return read_source(configure(kind="folder", path=str(folder / "images")))

    return run


def _folders() -> list[bytes]:
    small = seeds.image(size=(4, 4))
    images = {"a.png": small, "b/c.png": small, "b/d.png": small}
    table = [{"file_name": name, "caption": f"caption {n}", "n": n} for n, name in enumerate(images)]
    beside = {
        "a.txt": b"a caption",
        "b/c.json": b'{"captions": ["one", "two"], "n": 1}',
        "b/d.json": b'{"caption": "x"}',
    }
    return [
        pack_files(images | beside),
        pack_files(images | {"metadata.csv": seeds.to_csv(table)}),
        pack_files(images | {"metadata.jsonl": seeds.to_json_lines(table)}),
        pack_files(images | {"metadata.jsonl": seeds.to_json_lines(table * 2)}),
    ]


def _folder_mutation(name: str) -> Mutation:
    suffix = name.rpartition(".")[2].lower()
    table: dict[str, Mutation] = {"csv": mutate_csv, "jsonl": mutate_json_lines, "json": mutate_json, "tsv": mutate_tsv}
    return table.get(suffix, mutate_bytes)


# ---- whole stages


def _prepare_stage(kind: str, write: Callable[[Path, bytes], None]) -> Run:
    """Run the stage itself on the input, and compare its counts with its shards."""
    from stages.download_shards.stage import run as download
    from stages.storage.artifact import Output
    from tests.factories import make_context

    def run(data: bytes, folder: Path) -> object:
        write(folder / "source", data)
        config = configure(kind=kind, path=str(folder / "source")).model_copy(update={"min_yield": 0.0})
        output = Output(str(folder / "out"), "download_shards", "fuzz")
        summary = download(config, {}, output, make_context())
        failed = sum(number for name, number in summary.counts.items() if name.startswith("failed_"))
        if summary.counts["rows"] != summary.counts["images"] + failed:
            raise Broken(f"the counts do not add up: {summary.counts}")
        captioned = sum(bool(sample.captions) for sample in _samples(folder / "out"))
        if captioned != summary.counts["captioned"]:
            raise Broken(f"{captioned} samples have captions, and the counts are {summary.counts}")
        return summary

    return run


def _samples(folder: Path) -> Iterator[Any]:
    from stages.formats.shards import read_shard

    for file in sorted((folder / "shards").glob("*.tar")):
        yield from read_shard(file)


def _write_folder(path: Path, data: bytes) -> None:
    path.mkdir()
    write_tree(path, unpack_files(data))


def _write_tar(path: Path, data: bytes) -> None:
    path.mkdir()
    (path / "00000.tar").write_bytes(data)


def _mutate_folder(rng: Random, data: bytes) -> bytes:
    return mutate_files(_folder_mutation, names=True)(rng, data)


def _tars() -> list[bytes]:
    return [seeds.tar(seeds.shard())]


def _stage_of_folders() -> Run:
    return _prepare_stage("folder", _write_folder)


def _stage_of_tars() -> Run:
    return _prepare_stage("webdataset", _write_tar)


def _mutate_tars(rng: Random, data: bytes) -> bytes:
    from tests.fuzz.formats import mutate_tar

    return mutate_tar(rng, data)


TARGETS = (
    *map(_list_target, _LIST_MUTATIONS),
    Target("folder", _folders, _prepare_folder, (_mutate_folder,), weight=2),
    Target("stage_folder", _folders, _stage_of_folders, (_mutate_folder,), weight=2),
    Target("stage_webdataset", _tars, _stage_of_tars, (_mutate_tars,), weight=2),
)
