"""What the sides are given, how they are asked, and how they answer: names of works in, JSON lines out."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pipeline.config import load_config
from stages.artifacts import Artifact
from stages.train_decoder.latent_diffusion.config import LatentDiffusionConfig
from stages.train_decoder.pixel_diffusion.config import PixelDiffusionConfig


@dataclass(frozen=True)
class Case:
    """One comparison; ``warmup`` steps before the measured ones are not counted."""

    folder: str  # with the shards and the embeddings
    config: str
    latents_config: str
    steps: int
    warmup: int
    threads: int
    device: str

    def to_json(self) -> str:
        """Return the case as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_command_line(cls) -> "Case":
        """Read the case that this process was started with, and set up torch for it."""
        case = cls(**json.loads(sys.argv[1]))
        torch.set_num_threads(case.threads)
        torch.manual_seed(0)
        return case

    @property
    def inputs(self) -> dict[str, Artifact]:
        """The shards and their embeddings."""
        names = ("download_shards", "embed_clip")
        return {name: Artifact(str(Path(self.folder) / name), name, "bench") for name in names}

    @property
    def num_steps(self) -> int:
        """Steps of one training, the uncounted ones included."""
        return self.warmup + self.steps

    def decoder(self) -> PixelDiffusionConfig:
        """Return the decoder's section, with the steps of this case and nothing beside them to do."""
        section = load_config(self.config, self._overrides()).train_decoder
        assert isinstance(section, PixelDiffusionConfig)
        return section

    def latent_decoder(self) -> LatentDiffusionConfig:
        """Return the section of the decoder of latents."""
        section = load_config(self.latents_config).train_decoder
        assert isinstance(section, LatentDiffusionConfig)
        return section

    def _overrides(self) -> list[str]:
        training = {
            "num_steps": self.num_steps,
            "log_interval": self.warmup,
            "warmup_steps": 1,
            "checkpoint_interval": self.num_steps + 1,
            "validation_interval": "null",
        }
        other = ["train_decoder.held_out_images=8", "train_decoder.samples.num_images=1"]
        return [f"train_decoder.training.{name}={value}" for name, value in training.items()] + other


@dataclass(frozen=True)
class Timing:
    """How long the counted steps took, and what share of it the loop waited for data."""

    seconds: float
    cpu_seconds: float
    data_wait_share: float = 0.0


class Stopwatch:
    """Clock and CPU time since it was made, with the device's work done."""

    def __init__(self, device: str) -> None:
        """Start."""
        self._device = device
        self._settle()
        self._began, self._used = time.perf_counter(), time.process_time()

    def read(self) -> Timing:
        """Return the time so far."""
        self._settle()
        return Timing(time.perf_counter() - self._began, time.process_time() - self._used)

    def _settle(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


def serve(works: dict[str, Callable[[], Timing]]) -> None:
    """Do each work once, uncounted; then answer every line with the timing of its work done now."""
    for work in works.values():
        work()
    _answer({})
    for line in sys.stdin:
        _answer(asdict(works[line.strip()]()))


def _answer(found: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
