"""Download one shard with img2dataset's own parts and write it in a form that is the same bytes every time.

img2dataset hands samples over in the order in which servers answer, and notes the time. Here its writer is replaced,
through the place it has for one, by a collector; when all samples are in, they are written in the order of their keys.
"""

import collections
import io
import json
import math
import os
import sys
import tarfile
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.artifacts import Output
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.failures import cause_of

Record = dict[str, Any]

_LOST = "lost by img2dataset: see the worker's log"
_MEASURED = ("width", "height", "original_width", "original_height")
_ROBOT_RULES = ("noai", "noimageai", "noindex", "noimageindex")


@dataclass(frozen=True)
class ShardTask:
    """One shard's part of the list."""

    index: int
    name: str
    """The shard's name: its index with leading zeros."""
    rows: bytes
    """Columns (caption,) url as an Arrow IPC file."""
    base_url: str
    """Stands before each address to fetch it, and is not recorded."""


@dataclass(frozen=True)
class Sample:
    """What img2dataset says of one entry of the list."""

    key: str
    image: bytes | None
    meta: dict[str, Any]


class SampleCollector:
    """Stands where img2dataset expects its writer class: keeps the samples of one shard in memory."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def __call__(self, *shard: Any) -> "SampleCollector":
        """Begin a shard."""
        self.samples = []
        return self

    def write(self, img_str: bytes | None, key: str, caption: str | None, meta: dict[str, Any]) -> None:
        """Take one sample; the caption is in ``meta`` as well."""
        self.samples.append(Sample(key, img_str, meta))

    def close(self) -> None:
        """End the shard."""


def make_shard_worker(config: DownloadShardsConfig, output: Output) -> Callable[[ShardTask], tuple[str, Record]]:
    """Return the function that downloads one shard, publishes it and returns its name and record."""

    def download(task: ShardTask) -> tuple[str, Record]:
        samples = _download(task, config)
        record = _publish(task, samples, config, output)
        output.finish_unit(task.name, record)
        return task.name, record

    return download


def _download(task: ShardTask, config: DownloadShardsConfig) -> list[Sample]:
    """Fetch and resize all rows; the samples come sorted by key, one for each row."""
    rows = pa.ipc.open_file(task.rows).read_all()
    fetched = pa.array([None if url is None else task.base_url + url for url in rows["url"].to_pylist()], pa.string())
    collector = SampleCollector()
    if task.base_url:
        _reach_loopback_directly()
    with tempfile.TemporaryDirectory(prefix="corgi-download-") as folder:
        listing = Path(folder) / "rows.feather"
        table = rows.set_column(rows.column_names.index("url"), "url", fetched)
        with pa.OSFile(str(listing), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        downloader = _make_downloader(collector, rows.column_names, config, folder=folder, digits=len(task.name))
        downloader.download_shard((task.index, str(listing)))
    found = {sample.key: sample for sample in collector.samples}
    keys = _keys(task, rows.num_rows, config)
    return [
        _restore(found.get(key) or _lost(key, row), url=row["url"])
        for key, row in zip(keys, rows.to_pylist(), strict=True)
    ]


def _reach_loopback_directly() -> None:
    """Keep urllib from asking a proxy for 127.0.0.1."""
    exempt = [host for host in os.environ.get("no_proxy", "").split(",") if host]
    if "127.0.0.1" not in exempt:
        os.environ["no_proxy"] = ",".join([*exempt, "127.0.0.1"])


def _make_downloader(
    collector: SampleCollector, columns: list[str], config: DownloadShardsConfig, *, folder: str, digits: int
) -> Any:
    downloader_module, resizer_module = _import_img2dataset()
    resizer = resizer_module.Resizer(
        image_size=config.image_size,
        resize_mode=config.resize_mode,
        resize_only_if_bigger=config.resize_only_if_bigger,
        encode_quality=config.quality,
        encode_format=config.encode_format,
        skip_reencode=config.skip_reencode,
        min_image_size=config.min_image_size,
    )
    return downloader_module.Downloader(
        sample_writer_class=collector,
        resizer=resizer,
        thread_count=config.threads,
        save_caption="caption" in columns,
        extract_exif=False,
        output_folder=folder,
        column_list=columns,
        timeout=config.timeout,
        number_sample_per_shard=config.rows_per_shard,
        oom_shard_count=digits,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format=config.encode_format,
        retries=config.retries,
        user_agent_token=None,
        disallowed_header_directives=list(_ROBOT_RULES),
    )


def _import_img2dataset() -> tuple[Any, Any]:
    """Import img2dataset's downloader and resizer without its package file.

    The package file imports the command line and with it torch, ray, pandas and fire: 8.6 s instead of 2.2 s, in every
    worker. An empty module that only knows the folder takes its place for the moment.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the package registry
    spec = find_spec("img2dataset")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("download_shards needs img2dataset: pip install img2dataset")
    stand_in = types.ModuleType("img2dataset")
    stand_in.__path__ = list(spec.submodule_search_locations)
    placed = sys.modules.setdefault("img2dataset", stand_in)
    try:
        from img2dataset import downloader, resizer
    finally:
        if placed is stand_in:
            del sys.modules["img2dataset"]  # a later `import img2dataset` gets the whole package
    return downloader, resizer


