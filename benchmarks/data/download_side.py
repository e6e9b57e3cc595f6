"""One download in a process of its own, for :mod:`benchmarks.data.download`; prints its measurements as JSON."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.data.download import Case
from benchmarks.data.timing import TimedMap
from cluster.training import launch_in_process
from stages.contract.stage import Allocation, StageContext
from stages.download_shards import stage as download_shards
from stages.download_shards.config import DownloadShardsConfig
from stages.storage.artifact import Output

IMAGE_SIZE, QUALITY = 256, 95


def download_ours(listed: str, folder: str, case: Case) -> dict[str, float]:
    """Run the stage, on Ray where it has several processes."""
    config = DownloadShardsConfig.model_validate(
        {
            "source": {"kind": "url_list", "path": listed, "caption_column": "caption"},
            "rows_per_shard": case.rows_per_shard,
            "image_size": IMAGE_SIZE,
            "encode_quality": QUALITY,
            "allowed_networks": ["127.0.0.1/32"],
            "threads": case.threads,
            "per_host": case.threads * case.processes,
            "timeout": case.timeout,
            "max_seconds": case.max_seconds,
            "retry_wait": 0.05,
        }
    )
    with TimedMap.on_workers(case.processes) as timed:
        resources = Allocation(num_workers=case.processes)
        context = StageContext(lambda event: None, timed, launch_in_process, resources)
        summary = download_shards.run(config, {}, Output(folder, "download_shards", "bench"), context)
    return {"images": summary.items, "seconds": timed.seconds}


def download_theirs(listed: str, folder: str, case: Case) -> dict[str, float]:
    """Run img2dataset with the same settings; its shards say when they began and ended."""
    import img2dataset

    with _quiet():
        img2dataset.download(
            url_list=listed,
            input_format="parquet",
            url_col="url",
            caption_col="caption",
            output_folder=folder,
            output_format="webdataset",
            processes_count=case.processes,
            thread_count=case.threads,
            number_sample_per_shard=case.rows_per_shard,
            image_size=IMAGE_SIZE,
            resize_mode="center_crop",
            resize_only_if_bigger=True,
            skip_reencode=True,
            encode_quality=QUALITY,
            timeout=case.timeout,
            extract_exif=False,
        )
    stats: list[dict[str, Any]] = [json.loads(file.read_text()) for file in Path(folder).glob("*_stats.json")]
    return {
        "images": sum(shard["successes"] for shard in stats),
        "seconds": max(shard["end_time"] for shard in stats) - min(shard["start_time"] for shard in stats),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep standard output for the measurements."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def main() -> None:
    """Download once and say how many images came, in which time."""
    task = json.loads(sys.argv[1])
    side = {"ours": download_ours, "img2dataset": download_theirs}[task["side"]]
    found = side(task["list"], task["output"], Case(**task["case"]))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
