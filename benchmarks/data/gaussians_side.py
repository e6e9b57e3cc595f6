"""One fit in a process of its own, for :mod:`benchmarks.data.gaussians`; prints its measurements as JSON."""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.data.gaussians import Case, write_shards
from cluster.mapping import map_in_process
from cluster.training import launch_in_process
from models.gaussians.kmeans import KMeansState, Pass
from stages.contract.stage import Allocation, StageContext
from stages.fit_gaussians import stage as fit_gaussians
from stages.fit_gaussians.config import FitGaussiansConfig
from stages.fit_gaussians.passes import give_back_freed_memory
from stages.formats.embeddings.reader import image_row_blocks, load_image_rows, shard_rows
from stages.formats.gaussians import read_gaussians
from stages.storage.artifact import Artifact, Output

Rows = np.ndarray[Any, np.dtype[np.float32]]


def fit_ours(embeddings: Artifact, case: Case, threads: int) -> Callable[[], Rows]:
    """Prepare the stage, in this process."""
    output = Output(str(Path(embeddings.uri) / "fit"), "fit_gaussians", "bench")
    shutil.rmtree(output.uri, ignore_errors=True)
    config = FitGaussiansConfig(num_gaussians=case.num_gaussians, max_iterations=case.iterations, tolerance=0)
    resources = Allocation(num_workers=1, cpus_per_worker=threads)
    context = StageContext(lambda event: None, map_in_process, launch_in_process, resources)

    def fit() -> Rows:
        fit_gaussians.run(config, {"embed_clip": embeddings}, output, context)
        return read_gaussians(output).means

    return fit


def fit_faiss(embeddings: Artifact, case: Case, threads: int) -> Callable[[], Rows]:
    """Prepare faiss, with all data in memory."""
    try:
        import faiss
    except ImportError:
        sys.exit("benchmarks.data: faiss is not installed; run `make setup` first")
    faiss.omp_set_num_threads(threads)
    data = np.concatenate([load_image_rows(embeddings, shard) for shard in shard_rows(embeddings)])
    kmeans = faiss.Kmeans(
        case.width, case.num_gaussians, niter=case.iterations, seed=0, max_points_per_centroid=case.rows
    )

    def fit() -> Rows:
        kmeans.train(data)
        assert kmeans.centroids is not None
        centroids: Rows = kmeans.centroids
        return centroids

    return fit


def inertia(embeddings: Artifact, means: Rows) -> float:
    """Return the sum of squared distances of all embeddings to the nearest of these means."""
    rows = shard_rows(embeddings)
    one_pass = Pass(KMeansState(torch.from_numpy(means), torch.ones(means.shape[1])), sum(rows.values()))
    for shard in rows:
        for block in image_row_blocks(embeddings, shard, 2048):
            one_pass.add(torch.from_numpy(block.load()))
    return one_pass.total.inertia(torch.from_numpy(means))


def memory_mb(field: str) -> float:
    """Return a figure of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    """Fit once and say how long it took, how much memory more than before, and how good the means are."""
    task = json.loads(sys.argv[1])
    case, threads = Case(**task["case"]), int(task["threads"])
    torch.set_num_threads(threads)
    embeddings = Artifact(task["folder"], "embed_clip", "bench")
    prepare = {"ours": fit_ours, "faiss": fit_faiss}[task["side"]]
    with tempfile.TemporaryDirectory() as folder:
        small = Case(2_000, case.width, 128, 2)
        write_shards(Path(folder), small)
        prepare(Artifact(folder, "embed_clip", "bench"), small, threads)()  # threads, and the libraries' own memory
    fit = prepare(embeddings, case, threads)
    give_back_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, began, used = memory_mb("VmRSS"), time.perf_counter(), time.process_time()
    means = fit()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - used
    peak = memory_mb("VmHWM") - before
    found = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak, "inertia": inertia(embeddings, means)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
