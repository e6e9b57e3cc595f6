"""embed_clip beside the bare forward pass of its model, and one pass of three CLIPs beside three passes of one.

The models are open_clip's architectures with random weights; the images are JPEG files of 256 pixels, without
captions, as download_shards leaves them; of 1024 for three CLIPs, as the paper's cascade wants them. Ours is the stage,
from reading shards to published embeddings, measured from the first shard's begin to the last one's end, so that
loading models is not counted. The bare forward pass takes images that lie in memory ready for the model, in the same
batches and on the same threads, by a model that was loaded as freshly; our threads that decode are as many again.

What one pass of three saves is reading, decoding and preparing images twice: much where the models are fast (on
GPUs), little where the forward pass takes nearly all the time (large models on CPUs). It is compared with three passes
of ours, and with three of clip-retrieval where an environment with it is named: there the time is that which its own
logger counts for reading, inference and writing, with as many processes that prepare images as we have threads.
"""

import io
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from PIL import Image
from rich.table import Table
from safetensors.torch import save_file

from benchmarks.data.image_server import make_images
from benchmarks.data.options import Options
from benchmarks.data.timing import TimedMap
from cluster.mapping import map_in_process
from cluster.training import launch_in_process
from stages.contract.stage import Allocation, StageContext
from stages.embed_clip import stage as embed_clip
from stages.embed_clip.config import EmbedClipConfig
from stages.encoders.open_clip_import import import_open_clip
from stages.formats.shards import ShardEntry, ShardRecord, write_shard
from stages.storage.artifact import Artifact, Output

BATCH = 32
SHARDS = 2


@dataclass(frozen=True)
class Case:
    """Which architectures embed how many images, of what size."""

    names: tuple[str, ...]
    images: int
    pixels: int


