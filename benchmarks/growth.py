"""What is done again where 1 % is added to a folder of 100 shards: ``python -m benchmarks.growth [--rows N]``.

Download and embedding of a folder of generated images, then of the same folder with 1 % more, whose names are spread
among the others, both in this process. Counted are images that were read and decoded, and images that CLIP embedded;
the seconds are those of the wall of both days.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from cluster.mapping import map_in_process
from cluster.training import launch_in_process
from pipeline.config.loading import load_config
from pipeline.plan import make_plan
from pipeline.store import Store
from stages.contract.runner import run_stage
from stages.contract.stage import StageContext, StageFunction
from stages.download_shards.growth import GrowthRecord
from stages.download_shards.stage import run as run_download
from stages.embed_clip.stage import run as run_embed
from stages.formats.embeddings.reader import shard_rows
from stages.storage.artifact import Artifact

SHARDS = 100
RUNS: dict[str, StageFunction] = {"download_shards": run_download, "embed_clip": run_embed}
CLIP = Path(__file__).resolve().parent.parent / "configs" / "assets" / "tiny_clip"


def add_images(folder: Path, names: range, suffix: str = "") -> None:
    """Save small images with structure, each of its own."""
    for number in names:
        coarse = np.random.default_rng([number, len(suffix)]).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:06d}{suffix}.jpg")


def one_day(config: Path, store: Store) -> tuple[Mapping[str, Artifact], list[str], float]:
    """Run both stages; return their artifacts, what the plan said of each, and the seconds."""
    plan = make_plan(load_config(config), store)
    context = StageContext(lambda event: None, map_in_process, launch_in_process)
    made: dict[str, Artifact] = {}
    begun = time.perf_counter()
    for name, stage in plan.stages.items():
        output = store.output(name, stage.fingerprint)
        inputs = {source: made[source] for source in stage.inputs}
        run_stage(RUNS[name], stage.config, inputs=inputs, output=output, context=context, identity=stage.identity)
        made[name] = store.artifact(name, stage.fingerprint)
    return made, [f"{name}: {stage.reason}" for name, stage in plan.stages.items()], time.perf_counter() - begun


def main() -> None:
    """Print what was done again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20, help="images of each shard")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory(prefix="corgi-growth-") as name:
        images, config = Path(name) / "images", Path(name) / "growth.yaml"
        images.mkdir()
        add_images(images, range(SHARDS * rows))
        source = f"source: {{kind: folder, path: {images}}}, rows_per_shard: {rows}, image_size: 64"
        clip = f"clip: {{models: [{{kind: folder, path: {CLIP}}}]}}"
        config.write_text(f"{clip}\ndownload_shards: {{{source}}}\nembed_clip: {{}}\n")
        store = Store(str(Path(name) / "store"))
        _, _, first = one_day(config, store)
        add_images(images, range(0, SHARDS * rows, SHARDS), "b")
        made, reasons, second = one_day(config, store)
        growth, sizes = GrowthRecord.of(made["download_shards"]), shard_rows(made["embed_clip"])
        again = growth.new_entries, sum(list(sizes.values())[growth.reused_shards :])
        total = sum(sizes.values())
        lines = [
            f"{what} again: {n} of {total} images, {n / total:.2%}"
            for what, n in zip(("read", "embedded"), again, strict=True)
        ]
        days = f"first day {first:.1f} s, second day {second:.1f} s, {second / first:.1%}"
        sys.stdout.write("\n".join([*reasons, *lines, days]) + "\n")


if __name__ == "__main__":
    main()