def _keys(task: ShardTask, num_rows: int, config: DownloadShardsConfig) -> list[str]:
    """Return img2dataset's keys: the shard's digits, then the row's."""
    digits = math.ceil(math.log10(config.rows_per_shard))
    return [f"{task.index * 10**digits + row:0{len(task.name) + digits}d}" for row in range(num_rows)]


def _lost(key: str, row: dict[str, Any]) -> Sample:
    """Stand in for a row that img2dataset dropped because of an error of its own."""
    unknown = {"width": None, "height": None, "original_width": None, "original_height": None, "sha256": None}
    return Sample(key, None, {**row, "key": key, "status": "failed_to_download", "error_message": _LOST, **unknown})


def _restore(sample: Sample, *, url: str | None) -> Sample:
    """Put the address as it stands in the list in place of the one that was fetched."""
    return Sample(sample.key, sample.image, {**sample.meta, "url": url})


def _publish(task: ShardTask, samples: list[Sample], config: DownloadShardsConfig, output: Output) -> Record:
    with output.writing(f"shards/{task.name}.tar") as path:
        _write_tar(path, samples, config.encode_format)
    with output.writing(f"shards/{task.name}.parquet") as path:
        pq.write_table(pa.Table.from_pylist([sample.meta for sample in samples], schema=_schema(samples)), path)
    output.write_json(f"shards/{task.name}_stats.json", _stats(samples))
    failed = [sample.meta for sample in samples if sample.image is None]
    causes = collections.Counter(cause_of(meta["status"], meta["error_message"] or "") for meta in failed)
    images = [sample for sample in samples if sample.image is not None]
    return {
        "rows": len(samples),
        "images": len(images),
        "captioned": sum(sample.meta.get("caption") is not None for sample in images),
        "failures": dict(sorted(causes.items())),
    }


def _schema(samples: list[Sample]) -> pa.Schema:
    return pa.schema([(name, pa.int32() if name in _MEASURED else pa.string()) for name in samples[0].meta])


def _stats(samples: list[Sample]) -> Record:
    """Count as img2dataset does, without its times, so that the bytes are the same every time."""
    status = collections.Counter(sample.meta["status"] for sample in samples)
    messages = collections.Counter(sample.meta["error_message"] or "success" for sample in samples)
    return {
        "count": len(samples),
        "successes": status["success"],
        "failed_to_download": status["failed_to_download"],
        "failed_to_resize": status["failed_to_resize"],
        "status_dict": dict(messages),
    }


def _write_tar(path: Path, samples: list[Sample], image_suffix: str) -> None:
    """Write the webdataset: key.<image>, key.txt where there is a caption, key.json; sorted, owner and time zero."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            if sample.image is None:
                continue
            members = {"json": json.dumps(sample.meta, indent=4).encode(), image_suffix: sample.image}
            if sample.meta.get("caption") is not None:
                members["txt"] = sample.meta["caption"].encode()
            for suffix, content in sorted(members.items()):
                info = tarfile.TarInfo(f"{sample.key}.{suffix}")
                info.size, info.mode = len(content), 0o444
                tar.addfile(info, io.BytesIO(content))
