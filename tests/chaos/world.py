"""The tiny experiment that is broken: images, a CLIP of a few thousand weights, and one undisturbed run of it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import yaml
from PIL import Image

from tests.chaos.run import Run
from tests.chaos.stores import FolderView

IMAGES, IMAGES_PER_SHARD, SIDE = 96, 4, 32
STEPS, CHECKPOINT_INTERVAL = 200, 10
ISOLATED = "CORGI_CHAOS_APART"
STAGES = ("download_shards", "embed_clip", "fit_gaussians", "train_prior", "train_decoder")
_STARTS = 3  # of the undisturbed run: Ray does not start on a machine that is too busy
_SIGNS = {"heartbeat_timeout": 4.0}  # seconds: a worker that is stopped is replaced soon
_TRAINING = {
    "num_steps": STEPS, "batch_size": 8, "warmup_steps": 2, "checkpoint_interval": CHECKPOINT_INTERVAL,
    "log_interval": 1, "precision": "float32",
}  # fmt: skip
EXPERIMENT = {
    "name": "chaos",
    "captions": {"fraction": 0.5},
    "cluster": {"num_cpus": 3},
    "download_shards": {
        "rows_per_shard": IMAGES_PER_SHARD, "image_size": SIDE, "encode_format": "png", "resources": _SIGNS,
    },
    "embed_clip": {"resources": _SIGNS},
    "fit_gaussians": {"num_gaussians": 3, "resources": _SIGNS},
    "train_prior": {
        "kind": "shifted", "network": {"width": 16, "num_layers": 1, "num_heads": 2},
        "validation": {"num_steps": [1]}, "training": _TRAINING,
    },
    "train_decoder": {
        "kind": "pixel_diffusion", "resolution": SIDE, "samples": {"num_images": 4, "num_steps": 2},
        "network": {"unshuffle": 8, "channels": [32, 32], "layout_channels": 0, "token_dim": 16, "num_tokens": 2},
        "training": _TRAINING,
    },
    "tracking": {"register_model": False},
}  # fmt: skip


@dataclass
class World:
    """A folder with the experiment, the undisturbed store, and scratch space for trials."""

    folder: Path
    isolated: bool
    """Whether the suite has mounts, and so a /dev/shm, of its own."""
    scratch: Path
    """Where a trial keeps its store, home, temporary files and log."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What an undisturbed run takes: of the data, and of train_prior."""

    @property
    def config(self) -> Path:
        return self.folder / "chaos.yaml"

    @property
    def reference(self) -> FolderView:
        return FolderView(self.folder / "reference")

    @property
    def temporary(self) -> Path:
        """Where runs put temporary files; its path is short, as Ray's sockets lie below it."""
        return self.scratch / "t"

    @property
    def log(self) -> Path:
        return self.scratch / "log"

    @contextlib.contextmanager
    def apart(self) -> Iterator["World"]:
        """Yield the same world with scratch space of its own."""
        scratch = self.folder / uuid.uuid4().hex[:4]
        for name in ("t", "home"):
            (scratch / name).mkdir(parents=True)
        try:
            yield replace(self, scratch=scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "CORGI_"))}
        own = {"PYTHONPATH": os.getcwd(), "TMPDIR": str(self.temporary), "HOME": str(self.scratch / "home")}
        return kept | own | {"OMP_NUM_THREADS": "1", "COLUMNS": "2000"} | dict(more)

    def words(self, uri: str, stages: Sequence[str]) -> list[str]:
        """Return the words of a run over a store that ends with the last of these stages."""
        after = STAGES[STAGES.index(stages[-1]) + 1 :]
        other = [name for name in STAGES if name.startswith("train_") and name not in stages]
        left_out = [f"{name}=null" for name in STAGES if name in after or name in other]
        return [str(self.config), f"store={uri}", *left_out]

    def start(self, uri: str, stages: Sequence[str], *, words: Sequence[str] = (), environment: Mapping[str, str] = {},
              within: Sequence[str] = (),) -> Run:  # fmt: skip
        """Start a run."""
        return Run(
            [*self.words(uri, stages), *words],
            environment=self.environment(environment), within=within, log=self.log,
        )  # fmt: skip

    def verify(self, address: str) -> int:
        """Set what is damaged of an artifact aside; return the exit code."""
        command = [sys.executable, "-m", "pipeline", "verify", address, "--set-aside"]
        return subprocess.run(command, env=self.environment({}), capture_output=True, check=False).returncode

    @contextlib.contextmanager
    def store(self, *, without: Sequence[str]) -> Iterator[FolderView]:
        """Yield a store that holds what comes before these stages."""
        folder = self.scratch / "store"
        first = STAGES.index(without[0])
        folder.mkdir()
        for name in STAGES[:first]:
            shutil.copytree(self.reference.folder / "artifacts" / name, folder / "artifacts" / name)
        shutil.copy(self.reference.folder / "store.json", folder)
        shutil.copy(self.folder / "mlflow.db", folder)  # to make one takes longer than the rest of a run's start
        try:
            yield FolderView(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def make_world(*, training: bool) -> Iterator[World]:
    """Make the experiment and run it undisturbed."""
    folder = Path(tempfile.mkdtemp(prefix="cc-", dir="/tmp"))
    _end_whole_on_sigterm(folder)
    world = World(folder, isolated=ISOLATED in os.environ, scratch=folder)
    try:
        for name in ("t", "home"):
            (folder / name).mkdir()
        _write_experiment(world)
        _run_undisturbed(world, "data", STAGES[:3])
        shutil.copy(world.reference.folder / "mlflow.db", folder)
        if training:
            _run_undisturbed(world, "train_prior", STAGES[:4])
        yield world
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end_whole_on_sigterm(folder: Path) -> None:
    """End all that was started, too: the threads that wait for it cannot be interrupted."""

    def end(*_: object) -> None:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)


def _write_experiment(world: World) -> None:
    import numpy as np

    from models.scenes.captions import caption_scene
    from models.scenes.render import render_scenes
    from models.scenes.scene import make_scenes
    from tests.factories import save_tiny_clip

    images = world.folder / "images"
    images.mkdir()
    scenes = make_scenes(IMAGES, seed=0)
    for index, pixels in enumerate(render_scenes(scenes, SIDE).numpy()):
        Image.fromarray(pixels).save(images / f"{index:04d}.png")
        if index % 2 == 0:
            caption = caption_scene(scenes[index], np.random.default_rng(index))
            (images / f"{index:04d}.txt").write_text(caption)
    clip = save_tiny_clip(world.folder / "clip")
    document = dict(EXPERIMENT)
    document["clip"] = {"models": [{"kind": "folder", "path": str(clip)}]}
    document["download_shards"] = EXPERIMENT["download_shards"] | {"source": {"kind": "folder", "path": str(images)}}
    world.config.write_text(yaml.safe_dump(document))


def _run_undisturbed(world: World, name: str, stages: Sequence[str]) -> None:
    for _ in range(_STARTS):
        begun = time.monotonic()
        run = world.start(world.reference.uri, stages)
        code = run.process.wait()
        run.end()
        if code == 0:
            world.seconds[name] = time.monotonic() - begun
            return
    raise SystemExit(f"the undisturbed run ended with {code}:\n{world.log.read_text()[-3000:]}")
