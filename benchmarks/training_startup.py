"""Print where the start-up of a training group goes: `python -m benchmarks.training_startup [workers] [--plain]`.

--plain measures Ray Train's own torch trainer with a plain `import deepspeed`, for comparison.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from cluster.ray_train import launch_with_ray_train
from cluster.session import session
from cluster.training import TrainGroup


def marks(plain: bool, emit: Callable[[Any], None]) -> list[tuple[str, float]]:
    """Do what every training process does before its first step, and note the time after each part."""
    found = [("Ray Train, processes, torch", time.time())]
    from stages.training.config import TrainingConfig
    from stages.training.engine import Engine, _deepspeed, join_group

    if plain:
        os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo")
        found.append(("import deepspeed, process group", time.time()))
    _deepspeed()
    rank_info = join_group(use_gpu=False)
    if not plain:
        found.append(("import deepspeed, process group", time.time()))
    model = torch.nn.Linear(4, 4)
    Engine(model, TrainingConfig(num_steps=1, batch_size=8), rank_info)
    found.append(("optimiser and engine", time.time()))
    return found


def plain_launch(workers: int) -> list[tuple[str, float]]:
    """Start the group in the way of Ray Train's manual."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with tempfile.TemporaryDirectory() as scratch:
        trainer = TorchTrainer(
            lambda: marks(True, lambda event: None),
            scaling_config=ScalingConfig(num_workers=workers),
            run_config=RunConfig(storage_path=scratch),
        )
        found: list[tuple[str, float]] = trainer.fit().return_value
    return found


def main() -> None:
    """Measure twice: the second time Ray is warm and files are in the page cache."""
    from benchmarks.training_startup import marks as importable  # by name, as a stage's function is

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workers", type=int, nargs="?", default=1)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.getcwd()
    with session(None, num_cpus=max(2, options.workers)):
        for _ in range(2):
            start = previous = time.time()
            if options.plain:
                found = plain_launch(options.workers)
            else:
                found = launch_with_ray_train(importable, False, TrainGroup(options.workers), lambda event: None)
            for name, at in [*found, ("end", time.time())]:
                print(f"{name:34s} {at - previous:6.2f} s")  # noqa: T201
                previous = at
            print(f"{'in all':34s} {previous - start:6.2f} s, load {os.getloadavg()[0]:.1f}")  # noqa: T201


if __name__ == "__main__":
    main()