def tables(options: Options) -> Iterator[Table]:
    """Measure one CLIP against its forward pass, and three CLIPs in one pass against three passes."""
    torch.set_num_threads(options.threads)
    images = 64 if options.small else 512
    with tempfile.TemporaryDirectory(prefix="corgi-bench-") as folder:
        yield beside_forward(Path(folder), Case(("ViT-B-32",), images, 256), options)
    with tempfile.TemporaryDirectory(prefix="corgi-bench-") as folder:
        case = Case(("ViT-S-32", "ViT-S-32-alt", "ViT-M-32-alt"), images // 4, 1024)
        yield from three_at_once(Path(folder), case, options)


def beside_forward(folder: Path, case: Case, options: Options) -> Table:
    """Compare the stage with the model alone."""
    models, shards = prepare(folder, case)
    rates: dict[str, list[float]] = {"embed_clip": [], "forward pass": []}
    for number in range(options.pairs):
        rates["embed_clip"].append(case.images / embed(shards, models, folder / f"out-{number}", options.threads))
        rates["forward pass"].append(case.images / ForwardPass(models[0], case.images).seconds())
    return ratio_table(f"embed_clip: {describe(case, options)}", rates, "at least 0.92")


def three_at_once(folder: Path, case: Case, options: Options) -> Iterator[Table]:
    """Compare one pass of all models with a pass of each."""
    models, shards = prepare(folder, case)
    together, apart, theirs = [], [], []
    for number in range(options.pairs):
        out = folder / f"out-{number}"
        together.append(case.images / embed(shards, models, out, options.threads))
        each = [embed(shards, [m], out / str(index), options.threads) for index, m in enumerate(models)]
        apart.append(case.images / sum(each))
        if options.clip_retrieval:
            named = zip(case.names, models, strict=True)
            passes = [embed_by_clip_retrieval(shards, name, m, out / f"their-{name}", options) for name, m in named]
            theirs.append(case.images / sum(passes))
    for title, rates in (("three passes of ours", apart), ("three of clip-retrieval", theirs)):
        if rates:
            sides = {"three in one pass": together, title: rates}
            yield ratio_table(f"embed_clip: {describe(case, options)}", sides, "at least 1.3")


def embed_by_clip_retrieval(shards: Artifact, name: str, model: Path, folder: Path, options: Options) -> float:
    """Run clip-retrieval once, in its own environment, and return the seconds that it counted."""
    task = {
        "input_dataset": [str(path) for path in sorted((Path(shards.uri) / "shards").glob("*.tar"))],
        "input_format": "webdataset",
        "output_folder": str(folder),
        "clip_model": f"open_clip:{name}/{model / 'open_clip_model.safetensors'}",
        "batch_size": BATCH,
        "num_prepro_workers": options.threads,
        "enable_text": False,
        "use_jit": False,
        "output_partition_count": 1,
        "tasks": [0],
    }
    program = "import json, sys; from clip_retrieval.clip_inference.worker import worker; "
    command = [options.clip_retrieval, "-W", "ignore", "-c", f"{program}worker(**json.loads(sys.argv[1]))"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run([*command, json.dumps(task)], env=environment, capture_output=True, text=True, check=False)
    counted = folder / "stats" / "0.json"
    if done.returncode or not counted.exists():
        raise SystemExit(f"benchmarks: clip-retrieval ended with {done.returncode}: {done.stderr[-2000:]}")
    seconds: float = json.loads(counted.read_text())["total_duration"]
    return seconds


def describe(case: Case, options: Options) -> str:
    """Say what was measured, for a title."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{options.threads} threads"
    names = ", ".join(case.names)
    return f"{names}; {case.images} images of {case.pixels} pixels, {where}, {options.pairs} pairs"


def ratio_table(title: str, rates: dict[str, list[float]], target: str) -> Table:
    """Return the medians, and the ratio of the first to the second over the pairs."""
    table = Table(title=title, title_justify="left")
    for heading in ("", *rates, "ratio (range)", "target"):
        table.add_column(heading, justify="left" if not heading else "right")
    ratios = [one / other for one, other in zip(*rates.values(), strict=True)]
    shown = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    table.add_row("images/s", *(f"{statistics.median(found):.1f}" for found in rates.values()), shown, target)
    return table


def prepare(folder: Path, case: Case) -> tuple[list[Path], Artifact]:
    """Write models and shards."""
    return [save_model(folder / name, name) for name in case.names], write_shards(folder / "shards", case)


def save_model(folder: Path, name: str) -> Path:
    """Write a model of random weights in open_clip's own folder format."""
    open_clip = import_open_clip()
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    folder.mkdir()
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    described = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": model.visual.preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    return folder


def write_shards(folder: Path, case: Case) -> Artifact:
    """Write shards as download_shards does, as far as embed_clip reads them."""
    output = Output(str(folder), "download_shards", "bench")
    images = [_resized(content, case.pixels) for content in make_images()]
    for shard in range(SHARDS):
        name, rows = f"{shard:05d}", range(shard, case.images, SHARDS)
        entries = [
            ShardEntry(f"{row:08d}", images[row % len(images)], {"status": "success", "error_message": None})
            for row in rows
        ]
        schema = pa.schema([("status", pa.string()), ("error_message", pa.string())])
        write_shard(output, name, entries, schema=schema, image_suffix="jpg")
        ShardRecord(rows=len(rows), images=len(rows), captioned=0, failures={}).finish(output, name)
    return output


def _resized(content: bytes, pixels: int) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(content)).resize((pixels, pixels)).save(file, "JPEG", quality=95)
    return file.getvalue()


def embed(shards: Artifact, models: Sequence[Path], folder: Path, threads: int) -> float:
    """Run the stage once and return the seconds that its shards took."""
    config = EmbedClipConfig.model_validate(
        {"clip": {"models": [{"kind": "folder", "path": str(path)} for path in models]}, "batch_size": BATCH}
    )
    timed = TimedMap(map_in_process)
    gpus = 1.0 if torch.cuda.is_available() else 0.0
    resources = Allocation(num_workers=1, cpus_per_worker=threads, gpus_per_worker=gpus)
    context = StageContext(lambda event: None, timed, launch_in_process, resources)
    embed_clip.run(config, {"download_shards": shards}, Output(str(folder), "embed_clip", "bench"), context)
    return timed.seconds


class ForwardPass:
    """A model alone, over images that are ready for it."""

    def __init__(self, folder: Path, images: int) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, _ = import_open_clip().create_model_from_pretrained(f"local-dir:{folder}")
        self._model = model.eval().to(device)
        side = model.visual.image_size
        height, width = side if isinstance(side, tuple | list) else (side, side)
        ready = torch.randn(images, 3, height, width)
        self._batches = [batch.to(device) for batch in torch.split(ready, BATCH)]
        self._device = device

    @torch.inference_mode()
    def seconds(self) -> float:
        """Pass all images through once, in the arithmetic that the stage uses there."""
        began = time.perf_counter()
        with torch.autocast(self._device.type, torch.float16, enabled=self._device.type == "cuda"):
            for batch in self._batches:
                self._model.encode_image(batch).float().cpu()
        return time.perf_counter() - began
