"""Generation and evaluation at scale: ``python -m benchmarks.evaluate [--images 240 3000 30000] [--workers 1 2]``.

Images of 32 px by random weights of the smallest size, on CPUs, without a network; each measurement in a process of its
own. First the peak of memory of generate and evaluate in one process, at each number of images: it should not grow with
them. Then images per second of both with Ray, at the smallest number, by so many workers of one CPU each, with the peak
of the stage's process and the sum of those of its workers (each of them includes libraries that it shares).
"""

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from cluster.mapping import Mapper

ROOT = Path(__file__).resolve().parent.parent


def make_world(folder: Path) -> None:
    """Write CLIP, prior and decoder with random weights."""
    from tests.factories import save_tiny_clip, save_tiny_decoder, save_tiny_prior

    clip = save_tiny_clip(folder / "clip")
    save_tiny_prior(folder / "prior", clip)
    save_tiny_decoder(folder / "decoder", clip)


def measure(folder: Path, images: int, workers: int) -> dict[str, float]:
    """Generate and evaluate; return seconds of each and the peak of this process's memory in MB."""
    from cluster.mapping import map_in_process
    from cluster.pool import map_on_ray
    from cluster.session import session

    if workers == 0:
        return _measure(folder, images, 1, map_in_process)
    with session(None, workers), tempfile.TemporaryDirectory(prefix="corgi-peaks-") as peaks:
        found = _measure(folder, images, workers, functools.partial(_map_and_note_peaks, map_on_ray, Path(peaks)))
        return found | {"workers": sum(_largest_together(Path(peaks)))}


def _map_and_note_peaks(mapper: "Mapper", peaks: Path, make_worker: Any, items: Any, resources: Any) -> Iterator[Any]:
    """Map, and let each worker keep in a file of its own how much memory its process has held at most."""
    called = Path(tempfile.mkdtemp(dir=peaks))
    return mapper(functools.partial(_make_noting_worker, make_worker, called), items, resources)


def _make_noting_worker(make_worker: Any, called: Path) -> Any:
    work = make_worker()

    def work_and_note(item: Any) -> Any:
        done = work(item)
        (called / str(os.getpid())).write_text(str(_peak()))
        return done

    return work_and_note


def _largest_together(peaks: Path) -> list[float]:
    """Return the peaks of the workers of that map whose workers together held most."""
    maps = [[float(file.read_text()) for file in called.iterdir()] for called in peaks.iterdir()]
    return max(maps, key=sum)


def _peak() -> float:
    """Return the most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _measure(folder: Path, images: int, workers: int, mapper: Any) -> dict[str, float]:
    import torch

    from stages.contract.stage import Allocation
    from stages.encoders.config import ClipConfig, FolderClip
    from stages.encoders.features.config import ClipFeatures
    from stages.evaluate.config import EvaluateConfig
    from stages.evaluate.stage import run as run_evaluate
    from stages.generate.config import GenerateConfig
    from stages.generate.stage import run as run_generate
    from stages.storage.artifact import Artifact, Output
    from tests.factories import make_context

    torch.set_num_threads(1)
    context = replace(make_context(), map_shards=mapper, resources=Allocation(num_workers=workers))
    clip = ClipConfig(models=(FolderClip(kind="folder", path=folder / "clip"),))
    solvers = {"prior": {"num_steps": 1}, "decoder": {"num_steps": 1}}
    prompts = {"kind": "scenes", "num": images}
    generate = GenerateConfig.model_validate({"clip": clip, "prompts": prompts, "sets": ["prior"], **solvers})
    inputs = {f"train_{name}": Artifact(str(folder / name), f"train_{name}", "tiny") for name in ("prior", "decoder")}
    seconds = []
    with tempfile.TemporaryDirectory(prefix="corgi-evaluate-") as out:
        generated = Output(f"{out}/generate", "generate", "g")
        evaluated = Output(f"{out}/evaluate", "evaluate", "e")
        steps: tuple[Callable[[], object], ...] = (
            lambda: run_generate(generate, inputs, generated, context),
            lambda: run_evaluate(
                EvaluateConfig(clip=clip, features=ClipFeatures(kind="clip")),
                {"generate": generated},
                evaluated,
                context,
            ),
        )
        for work in steps:
            begun = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - begun)
    return {"generate": images / seconds[0], "evaluate": images / seconds[1], "peak": _peak()}


def _in_child(folder: Path, images: int, workers: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.evaluate", "--child", str(folder), str(images), str(workers)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[240, 3000, 30_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        folder, images, workers = options.child
        sys.stdout.write(json.dumps(measure(Path(folder), int(images), int(workers))) + "\n")
        return
    memory, rates = Table(title="one process"), Table(title=f"{min(options.images):,} images, Ray")
    for heading in ("images", "peak MB", "generate images/s", "evaluate images/s"):
        memory.add_column(heading, justify="right")
    for heading in ("workers", "peak MB", "peaks of workers, MB", "generate images/s", "evaluate images/s"):
        rates.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory(prefix="corgi-world-") as folder:
        make_world(Path(folder))
        for images in options.images:
            one = _in_child(Path(folder), images, 0)
            memory.add_row(f"{images:,}", *(f"{one[name]:.0f}" for name in ("peak", "generate", "evaluate")))
        for workers in options.workers:
            one = _in_child(Path(folder), min(options.images), workers)
            rates.add_row(str(workers), *(f"{one[name]:.0f}" for name in ("peak", "workers", "generate", "evaluate")))
    Console().print(memory)
    Console().print(rates)


if __name__ == "__main__":
    main()
