"""What serving costs: ``python -m benchmarks.serve [RUN|DIR] [--images 1600] [--replicas N]``.

In turn, round by round: the bare loop (the model in a process of its own, batch after batch), and ``corgi serve`` under
the requests of many clients at once, each of which asks again as soon as it has its image. Without a model, one of
random weights is made, whose decoder has 128 and 160 channels. By default a process of the model runs on each core.
Exit code 1 where a request was lost, or where the median of the rounds serves less than 0.9 of what the bare loop
generates.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import psutil

from cluster.training import free_port

LEAST = 0.9  # of the bare loop's rate
ROOT = Path(__file__).resolve().parent.parent
LOOP = """
import os, sys, time, torch
from pipeline.generation.models import open_system
from pipeline.options import default_store
from pipeline.store import Store
source, images, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(os.cpu_count() or 1)
system, _ = open_system(Store(default_store()), source, batch_size=size)
prompts, seeds = [f"number {n}" for n in range(size)], list(range(size))
system.generate(prompts, seeds)
begun = time.perf_counter()
for first in range(0, images, size):
    system.generate(prompts, [first + seed for seed in seeds])
print(images / (time.perf_counter() - begun))
"""


def make_model(folder: Path) -> Path:
    """Write an exported folder with a small decoder, the prior of configs/quickstart.yaml and random weights."""
    import torch

    from models.decoders.pixel_diffusion.spec import PixelDiffusionSpec, PixelUNet
    from models.priors.diffusion.spec import GaussianPriorSpec
    from pipeline.config.loading import load_config
    from pipeline.export.bundle import write_bundle
    from stages.encoders.clip import ClipEncoder
    from stages.encoders.config import ClipConfig, FolderClip
    from stages.formats.model_folders import save_model
    from stages.inference.loading import TrainedModels
    from stages.storage.artifact import Output
    from stages.train_prior.config import TrainedPriorConfig

    config = load_config(ROOT / "configs" / "quickstart.yaml")
    assert isinstance(config.train_prior, TrainedPriorConfig)
    assert config.generate is not None
    clips = ClipConfig(models=(FolderClip(kind="folder", path=ROOT / "configs" / "assets" / "tiny_clip"),))
    clip = ClipEncoder(clips)
    network = PixelUNet(unshuffle=8, channels=(128, 160), layout_channels=16)
    decoder = PixelDiffusionSpec(embed_dim=clip.embed_dim, resolution=64, network=network)
    prior = GaussianPriorSpec(embed_dim=clip.embed_dim, network=config.train_prior.network.spec({}))
    identity = {"clip": clip.identities.to_json(), "text_encoders": {}}
    outputs = {name: Output(str(folder / name), f"train_{name}", "random") for name in ("prior", "decoder")}
    torch.manual_seed(0)
    save_model(outputs["prior"], "prior", prior.build(), {"model": prior.to_dict()} | identity)
    save_model(outputs["decoder"], "decoder", decoder.build(), {"model": decoder.to_dict()} | identity)
    models = TrainedModels(clips, outputs["prior"], outputs["decoder"])
    write_bundle(folder / "model", models, config.generate.sampling, run="random")
    return folder / "model"


def bare_rate(source: str, images: int, size: int) -> float:
    """Return images per second of the loop alone."""
    command = [sys.executable, "-c", LOOP, source, str(images), str(size)]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout)


class Server:
    """``corgi serve`` as a process."""

    def __init__(self, source: str, size: int, replicas: int) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "pipeline", "serve", source, "--port", str(self.port)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [*command, "--batch-size", str(size), "--replicas", str(replicas)],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for line in self.process.stderr or ():
            if "ready at" in line:
                return
        raise SystemExit("corgi serve did not start")

    def memory(self) -> float:
        """Return the MB that its processes hold for themselves."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return float(sum(one.memory_full_info().uss for one in found)) / 1e6

    def end(self) -> None:
        """End it, and wait."""
        self.process.terminate()
        self.process.communicate()


async def served_rate(port: int, images: int, clients: int) -> tuple[float, Counter[int]]:
    """Return images per second, and how many replies had which status."""
    seeds, statuses = iter(range(images)), Counter[int]()

    async def client(session: aiohttp.ClientSession) -> None:
        for seed in seeds:
            async with session.post("/generate", json={"prompt": f"number {seed % 8}", "seed": seed}) as reply:
                await reply.read()
                statuses[reply.status] += 1

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as session:
        begun = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        return images / (time.perf_counter() - begun), statuses


def main() -> None:
    """Measure in turn, and print every round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", help="a run or an exported folder")
    cores = os.cpu_count() or 1
    for name, usual in (("images", 1600), ("clients", 200), ("rounds", 3), ("batch-size", 8), ("replicas", cores)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    options = parser.parse_args()
    lost, fractions = 0, []
    with tempfile.TemporaryDirectory() as folder:
        source = options.source or str(make_model(Path(folder)))
        for number in range(options.rounds):
            bare = bare_rate(source, options.images, options.batch_size)
            server = Server(source, options.batch_size, options.replicas)
            try:
                asyncio.run(served_rate(server.port, options.clients, options.clients))
                before = server.memory()
                rate, statuses = asyncio.run(served_rate(server.port, options.images, options.clients))
                after = server.memory()
            finally:
                server.end()
            lost += options.images - statuses[200]
            fractions.append(rate / bare)
            print(  # noqa: T201
                f"round {number + 1}: bare {bare:.1f} images/s, served {rate:.1f} ({rate / bare:.2f} of it); "
                f"{dict(statuses)}; memory {before:.0f} MB, then {after:.0f} MB; load {os.getloadavg()[0]:.1f}"
            )
    sys.exit(verdict(lost, fractions))


def verdict(lost: int, fractions: Sequence[float]) -> str | None:
    """Return why the exit code is 1; None: nothing was lost, and serving is about as fast as the bare loop."""
    served = statistics.median(fractions)
    if lost:
        return f"{lost} requests were lost: expected none"
    return None if served >= LEAST else f"served {served:.2f} of what the bare loop generates: expected {LEAST} or more"


if __name__ == "__main__":
    main()
